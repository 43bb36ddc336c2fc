package homeserver

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/checkout"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/progress"
)

// requirements pins Synapse and all that it needs, also for PostgreSQL and Redis: pip freeze of an
// environment that worked. With txredisapi 1.6.0 Synapse doesn't start.
//
//go:embed requirements.txt
var requirements []byte

// ErrUnavailable says that this machine can't have a Synapse: no Python 3.10 or
// newer, or no package index. Its chain holds the cause.
var ErrUnavailable = errors.New("synapse is not available here")

// unavailable is ErrUnavailable with its cause in one line, so that a skipped
// test is one line too: pip's last words are the ones that matter.
type unavailable struct{ cause error }

func (u unavailable) Error() string {
	first, rest, _ := strings.Cut(u.cause.Error(), "\n")
	if last := rest[strings.LastIndexByte(rest, '\n')+1:]; last != "" {
		first += ": " + last
	}
	return ErrUnavailable.Error() + ": " + first
}

func (u unavailable) Unwrap() []error { return []error{ErrUnavailable, u.cause} }

// InstallSynapse returns the path of a Python interpreter that has Synapse, and
// makes its virtual environment first if it is not there.
func InstallSynapse(ctx context.Context, out io.Writer) (python string, err error) {
	cache, err := checkout.CacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(requirements)
	venv := filepath.Join(cache, "synapse-"+hex.EncodeToString(sum[:6]))
	python = filepath.Join(venv, "bin", "python")

	// Test binaries of several packages come here at the same time.
	unlock, err := checkout.Lock(filepath.Base(venv) + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()

	// The marker is written last: a folder without it is what an interrupted
	// installation left.
	complete := filepath.Join(venv, ".complete")
	if _, err := os.Stat(complete); err == nil {
		return python, nil
	}
	err = progress.While(out, "installing Synapse; the first time this takes a minute", func() error {
		return makeVenv(ctx, venv)
	})
	if err != nil {
		os.RemoveAll(venv)
		return "", unavailable{err}
	}
	if err := os.WriteFile(complete, nil, 0o644); err != nil {
		return "", fmt.Errorf("marking the environment as complete: %w", err)
	}
	return python, nil
}

func makeVenv(ctx context.Context, venv string) error {
	const version = "import sys; sys.exit('python %d.%d is older than 3.10' % sys.version_info[:2] if sys.version_info < (3, 10) else 0)"
	if _, err := checkout.Output(exec.CommandContext(ctx, "python3", "-c", version)); err != nil {
		return fmt.Errorf("looking for python: %w", err)
	}
	if _, err := checkout.Output(exec.CommandContext(ctx, "python3", "-m", "venv", "--clear", venv)); err != nil {
		return fmt.Errorf("making a virtual environment: %w", err)
	}
	list := filepath.Join(venv, "requirements.txt")
	if err := os.WriteFile(list, requirements, 0o644); err != nil {
		return fmt.Errorf("writing the requirements: %w", err)
	}
	pip := exec.CommandContext(ctx, filepath.Join(venv, "bin", "python"), "-m", "pip", "install",
		"--quiet", "--disable-pip-version-check", "-r", list)
	if _, err := checkout.Output(pip); err != nil {
		return fmt.Errorf("installing from the package index: %w", err)
	}
	return nil
}
