package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "xcaddy.json")
	if err := os.WriteFile(config, []byte(`{"plugins": [{"module_path": "example.com/p"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		args   []string
		status int
		want   string
	}{
		{"help", []string{"--help"}, 0, "Examples:"},
		{"an unknown flag", []string{"--outptu", "x"}, 2, "flag provided but not defined: -outptu"},
		{"a file without its flag", []string{"xcaddy.json"}, 2, `unexpected argument "xcaddy.json"`},
		{"a missing file", []string{"--config", filepath.Join(dir, "no.json")}, 1, "name the file with --config"},
		{"a folder as the binary", []string{"--config", config, "--output", dir}, 1, "it is a folder"},
		{"a binary in no folder", []string{"--config", config, "--output", filepath.Join(dir, "no", "caddy")}, 1, "its folder doesn't exist"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var stderr strings.Builder
			if status := run(t.Context(), test.args, &stderr); status != test.status {
				t.Errorf("exit status %d, want %d", status, test.status)
			}
			if !strings.Contains(stderr.String(), test.want) {
				t.Errorf("said %q, want %q in it", stderr.String(), test.want)
			}
		})
	}
}

func TestASignalStopsTheBuild(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	output := filepath.Join(t.TempDir(), "caddy")
	var stderr strings.Builder
	if status := run(ctx, []string{"--config", "../../xcaddy.json", "--output", output}, &stderr); status != 130 {
		t.Errorf("exit status %d, want 130", status)
	}
	if want := `stopping while "go mod" ran: context canceled`; !strings.Contains(stderr.String(), want) {
		t.Errorf("said %q, want %q in it", stderr.String(), want)
	}
}

// The real thing: xcaddy builds this checkout from the repository's file, and
// the binary has the handler in it. It takes a minute on two cores.
func TestTheBuiltBinaryHasTheHandler(t *testing.T) {
	if testing.Short() {
		t.Skip("builds all of Caddy")
	}
	output := filepath.Join(t.TempDir(), "caddy-presence")
	if status := run(t.Context(), []string{"--config", "../../xcaddy.json", "--output", output}, t.Output()); status != 0 {
		t.Fatalf("exit status %d", status)
	}
	modules, err := exec.CommandContext(t.Context(), output, "list-modules", "--skip-standard").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(strings.Fields(string(modules)), "http.handlers.matrix_presence") {
		t.Errorf("the binary has these modules beyond Caddy's own:\n%s", modules)
	}
}
