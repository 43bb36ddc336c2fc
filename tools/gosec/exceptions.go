package main

import (
	"path/filepath"
	"strings"

	"github.com/securego/gosec/v2/issue"
)

// exception allows one rule under one path.
type exception struct {
	rule string
	path string // a file or a folder, from the root of the checkout
	why  string
}

// What is under integration, the most of these, runs on developers' machines and in the continuous
// integration, with arguments of its own and as their user. No part of it is in
// the plugin or in the sidecar.
var exceptions = []exception{
	{"G104", "integration", "errors of closing, removing and killing, after which nothing else could be done, and of buffered writers, whose Flush tells"},
	{"G204", "integration", "it is there to start homeservers, proxies and the go command"},
	{"G304", "integration", "the files are its own, or named by the developer who starts it"},
	{"G703", "integration", "the same, followed through variables"},
	{"G301", "integration", "folders of caches, without secrets"},
	{"G302", "integration", "files of caches, without secrets"},
	{"G306", "integration", "reports and marks in caches, without secrets"},
	{"G404", "internal/testkit", "a test is repeated by its seed"},
	{"G404", "integration", "a run is repeated by its seed; nothing rests on what can't be guessed"},
	{"G101", "integration", "names of variables, and tokens of users that only a test knows"},
	{"G112", "integration", "scripted homeservers live for one run, on loopback"},
	{"G705", "integration", "scripted homeservers send back what the test stored in them; no browser is there"},
	{"G115", "integration/bench/internal/traffic", "numbers of simulated users, far below any type's end"},
	{"G115", "integration/soak", "seeds, and numbers of simulated users and of requests, far below any type's end"},
	{"G505", "integration/homeserver/client.go", "Synapse's registration by shared secret is an HMAC with SHA-1"},
}

func (e exception) covers(root string, found *issue.Issue) bool {
	name, err := filepath.Rel(root, found.File)
	if err != nil || found.RuleID != e.rule {
		return false
	}
	name = filepath.ToSlash(name)
	return name == e.path || strings.HasPrefix(name, e.path+"/")
}
