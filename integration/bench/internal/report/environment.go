package report

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/contender"
)

// Environment is where and with what a run was made.
type Environment struct {
	Date       string
	Commit     string
	Size       string
	Took       string
	CPU        string
	Cores      int
	Kernel     string
	Go         string
	Generator  string
	Contenders []string
}

// Machine finds out about this machine and the sidecar.
func Machine(ctx context.Context) Environment {
	return Environment{
		Date:       time.Now().UTC().Format(time.DateOnly),
		Commit:     output(ctx, "git", "describe", "--always", "--dirty"),
		CPU:        processor(),
		Cores:      runtime.NumCPU(),
		Kernel:     output(ctx, "uname", "-sr"),
		Go:         runtime.Version(),
		Contenders: modules(contender.CaddyPresence),
	}
}

// Survey finds out about this machine and all contenders on it.
func Survey(ctx context.Context) Environment {
	e := Machine(ctx)
	e.Contenders = slices.Concat(e.Contenders, modules(contender.CaddyPeers), version(ctx, contender.Nginx, "-v"), version(ctx, contender.Varnish, "-V"))
	return e
}

// Text is the environment in a paragraph for the documentation.
func (e Environment) Text() string {
	commit := ""
	if e.Commit != "" {
		commit = ", commit " + e.Commit
	}
	return fmt.Sprintf("Measured on %s%s, size %s (%s), on %d cores of %s, %s, %s; load by %s. Contenders: %s.",
		e.Date, commit, e.Size, e.Took, e.Cores, e.CPU, e.Kernel, e.Go, e.Generator, strings.Join(e.Contenders, ", "))
}

func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range bytes.Lines(text) {
		if name, ok := bytes.CutPrefix(line, []byte("model name")); ok {
			return string(bytes.TrimSpace(bytes.TrimLeft(name, " \t:")))
		}
	}
	return runtime.GOARCH
}

// compared are the modules whose version matters.
var compared = []string{
	"github.com/caddyserver/caddy/v2", "github.com/mholt/caddy-ratelimit",
	"github.com/caddyserver/cache-handler", "github.com/darkweak/souin", "github.com/darkweak/storages/core",
}

// modules reads the versions of what a binary was built from.
func modules(p contender.Program) (versions []string) {
	path, err := p.Find(nil)
	if err != nil {
		return nil
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return nil
	}
	for _, module := range info.Deps {
		isCaddy := module.Path == compared[0]
		if slices.Contains(compared, module.Path) && (p == contender.CaddyPresence) == isCaddy {
			versions = append(versions, strings.TrimPrefix(module.Path, "github.com/")+" "+module.Version)
		}
	}
	return versions
}

var versionNumber = regexp.MustCompile(`\d+\.\d+[.\d]*`)

// version asks a program for its version.
func version(ctx context.Context, p contender.Program, flag string) []string {
	path, err := p.Find(nil)
	if err != nil {
		return nil
	}
	return []string{string(p) + " " + versionNumber.FindString(output(ctx, path, flag))}
}

// output runs a command for its first words, and is empty if it fails.
func output(ctx context.Context, name string, args ...string) string {
	text, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
