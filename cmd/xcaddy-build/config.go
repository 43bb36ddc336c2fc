package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/caddyserver/xcaddy"
	"golang.org/x/mod/modfile"
)

// loadConfig reads the Builder that the named file describes, with the file's
// relative paths made absolute: xcaddy runs the build in a temporary folder,
// where a relative one would mean something else.
func loadConfig(name string) (xcaddy.Builder, error) {
	text, err := os.ReadFile(name) // #nosec G304 -- the user names the file with --config
	if errors.Is(err, fs.ErrNotExist) {
		return xcaddy.Builder{}, fmt.Errorf("reading the build's description: %w (run this in the folder that holds xcaddy.json, or name the file with --config)", err)
	}
	if err != nil {
		return xcaddy.Builder{}, fmt.Errorf("reading the build's description: %w", err)
	}
	b, err := decodeConfig(name, text)
	if err != nil {
		return xcaddy.Builder{}, err
	}
	dir, err := filepath.Abs(filepath.Dir(name))
	if err != nil {
		return xcaddy.Builder{}, fmt.Errorf("finding the folder of %s: %w", name, err)
	}
	absolutePaths(&b, dir)
	return b, nil
}

// decodeConfig decodes one Builder and refuses whatever xcaddy would ignore or
// trip over later. The name is for messages only.
func decodeConfig(name string, text []byte) (xcaddy.Builder, error) {
	var b xcaddy.Builder
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&b); err != nil {
		return b, decodeError(name, text, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return b, fmt.Errorf("decoding %s: nothing may follow the closing brace", name)
	}
	if len(b.Plugins) == 0 {
		return b, fmt.Errorf("decoding %s: no plugins: the binary would be plain Caddy", name)
	}
	for i, p := range b.Plugins {
		if p.PackagePath == "" {
			return b, fmt.Errorf("decoding %s: plugins[%d] has no module_path", name, i)
		}
	}
	for i, r := range b.Replacements {
		if r.Old == "" || r.New == "" {
			return b, fmt.Errorf("decoding %s: replacements[%d] needs both old and new", name, i)
		}
	}
	return b, nil
}

// decodeError names the file, and the line where encoding/json knows it.
func decodeError(name string, text []byte, err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.Is(err, io.EOF):
		return fmt.Errorf("decoding %s: the file is empty", name)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("decoding %s: the file ends inside the object", name)
	case errors.As(err, &syntax):
		return fmt.Errorf("decoding %s:%d: %w", name, lineAt(text, syntax.Offset), err)
	case errors.As(err, &kind):
		return fmt.Errorf("decoding %s:%d: %s can't be a JSON %s, it is a Go %s",
			name, lineAt(text, kind.Offset), kind.Field, kind.Value, kind.Type)
	}
	if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return fmt.Errorf("decoding %s: unknown field %s (the fields are those of xcaddy.Builder's JSON form)", name, field)
	}
	return fmt.Errorf("decoding %s: %w", name, err)
}

// lineAt returns the line, counted from 1, of the byte at offset.
func lineAt(text []byte, offset int64) int {
	return 1 + bytes.Count(text[:min(int(offset), len(text))], []byte("\n"))
}

// absolutePaths anchors the Builder's relative paths to dir. A replacement is a
// path by the go command's own rule (it begins with ./ or ../ or is rooted) and
// otherwise another module, which is left alone.
func absolutePaths(b *xcaddy.Builder, dir string) {
	anchor := func(path string) string {
		if filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(dir, path)
	}
	for i, r := range b.Replacements {
		if modfile.IsDirectoryPath(string(r.New)) {
			b.Replacements[i].New = xcaddy.ReplacementPath(anchor(string(r.New)))
		}
	}
	for i := range b.EmbedDirs {
		b.EmbedDirs[i].Dir = anchor(b.EmbedDirs[i].Dir)
	}
}
