package release_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/process"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// An admin's first day: install, point it at the homeserver, start, restart under load,
// upgrade, restart, remove.
func TestTheInstalledProgramServesASynapse(t *testing.T) {
	deb, d, hs, url := installed(t)
	s := d.start(url)
	client := homeserver.Client{URL: url}
	alice, bob := shows(t, client, hs, "alice", "unavailable", "bob")

	for _, upgrade := range []func(){func() {}, func() { d.install(newer(t, deb)) }} {
		load := newLoad(client, bob, alice)
		d.stop(s)
		upgrade()
		s = d.start(url)
		load.stop(t)
		// On a slow machine Synapse may have found by now that alice has left.
		write(t, client, alice, "unavailable")
		if got := read(t, client, bob, alice); got != "unavailable" {
			t.Errorf("bob reads %q of alice after a restart", got)
		}
	}
	d.stop(s)
	d.run("dpkg", "--purge", "caddy-presence")
}

func freeAddress(t *testing.T) string {
	t.Helper()
	addresses, err := process.FreeAddresses(1)
	if err != nil {
		t.Fatal(err)
	}
	return addresses[0]
}

// pointAt edits the installed Caddyfile: the homeserver's address, and a free port.
func pointAt(t *testing.T, d debian, hs *homeserver.Homeserver, listen string) {
	t.Helper()
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		t.Fatal(err)
	}
	text := d.read(caddyfile)
	for from, to := range map[string]string{"localhost:8008": strings.TrimPrefix(hs.URL, "http://"), ":8009": ":" + port} {
		if !strings.Contains(text, from) {
			t.Fatalf("the Caddyfile has no %s to replace", from)
		}
		text = strings.ReplaceAll(text, from, to)
	}
	d.write(caddyfile, text)
}

// start does what the unit does: its folders, its user, its environment, its commands.
func (d debian) start(url string) *exec.Cmd {
	d.t.Helper()
	d.run("install", "-d", "-o", "caddy-presence", "-m", "0700", "/var/lib/caddy-presence", "/run/caddy-presence")
	unit := d.read("/usr/lib/systemd/system/caddy-presence.service")
	as := []string{"chroot", "--userspec=caddy-presence:caddy-presence", d.root, "env", "-i"}
	as = append(as, strings.Fields(setting(d.t, unit, "Environment"))...)
	run(d.t, append(as, strings.Fields(setting(d.t, unit, "ExecStartPre"))...)...)
	words := append(as, strings.Fields(setting(d.t, unit, "ExecStart"))...)
	cmd := exec.Command(words[0], words[1:]...)
	log, err := os.Create(filepath.Join(d.t.TempDir(), "log"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
		if d.t.Failed() {
			d.t.Log(process.Tail(log.Name(), 30))
		}
	})
	awaitAnswer(d.t, url)
	return cmd
}

