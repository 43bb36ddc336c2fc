package survival_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

// keeping gives everybody two writes, for longer than any test, and keeps that over a restart.
const keeping = `write_limit 2/10h
		read_limit off
		snapshot {$DIR}/snapshot`

// snapshotFile is one of the files.
func (s *server) snapshotFile(suffix string) string { return filepath.Join(s.Dir, "snapshot"+suffix) }

// has tells whether a file of the snapshot is there.
func (s *server) has(suffix string) bool {
	_, err := os.Stat(s.snapshotFile(suffix))
	return err == nil
}

// spend has each user read, and write as often as they may.
func spend(t *testing.T, s *server, users []user) {
	t.Helper()
	for _, u := range users {
		expect(t, "a read", s.read(u.token, u.id).get(t), http.StatusOK)
		for version := range int64(2) {
			expect(t, "a write", s.write(u.token, u.id, version+1).get(t), http.StatusOK)
		}
	}
}

// loads waits until the server says what it has loaded, or that it can't.
func (s *server) loads() {
	s.t.Helper()
	suite.Eventually(s.t, "the snapshot is read", func() bool { return strings.Contains(s.Log(), "the snapshot") })
}

// asksFor returns how often the homeserver was asked whose a token is while f ran.
func (s *server) asksFor(f func()) int {
	before := s.hs.Count(scripted.WhoAmI).Asked
	f()
	return s.hs.Count(scripted.WhoAmI).Asked - before
}

// ends has the server end by a signal.
func (s *server) ends(signal syscall.Signal) {
	s.t.Helper()
	s.signal(signal)
	if state := s.wait(); state.Success() != (signal == syscall.SIGTERM) {
		s.t.Errorf("the sidecar ended with %v", state)
	}
}

func TestASnapshotKeepsBudgetsAndIdentities(t *testing.T) {
	hs := newHomeserver(t, scripted.Options{})
	users := newUsers(hs, 20)
	s := newServer(t, hs, keeping)
	spend(t, s, users)
	s.ends(syscall.SIGTERM)

	for _, suffix := range []string{"", ".identities", ".key"} {
		text, err := os.ReadFile(s.snapshotFile(suffix))
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range users {
			if bytes.Contains(text, []byte(u.token)) {
				t.Errorf("snapshot%s has a token in clear", suffix)
			}
		}
	}
	// Neither looking at the configuration nor a second look at it changes a file.
	s.validate(t)
	s.validate(t)

	s.restart(keeping)
	s.loads()
	asked := s.asksFor(func() {
		for _, u := range users {
			a := expect(t, "a read after the restart", s.read(u.token, u.id).get(t), http.StatusOK)
			if a.hit() || a.version() != 2 {
				t.Errorf("the first read after the restart got %s: presence isn't kept", a)
			}
			expect(t, "a write after the restart", s.write(u.token, u.id, 3).get(t), http.StatusTooManyRequests)
		}
	})
	if asked != 0 {
		t.Errorf("the homeserver was asked %d times whose a token is", asked)
	}
	// A reload is no restart.
	s.reload(keeping + "\n\t\tmax_body 1KiB")
	expect(t, "a write after the reload", s.write(users[0].token, users[0].id, 3).get(t), http.StatusTooManyRequests)
	if n := strings.Count(s.Log(), "the snapshot was loaded"); n != 1 {
		t.Errorf("the snapshot was loaded %d times", n)
	}
}

// validate looks at the server's configuration, as the unit does before each start.
func (s *server) validate(t *testing.T) {
	t.Helper()
	binary, err := sidecar.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "validate", "--config", "Caddyfile", "--adapter", "caddyfile")
	cmd.Dir = s.Dir
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+s.Dir, "XDG_DATA_HOME="+s.Dir, "DIR="+s.Dir, "LISTEN=127.0.0.1:1", "ADMIN="+s.Admin)
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
}

// A process that is killed has told nobody which tokens have ended through it.
func TestAKillBringsNoTokenBack(t *testing.T) {
	hs := newHomeserver(t, scripted.Options{})
	users := newUsers(hs, 5)
	again := hs.Login(users[0].id) // another session of the first user
	s := newServer(t, hs, keeping)
	spend(t, s, users)
	s.ends(syscall.SIGTERM)
	s.restart(keeping)
	s.loads()
	expect(t, "the logout", newRequest(logout, http.MethodPost, s.URL+"/_matrix/client/v3/logout", users[0].token, "").get(t), http.StatusOK)
	s.ends(syscall.SIGKILL)

	s.restart(keeping)
	s.loads()
	// What the user's other session reads is in memory then.
	expect(t, "a read", s.read(again, users[1].id).get(t), http.StatusOK)
	expect(t, "a read of a token that was logged out", s.read(users[0].token, users[1].id).get(t), http.StatusUnauthorized)
	if asked := s.asksFor(func() {
		for _, u := range users[1:] {
			expect(t, "a read", s.read(u.token, u.id).get(t), http.StatusOK)
			expect(t, "a write", s.write(u.token, u.id, 3).get(t), http.StatusTooManyRequests)
		}
	}); asked != len(users)-1 {
		t.Errorf("the homeserver was asked %d times whose a token is, want once for each of %d", asked, len(users)-1)
	}
}

