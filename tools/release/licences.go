package main

import (
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
)

// licences collects the licences of all modules in a binary, and of Go itself: most of them
// ask to be shown with each copy.
func licences(binary string) ([]byte, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, fmt.Errorf("reading which modules are in the program: %w", err)
	}
	var modules []string
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		if m.Version == "" || m.Version == "(devel)" {
			continue // a folder of this checkout, under the licence of all of it
		}
		modules = append(modules, m.Path+"@"+m.Version)
	}
	dirs, err := download(modules)
	if err != nil {
		return nil, err
	}
	root, err := goRoot()
	if err != nil {
		return nil, err
	}
	dirs["Go "+info.GoVersion] = root

	names := make([]string, 0, len(dirs))
	for name := range dirs {
		names = append(names, name)
	}
	sort.Strings(names)
	var text bytes.Buffer
	for _, name := range names {
		if err := writeLicences(&text, name, dirs[name]); err != nil {
			return nil, err
		}
	}
	return text.Bytes(), nil
}

// goRoot is where Go's own licence is.
func goRoot() (string, error) {
	out, err := output(exec.Command("go", "env", "GOROOT"))
	if err != nil {
		return "", fmt.Errorf("asking for GOROOT with %s: %w", runtime.Version(), err)
	}
	return strings.TrimSpace(string(out)), nil
}

// download returns the folder of each module, from Go's module cache.
func download(modules []string) (map[string]string, error) {
	out, err := output(exec.Command("go", append([]string{"mod", "download", "-json"}, modules...)...)) //nolint:gosec // G204: the modules of the program
	if err != nil {
		return nil, fmt.Errorf("finding the modules: %w", err)
	}
	dirs := make(map[string]string)
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var m struct{ Path, Version, Dir string }
		if err := decoder.Decode(&m); errors.Is(err, io.EOF) {
			return dirs, nil
		} else if err != nil {
			return nil, fmt.Errorf("finding the modules: %w", err)
		}
		dirs[m.Path+" "+m.Version] = m.Dir
	}
}

// writeLicences writes what a module's folder says of its licence. One without a word is
// an error: then somebody has to look.
func writeLicences(text *bytes.Buffer, name, dir string) error {
	found := false
	for _, pattern := range []string{"LICENSE*", "LICENCE*", "License*", "license*", "COPYING*", "NOTICE*"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		for _, file := range files {
			content, err := os.ReadFile(file) //nolint:gosec // G304: a file of Go's module cache
			if err != nil {
				continue // a folder of licences
			}
			found = true
			fmt.Fprintf(text, "=== %s: %s\n\n%s\n\n", name, filepath.Base(file), bytes.TrimSpace(content))
		}
	}
	if !found {
		return fmt.Errorf("%s has no licence in %s", name, dir)
	}
	return nil
}
