package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// checksums writes SHA256SUMS over all artefacts, for "sha256sum --check".
func (r release) checksums() error {
	files, err := filepath.Glob(r.artefact("*"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("no artefacts in %s: %w", r.Dist, fs.ErrNotExist)
	}
	var sums bytes.Buffer
	for _, file := range files { // in alphabetical order
		content, err := os.ReadFile(file) //nolint:gosec // G304: an artefact
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(content), filepath.Base(file))
	}
	name := filepath.Join(r.Dist, "SHA256SUMS")
	say("%s", name)
	return os.WriteFile(name, sums.Bytes(), 0o644) //nolint:gosec // G306: everybody reads it
}