// While a process ends it still answers what it has. If that ends a token, no file says any more whose it was.
func TestALogoutWhileTheProcessEnds(t *testing.T) {
	hs := newHomeserver(t, scripted.Options{})
	users := newUsers(hs, 5)
	s := newServer(t, hs, keeping)
	spend(t, s, users)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ends := hs.Hold(func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/logout") })
	polls := hs.Hold(func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/echo") })
	loggedOut := newRequest(logout, http.MethodPost, s.URL+"/_matrix/client/v3/logout", users[0].token, "").later(ctx)
	s.pass("a long poll").later(ctx)
	suite.Eventually(t, "both are at the homeserver", func() bool { return ends.Waiting() == 1 && polls.Waiting() == 1 })

	s.signal(syscall.SIGTERM)
	suite.Eventually(t, "identities are written", func() bool { return s.has(".identities") })
	ends.Open()
	expect(t, "the logout", <-loggedOut, http.StatusOK)
	if s.has(".identities") {
		t.Error("identities are still there after the logout was answered")
	}
	s.signal(syscall.SIGKILL) // as whatever runs it does when the long poll takes too long
	s.wait()
	polls.Open()

	s.restart(keeping)
	s.loads()
	expect(t, "a read of a token that was logged out", s.read(users[0].token, users[1].id).get(t), http.StatusUnauthorized)
	expect(t, "a write", s.write(users[1].token, users[1].id, 3).get(t), http.StatusTooManyRequests)
}

// Killed at any moment while it writes, the process starts again with what there was before or after.
func TestKillsWhileTheSnapshotIsWritten(t *testing.T) {
	hs := newHomeserver(t, scripted.Options{})
	users := newUsers(hs, 50)
	s := newServer(t, hs, keeping)
	spend(t, s, users)
	s.ends(syscall.SIGTERM)
	for range 2 * scale.rounds {
		s.restart(keeping)
		s.loads()
		s.signal(syscall.SIGTERM)
		for range rand.IntN(1 << 16) { // some moments later
			if !s.Running() {
				break
			}
		}
		s.signal(syscall.SIGKILL)
		s.wait()
	}
	s.restart(keeping)
	s.loads()
	if log := s.Log(); strings.Contains(log, "can't be used") {
		t.Errorf("after the kills: %s", log)
	}
	for _, u := range users {
		expect(t, "a read", s.read(u.token, u.id).get(t), http.StatusOK)
		expect(t, "a write", s.write(u.token, u.id, 3).get(t), http.StatusTooManyRequests)
	}
}

// A full disk keeps what was there, and nobody out.
func TestAFullDiskUnderASnapshot(t *testing.T) {
	hs := newHomeserver(t, scripted.Options{})
	users := newUsers(hs, 300)
	s := newServer(t, hs, unlimited)
	disk := filepath.Join(s.Dir, "disk")
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=8k,mode=700"); err != nil {
		t.Skipf("a small disk can't be mounted: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	}()
	onDisk := strings.Replace(keeping, "{$DIR}/snapshot", "{$DIR}/disk/snapshot", 1)
	s.reload(onDisk)
	spend(t, s, users)
	s.ends(syscall.SIGTERM)
	if log := s.Log(); !strings.Contains(log, "the snapshot can't be written") || !strings.Contains(log, "no space left on device") {
		t.Errorf("it says\n%s", log)
	}
	s.restart(onDisk)
	for _, u := range users[:5] {
		expect(t, "a read", s.read(u.token, u.id).get(t), http.StatusOK)
		expect(t, "a write", s.write(u.token, u.id, 3).get(t), http.StatusOK) // as without a snapshot
	}
	left, err := filepath.Glob(filepath.Join(disk, "*.tmp"))
	if err != nil || len(left) > 0 {
		t.Errorf("%v are left, %v", left, err)
	}
	s.ends(syscall.SIGTERM)
}

// Budgets and identities of two homeservers are two snapshots.
func TestTwoMemoriesHaveNoFileTogether(t *testing.T) {
	hs, other := newHomeserver(t, scripted.Options{}), newHomeserver(t, scripted.Options{})
	s := newServer(t, hs, keeping)
	site := func(name string, hs *scripted.Homeserver) string {
		return "http://" + name + ":{$PORT} {\n\tmatrix_presence {\n\t\t" + keeping + "\n\t}\n\treverse_proxy 127.0.0.1:" + hs.Port() + "\n}\n"
	}
	_, port, _ := strings.Cut(strings.TrimPrefix(s.URL, "http://"), ":")
	two := "{\n\tadmin {$ADMIN}\n}\n" + strings.ReplaceAll(site("a.example.com", hs)+site("b.example.com", other), "{$PORT}", port)
	err := s.Reload(t.Context(), two)
	if err == nil || !strings.Contains(err.Error(), "the caches a.example.com and b.example.com would have the same file") &&
		!strings.Contains(err.Error(), "the caches b.example.com and a.example.com would have the same file") {
		t.Errorf("two homeservers with one file: %v", err)
	}
	for _, same := range []string{two, strings.ReplaceAll(two, other.Port(), hs.Port())} {
		apart := strings.Replace(same, "{$DIR}/snapshot", "{$DIR}/other", 1)
		if err := s.Reload(t.Context(), apart); err != nil {
			t.Errorf("two files: %v", err)
		}
	}
}
