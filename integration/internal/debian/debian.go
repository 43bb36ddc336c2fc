// Package debian gets servers that tests run from Debian's packages, without installing
// them: nothing of the machine changes, and no service starts.
package debian

import (
	"context"
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

// ErrUnavailable is part of the error where a program isn't there and can't be got.
var ErrUnavailable = errors.New("not there, and Debian's packages can't be had")

// Lock is the name of the lock of all who use apt-get, two of which can't get lists at the same time.
const Lock = "apt.lock"

// Command returns a command of a program that is in the first package; the others hold
// libraries that it needs. A program that is installed is taken as it is. Otherwise the
// packages are downloaded by apt-get and unpacked into the folder that outlives a run.
func Command(ctx context.Context, out io.Writer, program string, packages ...string) (func(args ...string) *exec.Cmd, error) {
	if path, err := exec.LookPath(program); err == nil {
		return func(args ...string) *exec.Cmd { return exec.CommandContext(ctx, path, args...) }, nil
	}
	cache, err := checkout.CacheDir()
	if err != nil {
		return nil, err
	}
	root := filepath.Join(cache, "debian-"+packages[0])
	if _, err := os.Stat(root); err != nil {
		err := progress.While(out, "downloading Debian's "+packages[0], func() error { return unpack(ctx, cache, root, packages) })
		if err != nil {
			return nil, fmt.Errorf("getting %s: %w: %w", program, ErrUnavailable, err)
		}
	}
	return inside(ctx, root, program)
}

// CommandOfAll is Command for a program whose libraries are too many to be named: the packages are
// those that apt-get would install with the one that has the program.
func CommandOfAll(ctx context.Context, out io.Writer, program, pkg string) (func(args ...string) *exec.Cmd, error) {
	packages := []string{pkg}
	if _, err := exec.LookPath(program); err != nil {
		unlock, err := checkout.Lock(Lock)
		if err != nil {
			return nil, err
		}
		needed, err := needed(ctx, pkg)
		unlock()
		if err != nil {
			return nil, fmt.Errorf("getting %s: %w: %w", program, ErrUnavailable, err)
		}
		packages = append(packages, needed...)
	}
	return Command(ctx, out, program, packages...)
}

// needed returns what apt-get would install with a package.
func needed(ctx context.Context, pkg string) (packages []string, err error) {
	simulate := func() (string, error) {
		return checkout.Output(exec.CommandContext(ctx, "apt-get", "-qq", "--simulate", "--no-install-recommends", "install", pkg))
	}
	plan, err := simulate()
	if err != nil {
		// A new machine has no lists yet.
		if updateErr := run(ctx, "", "apt-get", "-qq", "update"); updateErr != nil {
			return nil, errors.Join(err, updateErr)
		}
		if plan, err = simulate(); err != nil {
			return nil, err
		}
	}
	for line := range strings.Lines(plan) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == "Inst" && words[1] != pkg {
			packages = append(packages, words[1])
		}
	}
	return packages, nil
}

// inside returns a command of a program in an unpacked package.
func inside(ctx context.Context, root, program string) (func(args ...string) *exec.Cmd, error) {
	// A script in usr/bin may look for the program at its place in the machine's root.
	for _, dir := range []string{"usr/lib/" + program, "usr/sbin", "usr/bin"} {
		path := filepath.Join(root, dir, program)
		if _, err := os.Stat(path); err != nil {
			continue
		}
		libraries, err := filepath.Glob(filepath.Join(root, "usr/lib/*-linux-gnu"))
		if err != nil {
			return nil, err
		}
		return func(args ...string) *exec.Cmd {
			cmd := exec.CommandContext(ctx, path, args...)
			cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+strings.Join(libraries, ":"))
			return cmd
		}, nil
	}
	return nil, fmt.Errorf("finding %s in %s: %w", program, root, os.ErrNotExist)
}

// unpack downloads packages and unpacks them into root, or leaves nothing there.
func unpack(ctx context.Context, cache, root string, packages []string) error {
	unlock, err := checkout.Lock(Lock)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(root); err == nil {
		return nil // another test was first
	}
	temp, err := os.MkdirTemp(cache, "debian-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	download := func() error {
		return run(ctx, temp, "apt-get", append([]string{"-qq", "download"}, packages...)...)
	}
	if err := download(); err != nil {
		// A new machine has no lists yet.
		if updateErr := run(ctx, temp, "apt-get", "-qq", "update"); updateErr != nil {
			return errors.Join(err, updateErr)
		}
		if err := download(); err != nil {
			return err
		}
	}
	debs, err := filepath.Glob(filepath.Join(temp, "*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range debs {
		if err := run(ctx, temp, "dpkg-deb", "--extract", deb, "root"); err != nil {
			return err
		}
	}
	return os.Rename(filepath.Join(temp, "root"), root)
}

func run(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	_, err := checkout.Output(cmd)
	return err
}
