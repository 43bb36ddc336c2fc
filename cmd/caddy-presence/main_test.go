package main

import (
	"runtime/debug"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"), // looks every five seconds whether it may end
	)
}

func TestTheVersionNamesTheCommit(t *testing.T) {
	checkout := &debug.BuildInfo{
		Main:     debug.Module{Version: "(devel)"},
		Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}},
	}
	published := &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}
	for _, test := range []struct {
		version, commit string
		info            *debug.BuildInfo
		want            string
	}{
		{"0.1.0", "0123", published, "caddy-presence 0.1.0 (commit 0123), Caddy"},      // make build
		{"", "", published, "caddy-presence 1.2.3, Caddy"},                             // go install …@v1.2.3
		{"", "", checkout, "caddy-presence of an unknown version (commit abc), Caddy"}, // go build
		{"", "", nil, "caddy-presence of an unknown version, Caddy"},
	} {
		if got := describe(test.version, test.commit, test.info); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}
