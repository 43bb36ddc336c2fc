package release_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/checkout"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

var (
	dist  = flag.String("dist", "", "the `folder` of `make release`")
	again = flag.String("again", "", "the `folder` of a second `make release`, of the same commit in another checkout")
)

func TestMain(m *testing.M) { suite.Main(m) }

// artefact returns the one file in the folder of artefacts that matches a pattern. In it,
// ARCH is this machine's architecture.
func artefact(t *testing.T, pattern string) string {
	t.Helper()
	if *dist == "" {
		t.Skip("nothing to try: make release-test runs this")
	}
	if os.Getuid() != 0 {
		t.Fatal("trying packages and images takes root: chroot, and files of other users")
	}
	found, err := filepath.Glob(filepath.Join(*dist, strings.ReplaceAll(pattern, "ARCH", runtime.GOARCH)))
	if err != nil || len(found) != 1 {
		t.Fatalf("looking for %s in %s: found %q, %v", pattern, *dist, found, err)
	}
	return found[0]
}

// run runs a command and returns what it wrote, its errors included.
func run(t *testing.T, words ...string) string {
	t.Helper()
	out, err := try(words...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(words, " "), err, out)
	}
	return out
}

// try is run for a command that may fail.
func try(words ...string) (string, error) {
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// debian is a folder with a Debian.
type debian struct {
	t    *testing.T
	root string
}

// newDebian returns a clean Debian with systemd in it. The first is downloaded by
// debootstrap, into the folder that outlives a run; each test gets a copy.
func newDebian(t *testing.T) debian {
	t.Helper()
	cache, err := checkout.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	clean := filepath.Join(cache, "debian-bookworm-"+runtime.GOARCH)
	if _, err := os.Stat(clean); err != nil {
		temp, err := os.MkdirTemp(cache, "debian-")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(temp)
		t.Log("downloading a Debian")
		run(t, "debootstrap", "--variant=minbase", "--include=systemd", "bookworm", temp)
		if err := os.Rename(temp, clean); err != nil {
			t.Fatal(err)
		}
	}
	d := debian{t, filepath.Join(t.TempDir(), "debian")}
	run(t, "cp", "-a", clean, d.root)
	run(t, "mount", "-t", "proc", "proc", d.path("/proc"))
	t.Cleanup(func() { run(t, "umount", d.path("/proc")) })
	return d
}

// path is where a path of that Debian is in ours.
func (d debian) path(name string) string { return filepath.Join(d.root, name) }

// run runs a command in that Debian.
func (d debian) run(words ...string) string {
	d.t.Helper()
	return run(d.t, append([]string{"chroot", d.root}, words...)...)
}

// install installs a package by dpkg, as an unattended upgrade does: asked whether to keep an
// edited file, which is dpkg's default, it keeps it.
func (d debian) install(deb string) string {
	d.t.Helper()
	run(d.t, "cp", deb, d.path("/package.deb"))
	defer os.Remove(d.path("/package.deb"))
	return d.run("dpkg", "--force-confdef", "--force-confold", "--install", "/package.deb")
}

// files returns all files and folders outside of dpkg's and logs' own, each with owner and
// mode.
func (d debian) files() map[string]string {
	d.t.Helper()
	files := make(map[string]string)
	out := run(d.t, "find", d.root, "-xdev", "-printf", "%P\t%U:%G %M\n")
	for line := range strings.Lines(out) {
		name, attributes, _ := strings.Cut(strings.TrimSpace(line), "\t")
		switch {
		case strings.HasPrefix(name, "var/lib/dpkg"), strings.HasPrefix(name, "var/log"),
			strings.HasPrefix(name, "proc"), strings.HasPrefix(name, "var/cache/ldconfig"):
		case strings.HasPrefix(name, "etc/") && strings.HasSuffix(name, "-"): // the copy of passwd before the last change
		default:
			files["/"+name] = attributes
		}
	}
	return files
}

// read returns a file of that Debian.
func (d debian) read(name string) string {
	d.t.Helper()
	text, err := os.ReadFile(d.path(name))
	if err != nil {
		d.t.Fatal(err)
	}
	return string(text)
}

// write replaces a file of that Debian.
func (d debian) write(name, text string) {
	d.t.Helper()
	if err := os.WriteFile(d.path(name), []byte(text), 0o644); err != nil {
		d.t.Fatal(fmt.Errorf("writing %s: %w", name, err))
	}
}
