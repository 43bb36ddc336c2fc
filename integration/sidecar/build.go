package sidecar

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/checkout"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/progress"
)

// built is the outcome of the one build of this process.
var built struct {
	once   sync.Once
	binary string
	err    error
}

// Build builds ./cmd/caddy-presence and returns the binary's path. Only the
// first call in a process builds; it reports to out if that takes long.
func Build(out io.Writer) (string, error) {
	built.once.Do(func() {
		built.err = progress.While(out, "building the sidecar; the first time this takes a minute or two", func() (err error) {
			built.binary, err = build()
			return err
		})
	})
	return built.binary, built.err
}

// build leaves the binary in the user's cache folder, named after the checkout,
// because the go command does not link again what is up to date: a second run
// starts at once. The command's temporary folder is there too, so that its last
// step is a rename, and two test binaries that build at the same time don't see
// half a file.
func build() (string, error) {
	root, err := checkout.Root()
	if err != nil {
		return "", err
	}
	cache, err := checkout.CacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(root))
	binary := filepath.Join(cache, "caddy-presence-"+hex.EncodeToString(sum[:6]))

	// As make build does it: what is tested is what people run, and whoever has
	// done one need not wait for the other.
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-tags", "nobadger,nomysql,nopgx",
		"-o", binary, ".")
	cmd.Dir = filepath.Join(root, "cmd", "caddy-presence")
	cmd.Env = append(checkout.GoEnv(), "CGO_ENABLED=0", "GOTMPDIR="+cache)
	if _, err := checkout.Output(cmd); err != nil {
		return "", fmt.Errorf("building the sidecar: %w", err)
	}
	return binary, nil
}