// setting returns a setting of a unit.
func setting(t *testing.T, unit, name string) string {
	t.Helper()
	for line := range strings.Lines(unit) {
		if value, ok := strings.CutPrefix(line, name+"="); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("the unit has no %s", name)
	return ""
}

// stop stops the program as systemd does, which kills it after TimeoutStopSec.
func (d debian) stop(cmd *exec.Cmd) {
	d.t.Helper()
	timeout, err := time.ParseDuration(setting(d.t, d.read("/usr/lib/systemd/system/caddy-presence.service"), "TimeoutStopSec"))
	if err != nil {
		d.t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		d.t.Fatal(err)
	}
	kill := time.AfterFunc(timeout, func() {
		d.t.Errorf("after %v it hadn't ended", timeout)
		cmd.Process.Kill()
	})
	defer kill.Stop()
	if err := cmd.Wait(); err != nil {
		d.t.Errorf("it ended with %v", err)
	}
}

// awaitAnswer waits until the homeserver answers through the program.
func awaitAnswer(t *testing.T, url string) {
	t.Helper()
	suite.EventuallyNil(t, "the homeserver answers through the program", func() error {
		resp, err := http.Get(url + "/_matrix/client/versions")
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
}

func register(t *testing.T, hs *homeserver.Homeserver, name string) homeserver.User {
	t.Helper()
	user, err := hs.Register(t.Context(), name, "password of "+name)
	if err != nil {
		t.Fatal(err)
	}
	return user
}

// installed is a Debian with the package, whose Caddyfile names a Synapse, and the URL at which the program
// will answer.
func installed(t *testing.T) (deb string, d debian, hs *homeserver.Homeserver, url string) {
	t.Helper()
	deb = artefact(t, "*_ARCH.deb")
	hs = suite.Homeserver(t, "synapse", homeserver.Options{})
	d = newDebian(t)
	d.install(deb)
	listen := freeAddress(t)
	pointAt(t, d, hs, listen)
	return deb, d, hs, "http://" + listen
}

// shows has one new user write a presence through the program, and another, in the same room, read it:
// from the homeserver, and then from what the program remembers.
func shows(t *testing.T, c homeserver.Client, hs *homeserver.Homeserver, writer, presence, reader string) (of, viewer homeserver.User) {
	t.Helper()
	of, viewer = register(t, hs, writer), register(t, hs, reader)
	if _, err := c.Room(t.Context(), of, viewer); err != nil {
		t.Fatal(err)
	}
	write(t, c, of, presence)
	if got := read(t, c, viewer, of); got != presence {
		t.Fatalf("%s reads %q of %s after the write", reader, got, writer)
	}
	// For a moment after they came into one room nothing is kept of who may see whom.
	suite.Eventually(t, "a read is answered from memory", func() bool {
		return strings.Contains(cacheStatus(t, c, viewer, of), "hit")
	})
	return of, viewer
}

func do(t *testing.T, c homeserver.Client, method, path string, as homeserver.User, body, result any) {
	t.Helper()
	if err := c.Do(t.Context(), method, path, as.AccessToken, body, result); err != nil {
		t.Fatal(err)
	}
}

func presencePath(of homeserver.User) string {
	return "/_matrix/client/v3/presence/" + of.ID + "/status"
}

func write(t *testing.T, c homeserver.Client, user homeserver.User, presence string) {
	t.Helper()
	do(t, c, http.MethodPut, presencePath(user), user, map[string]any{"presence": presence}, nil)
}

func read(t *testing.T, c homeserver.Client, viewer, of homeserver.User) string {
	t.Helper()
	var state struct{ Presence string }
	do(t, c, http.MethodGet, presencePath(of), viewer, nil, &state)
	return state.Presence
}

// cacheStatus reads a presence and returns what the field Cache-Status says.
func cacheStatus(t *testing.T, c homeserver.Client, viewer, of homeserver.User) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.URL+presencePath(of), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+viewer.AccessToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.Header.Get("Cache-Status")
}

// load reads a presence over and over, from four clients, also while nothing listens.
type load struct {
	cancel  context.CancelFunc
	clients sync.WaitGroup
	answers atomic.Int64
	wrong   atomic.Pointer[string] // an error that the homeserver or the program answered
}

func newLoad(c homeserver.Client, viewer, of homeserver.User) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	for range 4 {
		l.clients.Go(func() {
			for ctx.Err() == nil {
				err := c.Do(ctx, http.MethodGet, presencePath(of), viewer.AccessToken, nil, nil)
				switch {
				case err == nil:
					l.answers.Add(1)
				case strings.Contains(err.Error(), presencePath(of)+": "): // not that nobody listens
					said := err.Error()
					l.wrong.Store(&said)
				}
			}
		})
	}
	return l
}

// stop ends the load, once the restarted program has answered some of it.
func (l *load) stop(t *testing.T) {
	t.Helper()
	before := l.answers.Load()
	suite.Eventually(t, "the program answers the load again", func() bool { return l.answers.Load() >= before+20 })
	l.cancel()
	l.clients.Wait()
	if wrong := l.wrong.Load(); wrong != nil {
		t.Errorf("during a restart, a client got: %s", *wrong)
	}
}
