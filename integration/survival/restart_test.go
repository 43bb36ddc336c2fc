package survival_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
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

// TestWhatARestartCosts has a crowd read, restarts the sidecar, and has the crowd come back at once: with a
// snapshot and without. It says what that costs a real Synapse. It is about figures, so it is a part of
// the full size only.
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
	costs := make(map[string]cost)
	for _, way := range []struct{ name, option string }{{"without", ""}, {"with", "snapshot {$DIR}/snapshot"}} {
		costs[way.name] = restartCost(t, hs, users, way.option)
		figure(t, "%s a snapshot: %s", way.name, costs[way.name])
	}
	with, without := costs["with"], costs["without"]
	if with.whoami > n/100 || without.whoami != n {
		t.Errorf("%d and %d whoami, want next to none with a snapshot, and one for each of %d without", with.whoami, without.whoami, n)
	}
	if with.writes > without.writes/3 {
		t.Errorf("%d and %d writes", with.writes, without.writes)
	}
	if with.cpu >= without.cpu {
		t.Errorf("%v and %v of Synapse's CPU time", with.cpu, without.cpu)
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

// restartCost restarts a sidecar that a crowd has used, and has the crowd come back: each reads their own
// presence, and the restless write five times.
func restartCost(t *testing.T, hs *homeserver.Homeserver, users []homeserver.User, option string) cost {
	t.Helper()
	caddyfile := fmt.Sprintf(`{
	admin {$ADMIN}
	persist_config off
	metrics
}
http://{$LISTEN} {
	bind 127.0.0.1
	matrix_presence {
		identity {
			ttl 30m
		}
		%s
	}
	reverse_proxy %s
}
`, option, strings.TrimPrefix(hs.URL, "http://"))
	s := suite.Sidecar(t)(sidecar.StartCaddyfile(t.Context(), caddyfile))
	comeBack(t, s, users)
	if err := s.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	suite.Eventually(t, "the sidecar ends", func() bool { return !s.Running() })
	if err := s.Start(t.Context(), caddyfile); err != nil {
		t.Fatal(err)
	}
	before, err := accounting.Of(hs.PID())
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	comeBack(t, s, users)
	took := time.Since(began)
	after, err := accounting.Of(hs.PID())
	if err != nil {
		t.Fatal(err)
	}
	v, err := vitals.Read(t.Context(), s.Admin)
	if err != nil {
		t.Fatal(err)
	}
	asked := func(reason string) int { return int(v.Counters.Sum("upstream_requests_total", "reason", reason)) }
	return cost{asked("whoami"), asked("fetch") + asked("bypass"), asked("write"), after.Since(before).CPU(), took}
}

// comeBack has everybody come at once, by 32 connections.
func comeBack(t *testing.T, s *sidecar.Sidecar, users []homeserver.User) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}}
	defer client.CloseIdleConnections()
	var next, failed atomic.Int64
	send := func(method string, u homeserver.User, body string) {
		path := "/_matrix/client/v3/presence/" + url.PathEscape(u.ID) + "/status"
		r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
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
				if i >= len(users) {
					return
				}
				send(http.MethodGet, users[i], "")
				for n := 0; i%restless == 0 && n < 5; n++ {
					send(http.MethodPut, users[i], fmt.Sprintf(`{"presence":"online","status_msg":"%d"}`, n))
				}
			}
		})
	}
	all.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d of the crowd's requests failed", n)
	}
}
