package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/checkout"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "leakcheck:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("name the module's folder, and then flags for `go test`")
	}
	module, flags := args[0], args[1:]
	packages, err := tested(module)
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "leakcheck-")
	if err != nil {
		return fmt.Errorf("making a folder: %w", err)
	}
	defer os.RemoveAll(scratch)
	overlay, err := writeOverlay(scratch, packages)
	if err != nil {
		return err
	}
	modfile, err := writeModfile(scratch, module)
	if err != nil {
		return err
	}

	fmt.Fprintf(out, "%s: go test with goleak, %d packages\n", module, len(packages))
	command := append([]string{"test", "-overlay", overlay, "-modfile", modfile, "-mod=mod"}, flags...)
	for _, p := range packages {
		command = append(command, p.ImportPath)
	}
	cmd := exec.CommandContext(ctx, "go", command...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = module, checkout.GoEnv(), out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("testing %s: %w", module, err)
	}
	return nil
}

// writeModfile copies the module's go.mod and go.sum into the folder, with goleak
// required in the version that this module requires.
func writeModfile(folder, module string) (string, error) {
	root, err := checkout.Root()
	if err != nil {
		return "", err
	}
	own := filepath.Join(root, "integration")
	list := exec.Command("go", "list", "-m", "-f", "{{.Path}}@{{.Version}}", "go.uber.org/goleak")
	list.Dir, list.Env = own, checkout.GoEnv()
	goleak, err := checkout.Output(list)
	if err != nil {
		return "", fmt.Errorf("finding the version of goleak: %w", err)
	}

	text, err := os.ReadFile(filepath.Join(module, "go.mod"))
	if err != nil {
		return "", err
	}
	modfile := filepath.Join(folder, "go.mod")
	if err := os.WriteFile(modfile, text, 0o600); err != nil {
		return "", err
	}
	edit := exec.Command("go", "mod", "edit", "-require="+goleak, modfile)
	edit.Env = checkout.GoEnv()
	if _, err := checkout.Output(edit); err != nil {
		return "", fmt.Errorf("adding goleak to a copy of go.mod: %w", err)
	}

	// The sums of both, so that nothing is asked of the network.
	var sums []byte
	for _, dir := range []string{module, own} {
		text, err := os.ReadFile(filepath.Join(dir, "go.sum"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		sums = append(sums, text...)
	}
	return modfile, os.WriteFile(filepath.Join(folder, "go.sum"), sums, 0o600)
}
