// Command xcaddy-build builds a Caddy binary from a JSON file, the JSON form of
// xcaddy.Builder:
//
//	go -C tools run ./xcaddy-build -config ../xcaddy.json -output ../caddy-presence
//
// The xcaddy command reads flags only, so a build that is kept in a repository needs
// something that hands its file to the xcaddy library. That is all this program does.
//
// A field that the Builder doesn't have is refused: a misspelt "replacements" would
// otherwise build a binary from the published module rather than from this checkout.
// Relative paths in the file are relative to the file. xcaddy.json names a version of the
// module, although it is replaced, because without one the go command asks the module
// proxy which versions exist, and fails if that knows of none.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/caddyserver/xcaddy"
	"golang.org/x/mod/modfile"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	config := flag.String("config", "xcaddy.json", "what to build: a `file`")
	output := flag.String("output", "caddy-presence", "the binary to write: a `file`")
	flag.Parse()
	if err := build(ctx, *config, *output); err != nil {
		fmt.Fprintln(os.Stderr, "xcaddy-build:", err)
		os.Exit(1)
	}
}

// build builds what the config file describes. xcaddy logs how it goes.
func build(ctx context.Context, config, output string) error {
	b, err := load(config)
	if err != nil {
		return err
	}
	if err := b.Build(ctx, output); err != nil {
		return fmt.Errorf("building %s: %w", output, err)
	}
	return nil
}

// load reads a Builder. Its relative paths become absolute, since xcaddy runs the build in
// a temporary folder.
func load(name string) (b xcaddy.Builder, err error) {
	text, err := os.ReadFile(name) //nolint:gosec // G304: the user names the file with -config
	if err != nil {
		return b, fmt.Errorf("reading what to build: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&b); err != nil {
		return b, fmt.Errorf("decoding %s, the JSON form of xcaddy.Builder: %w", name, err)
	}
	if len(b.Plugins) == 0 {
		return b, fmt.Errorf("decoding %s: no plugins, the binary would be plain Caddy", name)
	}
	dir, err := filepath.Abs(filepath.Dir(name))
	if err != nil {
		return b, fmt.Errorf("finding the folder of %s: %w", name, err)
	}
	for i, r := range b.Replacements {
		// By the go command's rule. What is no path is another module, and stays.
		if path := string(r.New); modfile.IsDirectoryPath(path) && !filepath.IsAbs(path) {
			b.Replacements[i].New = xcaddy.ReplacementPath(filepath.Join(dir, path))
		}
	}
	for i, embedded := range b.EmbedDirs {
		if !filepath.IsAbs(embedded.Dir) {
			b.EmbedDirs[i].Dir = filepath.Join(dir, embedded.Dir)
		}
	}
	return b, nil
}
