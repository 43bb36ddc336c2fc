// Package caddyfile_adapt holds golden Caddyfiles: for each option the JSON that
// the finished program makes of it, for each mistake what it says.
//
// A file is a Caddyfile, a line of ten dashes, and the expected JSON, or the
// expected error for files named refused_*. To write the expectations anew after
// a change, look at what the program says and at the difference:
//
//	go test ./caddyfile_adapt -update && git diff caddyfile_adapt
package caddyfile_adapt

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

var update = flag.Bool("update", false, "write the expectations anew")

const separator = "----------\n"

func TestCaddyfiles(t *testing.T) {
	binary, err := sidecar.Build(os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(file, ".caddyfiletest"), func(t *testing.T) {
			golden, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			input, want, ok := strings.Cut(string(golden), separator)
			if !ok {
				t.Fatalf("%s has no line %q", file, separator)
			}
			got := adapt(t, binary, input, strings.HasPrefix(file, "refused_"))
			if *update {
				if err := os.WriteFile(file, []byte(input+separator+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// adapt returns what the program prints: the JSON, or its error if it refuses.
func adapt(t *testing.T, binary, input string, refused bool) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Caddyfile"), []byte(input), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(binary, "adapt", "--config", "Caddyfile", "--adapter", "caddyfile", "--pretty")
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
	err := cmd.Run()
	if refused != (err != nil) {
		t.Fatalf("adapting: %v\n%s", err, &stderr)
	}
	if !refused {
		return stdout.String()
	}
	for line := range strings.Lines(stderr.String()) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Level == "error" {
			return entry.Msg + "\n"
		}
	}
	t.Fatalf("refused without an error in the log:\n%s", &stderr)
	return ""
}
