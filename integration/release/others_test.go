package release_test

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The rpm and the apk hold what the deb holds, but for the places that are others there.
func TestAllPackagesHoldTheSame(t *testing.T) {
	deb := artefact(t, "*_ARCH.deb")
	want := contents(t, "dpkg-deb", "--contents", deb)
	rename := strings.NewReplacer("zsh/vendor-completions", "zsh/site-functions")
	for file := range want {
		if moved := rename.Replace(file); moved != file {
			want[moved] = want[file]
			delete(want, file)
		}
	}

	rpm := make(map[string]string)
	for line := range strings.Lines(run(t, "rpm", "-qp", "--queryformat", "[%{FILENAMES}\t%{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME}\n]", artefact(t, "*_ARCH.rpm"))) {
		name, attributes, _ := strings.Cut(strings.TrimSpace(line), "\t")
		rpm[name] = attributes
	}
	compare(t, "rpm", rpm, want)
	if config := run(t, "rpm", "-qp", "--configfiles", artefact(t, "*_ARCH.rpm")); strings.TrimSpace(config) != caddyfile {
		t.Errorf("the rpm's configuration files are %q", config)
	}
	if flags := run(t, "rpm", "-qp", "--queryformat", "[%{FILENAMES} %{FILEFLAGS:fflags}\n]", artefact(t, "*_ARCH.rpm")); !strings.Contains(flags, caddyfile+" cn\n") {
		t.Error("an upgrade of the rpm would overwrite the Caddyfile")
	}

	apk := contents(t, "tar", "-tvz", "--ignore-zeros", "-f", artefact(t, "*_ARCH.apk"))
	maps.DeleteFunc(apk, func(name, _ string) bool { return strings.HasPrefix(name, "/.") }) // its scripts
	delete(want, "/usr/lib/systemd/system/caddy-presence.service")                           // Alpine has OpenRC
	want["/etc/init.d/caddy-presence"] = "-rwxr-xr-x root/root"
	compare(t, "apk", apk, want)
}

// contents lists the files that a command lists as tar does: their modes and owners.
func contents(t *testing.T, words ...string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	for line := range strings.Lines(run(t, words...)) {
		if fields := strings.Fields(line); len(fields) > 5 && fields[0][0] == '-' {
			files["/"+strings.TrimPrefix(fields[5], "./")] = fields[0] + " " + fields[1]
		}
	}
	return files
}

// compare compares files; folders are left out, since formats list different ones.
func compare(t *testing.T, format string, got, want map[string]string) {
	t.Helper()
	maps.DeleteFunc(got, func(_, attributes string) bool { return strings.HasPrefix(attributes, "d") })
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Errorf("in the %s, %s is %q, want %q", format, name, got[name], want[name])
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("in the %s is also %s", format, name)
		}
	}
}

func TestTwoBuildsAreEqual(t *testing.T) {
	sums, err := os.ReadFile(artefact(t, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	if *again == "" {
		t.Skip("nothing to compare with: make release-test says what")
	}
	others, err := os.ReadFile(filepath.Join(*again, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	if string(sums) != string(others) {
		t.Errorf("two builds of one commit differ:\n%s\n%s", sums, others)
	}
	for _, kind := range []string{"linux_amd64", "linux_arm64", ".cdx.json", ".deb", ".rpm", ".apk", "oci.tar", "docker_amd64.tar", "docker_arm64.tar"} {
		if !strings.Contains(string(sums), kind+"\n") {
			t.Errorf("SHA256SUMS has no %s", kind)
		}
	}
	cmd := exec.Command("sha256sum", "--check", "--quiet", "SHA256SUMS")
	cmd.Dir = *dist
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("the checksums: %v: %s", err, out)
	}
}
