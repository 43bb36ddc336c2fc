// Package checkout finds the repository that the running test or program
// belongs to, so that binaries are built from the sources beside it.
package checkout

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// module is the module that this package is part of.
const module = "github.com/caddy-matrix/caddy-matrix-presence/integration"

// Root returns the repository's root folder. It asks the go command rather than
// runtime.Caller, because a binary built with -trimpath forgets its sources.
var Root = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module)
	cmd.Env = GoEnv()
	dir, err := Output(cmd)
	if err != nil {
		return "", fmt.Errorf("finding the checkout (run this inside integration/): %w", err)
	}
	return filepath.Dir(dir), nil
})

// CacheDir returns the folder that outlives a run, and makes it.
func CacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the user's cache folder: %w", err)
	}
	dir := filepath.Join(base, "caddy-matrix-presence")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("making the cache folder: %w", err)
	}
	return dir, nil
}

// Lock waits until no other process holds the lock of a name: test binaries of several packages come
// at the same time for what one of them has to get. The kernel drops it with the process.
func Lock(name string) (unlock func(), err error) {
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(cache, name), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", name, err)
	}
	return func() { f.Close() }, nil
}

// GoEnv is the environment for go commands: a workspace file somewhere above the
// checkout must not change what is built.
func GoEnv() []string { return append(os.Environ(), "GOWORK=off") }

// Output runs a command and returns its standard output; what it wrote to
// standard error becomes part of the error.
func Output(cmd *exec.Cmd) (string, error) {
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), withStderr(err)
}

func withStderr(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w\n%s", err, bytes.TrimSpace(exit.Stderr))
	}
	return err
}
