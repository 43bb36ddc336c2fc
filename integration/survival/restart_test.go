package survival_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/accounting"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/vitals"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

// restless are those of the crowd who write as often as they may, and more.
const restless = 20 // each twentieth

// TestWhatARestartCosts has a crowd come to a sidecar that remembers nothing, as after a restart without a snapshot,
// restarts it with one, and has the crowd come back. It says what each costs a real Synapse. It is about
// figures, so it is a part of the full size only.
func TestWhatARestartCosts(t *testing.T) {
	if !suite.Full() {
		t.Skip("it measures: -size full")
	}
	n := *crowdSize
	hs := suite.Homeserver(t, "synapse", homeserver.Options{})
	users, err := hs.AddCrowd(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	caddyfile := fmt.Sprintf(`{
	admin {$ADMIN}
	persist_config off
}
http://{$LISTEN} {
	bind 127.0.0.1
	matrix_presence {
		# Longer than the crowd takes to come twice, on a slow machine.
		write_limit 6/10m burst 5
		identity {
			ttl 30m
		}
		snapshot {$DIR}/snapshot
	}
	reverse_proxy %s
}
`, strings.TrimPrefix(hs.URL, "http://"))
	s := suite.Sidecar(t)(sidecar.StartCaddyfile(t.Context(), caddyfile))
	comeBack(t, s, hs, reads(users[:n/20])) // so that Synapse has what it needs in memory
	restart(t, s, caddyfile, true)
	without := comeBack(t, s, hs, append(reads(users), writes(users)...))
	figure(t, "without a snapshot: %s", without)
	restart(t, s, caddyfile, false)
	with := comeBack(t, s, hs, append(writes(users), reads(users)...)) // before budgets are refilled
	figure(t, "with a snapshot: %s", with)

	if with.whoami > n/100 || without.whoami != n {
		t.Errorf("%d and %d whoami, want next to none with a snapshot, and one for each of %d without", with.whoami, without.whoami, n)
	}
	if with.writes > without.writes/2 {
		t.Errorf("%d and %d writes", with.writes, without.writes)
	}
	if with.cpu >= without.cpu {
		t.Errorf("%v and %v of Synapse's CPU time", with.cpu, without.cpu)
	}
}

// restart restarts a sidecar, and drops what is kept before that if it is to forget.
func restart(t *testing.T, s *sidecar.Sidecar, caddyfile string, forgets bool) {
	t.Helper()
	if err := s.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	suite.Eventually(t, "the sidecar ends", func() bool { return !s.Running() })
	for _, suffix := range []string{"", ".identities", ".key"} {
		if !forgets {
			break
		}
		if err := os.Remove(filepath.Join(s.Dir, "snapshot"+suffix)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Start(t.Context(), caddyfile); err != nil {
		t.Fatal(err)
	}
}

// cost is what reached the homeserver after a restart.
type cost struct {
	whoami, reads, writes int
	cpu                   time.Duration // of the homeserver
	took                  time.Duration // until the last answer
}

func (c cost) String() string {
	return fmt.Sprintf("%d whoami, %d reads, %d writes, %.1f s of Synapse's CPU time, in %.0f s", c.whoami, c.reads, c.writes, c.cpu.Seconds(), c.took.Seconds())
}

// comes is what one of the crowd does when they come back: they read, or write so often.
type comes struct {
	homeserver.User
	writes int
}

// reads are everybody's reads of their own presence.
func reads(users []homeserver.User) (all []comes) {
	for _, u := range users {
		all = append(all, comes{u, 0})
	}
	return all
}

// writes are those of the restless.
func writes(users []homeserver.User) (all []comes) {
	for i := 0; i < len(users); i += restless {
		all = append(all, comes{users[i], 5})
	}
	return all
}

// comeBack has all come at once, by 32 connections, and returns what that costs.
func comeBack(t *testing.T, s *sidecar.Sidecar, hs *homeserver.Homeserver, everybody []comes) cost {
	t.Helper()
	before, err := accounting.Of(hs.PID())
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}}
	defer client.CloseIdleConnections()
	var next, failed atomic.Int64
	send := func(method string, u homeserver.User, body string) {
		r, err := http.NewRequestWithContext(t.Context(), method, s.URL+statusPath(u.ID), strings.NewReader(body))
		if err != nil {
			failed.Add(1)
			return
		}
		r.Header.Set("Authorization", "Bearer "+u.AccessToken)
		answer, err := client.Do(r)
		if err != nil {
			failed.Add(1)
			return
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK && (method != http.MethodPut || answer.StatusCode != http.StatusTooManyRequests) {
			failed.Add(1)
		}
	}
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(everybody) {
					return
				}
				who := everybody[i]
				if who.writes == 0 {
					send(http.MethodGet, who.User, "")
				}
				for n := range who.writes {
					send(http.MethodPut, who.User, fmt.Sprintf(`{"presence":"online","status_msg":"%d"}`, n))
				}
			}
		})
	}
	all.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d of the crowd's requests failed", n)
	}
	took := time.Since(began)
	after, err := accounting.Of(hs.PID())
	if err != nil {
		t.Fatal(err)
	}
	v, err := vitals.Read(t.Context(), s.Admin)
	if err != nil {
		t.Fatal(err)
	}
	asked := func(reason string) int { return v.Counters.Sum("upstream_requests_total", "reason", reason) }
	return cost{asked("whoami"), asked("fetch") + asked("bypass"), asked("write"), after.Since(before).CPU(), took}
}
