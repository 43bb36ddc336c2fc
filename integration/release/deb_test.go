package release_test

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const caddyfile = "/etc/caddy-presence/Caddyfile"

func TestTheDebInstallsWhatItSays(t *testing.T) {
	deb := artefact(t, "*_ARCH.deb")
	d := newDebian(t)
	before := d.files()
	d.install(deb)
	after := d.files()

	for name, attributes := range map[string]string{
		"/usr/bin/caddy-presence":     "0:0 -rwxr-xr-x",
		caddyfile:                     "0:0 -rw-r--r--",
		"/etc/caddy-presence/secrets": "0:0 drwx------",
		"/usr/lib/systemd/system/caddy-presence.service":               "0:0 -rw-r--r--",
		"/usr/lib/sysusers.d/caddy-presence.conf":                      "0:0 -rw-r--r--",
		"/usr/share/man/man8/caddy-presence.8.gz":                      "0:0 -rw-r--r--",
		"/usr/share/man/man8/caddy-presence-presence-proxy.8.gz":       "0:0 -rw-r--r--",
		"/usr/share/bash-completion/completions/caddy-presence":        "0:0 -rw-r--r--",
		"/usr/share/zsh/vendor-completions/_caddy-presence":            "0:0 -rw-r--r--",
		"/usr/share/fish/vendor_completions.d/caddy-presence.fish":     "0:0 -rw-r--r--",
		"/usr/share/doc/caddy-presence/README.md":                      "0:0 -rw-r--r--",
		"/usr/share/doc/caddy-presence/docs/options.md":                "0:0 -rw-r--r--",
		"/usr/share/doc/caddy-presence/docs/page.png":                  "0:0 -rw-r--r--",
		"/usr/share/doc/caddy-presence/contrib/prometheus/rules.yml":   "0:0 -rw-r--r--",
		"/usr/share/doc/caddy-presence/contrib/grafana/dashboard.json": "0:0 -rw-r--r--",
		"/usr/share/doc/caddy-presence/copyright":                      "0:0 -rw-r--r--",
		"/usr/share/doc/caddy-presence/third-party-licences.gz":        "0:0 -rw-r--r--",
		"/usr/share/doc/caddy-presence/caddy-presence.cdx.json":        "0:0 -rw-r--r--",
	} {
		if after[name] != attributes {
			t.Errorf("%s: %q, want %q", name, after[name], attributes)
		}
	}
	for name, attributes := range after {
		if _, ok := before[name]; !ok && (!strings.HasPrefix(attributes, "0:0 ") || strings.Contains(attributes, "w-") && attributes[len(attributes)-2] == 'w') {
			t.Errorf("%s is %s: somebody else than root may change it", name, attributes)
		}
	}
	if user := d.run("getent", "passwd", "caddy-presence"); !strings.Contains(user, ":/var/lib/caddy-presence:/usr/sbin/nologin") {
		t.Errorf("the user is %q", user)
	}
	// Installed, but neither started nor enabled: nobody knows yet where the homeserver is.
	if _, err := os.Lstat(d.path("/etc/systemd/system/multi-user.target.wants/caddy-presence.service")); err == nil {
		t.Error("the service is enabled")
	}
	linksHold(t, d.path("/usr/share/doc/caddy-presence"))
	d.run("caddy-presence", "validate", "--config", caddyfile)
	if version := d.run("caddy-presence", "--version"); !regexp.MustCompile(`^caddy-presence \d+\.\d+\.\d+(-dev)? \(commit [0-9a-f]{12}\), Caddy v2\.`).MatchString(version) {
		t.Errorf("the version is %q", version)
	}
}

var link = regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)\s]*)?\)`)

// linksHold looks for what installed pages link to: pictures, alerts, the dashboard. Whoever has them has no checkout.
func linksHold(t *testing.T, doc string) {
	t.Helper()
	links := 0
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md"} {
		pages, err := filepath.Glob(filepath.Join(doc, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, page := range pages {
			text, err := os.ReadFile(page)
			if err != nil {
				t.Fatal(err)
			}
			for _, match := range link.FindAllStringSubmatch(string(text), -1) {
				if strings.Contains(match[1], "://") || match[1] == "LICENSE" { // it is named copyright there
					continue
				}
				links++
				if _, err := os.Stat(filepath.Join(filepath.Dir(page), match[1])); err != nil {
					t.Error(err)
				}
			}
		}
	}
	if links < 100 {
		t.Errorf("only %d links are known", links)
	}
}

func TestAnUpgradeKeepsAnEditedConfigurationAndRemovalLeavesNothing(t *testing.T) {
	deb := artefact(t, "*_ARCH.deb")
	d := newDebian(t)
	before := d.files()
	d.install(deb)
	shipped := d.read(caddyfile)
	edited := strings.Replace(shipped, "localhost:8008", "localhost:18008", 1)
	d.write(caddyfile, edited)

	// A newer package whose Caddyfile is another. Dpkg must neither ask nor overwrite.
	d.install(newer(t, deb))
	if d.read(caddyfile) != edited {
		t.Error("the upgrade has overwritten the admin's Caddyfile")
	}
	if status := d.run("dpkg-query", "-W", "-f", "${Status} ${Version}", "caddy-presence"); status != "install ok installed 99.0.0" {
		t.Errorf("after the upgrade dpkg says %q", status)
	}

	d.run("dpkg", "--remove", "caddy-presence")
	if d.read(caddyfile) != edited {
		t.Error("a removal that isn't a purge took the admin's Caddyfile away")
	}
	d.run("mkdir", "-p", "/var/lib/caddy-presence/caddy") // what the service would have kept
	d.run("dpkg", "--purge", "caddy-presence")
	after := d.files()
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if _, ok := before[name]; !ok {
			t.Errorf("%s is left", name)
		}
	}
	for name, attributes := range before {
		if after[name] != attributes {
			t.Errorf("%s was %q and is %q", name, attributes, after[name])
		}
	}
	if users := d.read("/etc/passwd") + d.read("/etc/group"); strings.Contains(users, "caddy-presence") {
		t.Error("the user or its group is left")
	}
}

// newer returns the same package as version 99, with another Caddyfile.
func newer(t *testing.T, deb string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "newer")
	run(t, "dpkg-deb", "--raw-extract", deb, dir)
	control := filepath.Join(dir, "DEBIAN/control")
	text, err := os.ReadFile(control)
	if err != nil {
		t.Fatal(err)
	}
	text = regexp.MustCompile(`(?m)^Version: .*$`).ReplaceAll(text, []byte("Version: 99.0.0"))
	if err := os.WriteFile(control, text, 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "sed", "-i", "s/^# caddy-presence: /# caddy-presence 99: /", filepath.Join(dir, caddyfile))
	run(t, "dpkg-deb", "--root-owner-group", "-Znone", "--build", dir, dir+".deb")
	return dir + ".deb"
}

func TestTheUnit(t *testing.T) {
	deb := artefact(t, "*_ARCH.deb")
	d := newDebian(t)
	d.install(deb)
	const unit = "/usr/lib/systemd/system/caddy-presence.service"
	if said := d.run("systemd-analyze", "verify", "--man=no", unit); strings.TrimSpace(said) != "" {
		t.Errorf("systemd-analyze verify: %s", said)
	}
	// 25 is an exposure of 2.5; above, the command fails.
	said := d.run("systemd-analyze", "security", "--offline=true", "--threshold=25", unit)
	lines := strings.Split(strings.TrimSpace(said), "\n")
	t.Log(lines[len(lines)-1])
}
