package release_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// The unit as it is, under a real systemd: its sandbox, its secrets, start, reload, stop,
// upgrade and removal.
func TestTheServiceUnderSystemd(t *testing.T) {
	deb, d, hs, url := installed(t)
	d.write(caddyfile, replaceOnce(t, d.read(caddyfile), "\tmatrix_presence {\n",
		"\trespond /tenant {file.{$CREDENTIALS_DIRECTORY}/secret_tenant}\n\tmatrix_presence {\n"))
	d.write("/etc/caddy-presence/secrets/tenant", "hush\n")

	s := boot(t, d)
	s.run("systemctl", "enable", "--now", "caddy-presence")
	awaitAnswer(t, url)
	if got := get(t, url+"/tenant"); got != "hush" {
		t.Errorf("the secret is %q", got)
	}
	client := homeserver.Client{URL: url}
	erin, frank := shows(t, client, hs, "erin", "online", "frank")

	s.run("systemctl", "reload", "caddy-presence")
	if status := cacheStatus(t, client, frank, erin); !strings.Contains(status, "hit") {
		t.Errorf("after a reload a read says %q, want a hit", status)
	}
	good := d.read(caddyfile)
	d.write(caddyfile, replaceOnce(t, good, "\tmatrix_presence {\n", "\tmatrix_presence {\n\t\tnonsense\n"))
	s.refuses(t, "reload")
	awaitAnswer(t, url) // the old configuration goes on
	s.run("systemctl", "stop", "caddy-presence")
	s.refuses(t, "start")
	d.write(caddyfile, good)
	s.run("systemctl", "start", "caddy-presence")
	awaitAnswer(t, url)

	before := s.run("systemctl", "show", "--property=MainPID", "caddy-presence")
	run(t, "cp", newer(t, deb), d.path("/newer.deb"))
	s.run("dpkg", "--force-confdef", "--force-confold", "--install", "/newer.deb")
	awaitAnswer(t, url)
	if after := s.run("systemctl", "show", "--property=MainPID", "caddy-presence"); after == before {
		t.Error("after the upgrade the old program goes on")
	}
	s.run("systemctl", "stop", "caddy-presence")
	if said := s.run("systemctl", "show", "--property=Result", "caddy-presence"); said != "Result=success\n" {
		t.Errorf("it stopped with %s", said)
	}
	s.run("systemctl", "start", "caddy-presence")
	s.run("dpkg", "--purge", "caddy-presence")
	if left := s.run("find", "/etc/systemd", "-name", "caddy-presence*"); left != "" {
		t.Errorf("after the removal it is still enabled: %s", left)
	}
	if said := s.run("systemctl", "show", "--property=ActiveState", "caddy-presence"); said != "ActiveState=inactive\n" {
		t.Errorf("after the removal: %s", said)
	}
}

// refuses has the service do something with a Caddyfile that has a mistake. The log names its file and line.
func (s system) refuses(t *testing.T, what string) {
	t.Helper()
	before := s.run("journalctl", "--no-pager", "--unit=caddy-presence", "--output=cat")
	if said, err := s.try("systemctl", what, "caddy-presence"); err == nil {
		t.Errorf("a %s with a mistake went well: %s", what, said)
	}
	suite.Eventually(t, "the log says where the mistake is", func() bool {
		said := strings.TrimPrefix(s.run("journalctl", "--no-pager", "--unit=caddy-presence", "--output=cat"), before)
		return regexp.MustCompile(`'nonsense'.* at ` + caddyfile + `:\d+`).MatchString(said)
	})
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// system is a Debian whose systemd runs, in namespaces of its own but for the network.
type system struct {
	t   *testing.T
	pid string // of its systemd, as seen from here
}

// bootScript makes a folder the root and runs its systemd. Mounts are shared, or the secrets
// that systemd mounts for a service wouldn't reach it.
const bootScript = `set -e
mount --make-rprivate /
mount --bind "$ROOT" "$ROOT"
cd "$ROOT"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
if [ -d /sys/fs/cgroup/systemd ]; then
	mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
	mkdir sys/fs/cgroup/systemd sys/fs/cgroup/unified
	mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
	mount -t cgroup2 cgroup2 sys/fs/cgroup/unified
else
	mount -t cgroup2 cgroup2 sys/fs/cgroup
fi
for dir in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs $dir; done
for node in null zero full random urandom tty; do touch dev/$node; mount --bind /dev/$node dev/$node; done
mkdir dev/shm dev/pts
mount -t devpts devpts dev/pts
ln -s /proc/self/fd dev/fd
ln -s pts/ptmx dev/ptmx
mkdir -p old
pivot_root . old
umount -l /old
mount --make-rshared /
exec env -i container=other PATH=/usr/sbin:/usr/bin /lib/systemd/systemd --unit=multi-user.target --log-target=null
`

// boot starts the systemd of a Debian.
func boot(t *testing.T, d debian) system {
	t.Helper()
	for _, unit := range []string{"resolved", "networkd", "timesyncd", "udevd", "logind"} {
		d.run("systemctl", "mask", "systemd-"+unit+".service")
	}
	// In a control group of its own, which becomes the root of what it sees.
	name := fmt.Sprintf("caddy-presence-test-%d", os.Getpid())
	join := ""
	for _, hierarchy := range []string{"", "systemd", "unified"} {
		group := filepath.Join("/sys/fs/cgroup", hierarchy, name)
		if _, err := os.Stat(filepath.Join("/sys/fs/cgroup", hierarchy, "cgroup.procs")); err != nil {
			continue
		}
		if err := os.Mkdir(group, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { exec.Command("find", group, "-depth", "-type", "d", "-delete").Run() })
		join += "echo $$ >" + group + "/cgroup.procs; "
	}
	cmd := exec.Command("sh", "-c", join+`exec unshare --mount --pid --ipc --uts --cgroup --fork sh -c "$SCRIPT"`)
	cmd.Env = append(os.Environ(), "ROOT="+d.root, "SCRIPT="+bootScript)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := system{t: t}
	t.Cleanup(func() {
		if s.pid != "" {
			exec.Command("kill", "-9", s.pid).Run() // and with it all in its namespace
		} else {
			cmd.Process.Kill()
		}
		cmd.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	})
	suite.EventuallyNil(t, "systemd runs", func() error {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
		if err != nil {
			return err
		}
		s.pid = strings.TrimSpace(string(children))
		_, err = s.try("systemctl", "list-units")
		return err
	})
	return s
}

// try runs a command in the system.
func (s system) try(words ...string) (string, error) {
	return try(append([]string{"nsenter", "--target", s.pid, "--all", "env", "-i", "PATH=/usr/sbin:/usr/bin", "LC_ALL=C"}, words...)...)
}

// run runs a command in the system that must go well.
func (s system) run(words ...string) string {
	s.t.Helper()
	out, err := s.try(words...)
	if err != nil {
		log, _ := s.try("journalctl", "--no-pager", "--unit=caddy-presence", "--lines=20")
		s.t.Fatalf("%s: %v\n%s\n%s", strings.Join(words, " "), err, out, log)
	}
	return out
}
