package caddymodule

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// checkedFile is a Caddyfile that is legal, as a tree: snippets and imports are put in, and what
// stands in them keeps its own file and line.
type checkedFile struct {
	global *directive // its block is empty if there is none
	sites  []*directive

	// homeservers are those of a running Caddy that was asked. One that it doesn't know yet is empty.
	homeservers []string
}

// directive is one with its arguments and its block, or a site with its addresses, or an option.
type directive struct {
	name  string
	args  []string
	block []*directive
	file  string
	line  int
}

// readCheckedFile reads a Caddyfile. It is adapted first, for its mistakes to be told as Caddy tells
// them.
func readCheckedFile(name string, text []byte) (*checkedFile, error) {
	if _, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(text, map[string]any{"filename": name}); err != nil {
		return nil, fmt.Errorf("adapting: %w", err)
	}
	blocks, err := caddyfile.Parse(name, text)
	if err != nil {
		return nil, err
	}
	file := &checkedFile{global: new(directive)}
	for _, block := range blocks {
		var tokens []caddyfile.Token
		for _, segment := range block.Segments {
			tokens = append(tokens, segment...)
		}
		inside, _ := readDirectives(tokens)
		switch {
		case len(block.Keys) == 0:
			file.global = &directive{block: inside}
		case !block.IsNamedRoute:
			first := block.Keys[0]
			file.sites = append(file.sites, &directive{
				name: first.Text, args: block.GetKeysText(), block: inside, file: first.File, line: first.Line,
			})
		}
	}
	return file, nil
}

// readDirectives reads directives until the end of the block that they are in, and returns how many
// tokens that took.
func readDirectives(tokens []caddyfile.Token) (read []*directive, n int) {
	for n < len(tokens) {
		first := tokens[n]
		n++
		if first.Text == "}" {
			return read, n
		}
		d := &directive{name: first.Text, file: first.File, line: first.Line}
		read = append(read, d)
		for n < len(tokens) && tokens[n].Line == first.Line && tokens[n].File == first.File {
			text := tokens[n].Text
			n++
			if text == "{" {
				var took int
				d.block, took = readDirectives(tokens[n:])
				n += took
				break
			}
			d.args = append(d.args, text)
		}
	}
	return read, n
}

// all returns the directives of these names in the block.
func (d *directive) all(names ...string) (found []*directive) {
	for _, inner := range d.block {
		if slices.Contains(names, inner.name) {
			found = append(found, inner)
		}
	}
	return found
}

// deep is all, in the blocks of the block too.
func (d *directive) deep(names ...string) (found []*directive) {
	found = d.all(names...)
	for _, inner := range d.block {
		found = append(found, inner.deep(names...)...)
	}
	return found
}

// option returns the first argument of an option in the block, or "".
func (d *directive) option(name string) string {
	for _, inner := range d.all(name) {
		if len(inner.args) > 0 {
			return inner.args[0]
		}
	}
	return ""
}

// says reports whether a word stands somewhere in the block.
func (d *directive) says(word string) bool {
	return slices.Contains(d.args, word) || slices.ContainsFunc(d.block, func(inner *directive) bool {
		return inner.name == word || inner.says(word)
	})
}

// mayMatch reports whether a matcher that begins the arguments may match a request for a presence.
func (d *directive) mayMatch() bool {
	const presence = "/_matrix/client/"
	if len(d.args) == 0 || !strings.HasPrefix(d.args[0], "/") {
		return true
	}
	prefix, isPrefix := strings.CutSuffix(d.args[0], "*")
	return strings.HasPrefix(prefix, presence) || isPrefix && strings.HasPrefix(presence, prefix)
}
