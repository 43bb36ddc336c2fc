package history

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/inprocess"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/redisserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// state is what a homeserver has of a user, and what a write says.
type state struct {
	Presence string  `json:"presence"`
	Status   *string `json:"status_msg,omitempty"`
}

func (s state) String() string {
	text, _ := json.Marshal(s)
	return string(text)
}

// taker is a homeserver that takes all writes, after a while, and remembers them.
type taker struct {
	keepsStatus bool // of a write that says none, as Dendrite does

	mu     sync.Mutex // guards all below
	states map[string]state
	seen   map[string][]string // the status messages of a user, in the order in which they came
}

func (hs *taker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, user, _ := strings.Cut(r.Header.Get("Authorization"), ".")
	w.Header().Set("Content-Type", "application/json")
	if r.Method != http.MethodPut {
		fmt.Fprintf(w, `{"user_id":%q}`, user)
		return
	}
	var said state
	if err := json.NewDecoder(r.Body).Decode(&said); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	time.Sleep(rand.N(20 * time.Millisecond))
	hs.mu.Lock()
	hs.states[user] = hs.after(hs.states[user], said)
	if said.Status != nil {
		hs.seen[user] = append(hs.seen[user], *said.Status)
	}
	hs.mu.Unlock()
	_, _ = io.WriteString(w, "{}")
}

// has tells that a user's state is this one.
func (hs *taker) has(user string, is state) bool {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return hs.states[user].String() == is.String()
}

// after is what there is after a write.
func (hs *taker) after(before, said state) state {
	if said.Status == nil && hs.keepsStatus {
		said.Status = before.Status
	}
	return said
}

// Writes of a user that wait, at whichever nodes, come to the homeserver in the order in which they were acknowledged, and
// leave there what all of them would have.
func TestWritesThatWaitComeInTheirOrder(t *testing.T) {
	users, each := suite.BySize(8, 40), suite.BySize(20, 100)
	for _, dialect := range []string{"synapse", "dendrite"} {
		t.Run(dialect, func(t *testing.T) {
			hs := &taker{keepsStatus: dialect == "dendrite", states: make(map[string]state), seen: make(map[string][]string)}
			upstream := httptest.NewServer(hs)
			defer upstream.Close()
			between := newShared(t, &scenario{nodes: 3, kind: redisserver.Redis, writes: "homeserver " + dialect + "\nwrite_limit 4/1s burst 1\nover_limit coalesce"})
			between.timeout = suite.Patience // none goes on alone
			server, err := inprocess.Start(between.directives(upstream.URL, 1))
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := server.Stop(); err != nil {
					t.Error(err)
				}
			}()
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: users}}
			defer client.CloseIdleConnections()
			var running sync.WaitGroup
			began := time.Now()
			want, waited := make([]state, users), make([]int, users)
			name := func(n int) string { return fmt.Sprintf("@user%d:hs", n) }
			for n := range users {
				running.Go(func() { want[n], waited[n] = hs.write(t, client, server.URL, name(n), each) })
			}
			running.Wait()
			passed := 2 + int(4*time.Since(began).Seconds()) // at most, of each user's. A slow machine lets all pass
			for n := range users {
				suite.Eventually(t, "the homeserver has what was written last", func() bool { return hs.has(name(n), want[n]) })
				if waited[n] < each-passed {
					t.Errorf("only %d of %d writes waited, and at most %d may have passed", waited[n], each, passed)
				}
			}
			hs.mu.Lock()
			defer hs.mu.Unlock()
			for user, seen := range hs.seen {
				if !slices.IsSorted(seen) {
					t.Errorf("of %s came %v", user, seen)
				}
			}
		})
	}
}

// write has a user's devices write one after the other, each through any node, and returns what there should be
// then, and how many writes waited.
func (hs *taker) write(t *testing.T, client *http.Client, url, user string, n int) (want state, coalesced int) {
	for i := range n {
		said := state{Presence: []string{"online", "unavailable"}[rand.IntN(2)]}
		if rand.IntN(3) > 0 {
			status := fmt.Sprintf("%04d", i)
			said.Status = &status
		}
		r, err := http.NewRequest(http.MethodPut, url+"/_matrix/client/v3/presence/"+user+"/status", strings.NewReader(said.String()))
		if err != nil {
			t.Error(err)
			return
		}
		r.Header.Set("Authorization", "Bearer "+token(user, rand.IntN(3)))
		r.Header.Set("X-Node", fmt.Sprint(rand.IntN(3)))
		resp, err := client.Do(r)
		if err != nil {
			t.Error(err)
			return
		}
		resp.Body.Close()
		switch {
		case resp.StatusCode == http.StatusOK:
			want = hs.after(want, said)
		default:
			t.Errorf("a write got %d", resp.StatusCode)
		}
		if resp.Header.Get("Cache-Status") == "matrix_presence; detail=coalesced" {
			coalesced++
		}
		time.Sleep(rand.N(60 * time.Millisecond))
	}
	return want, coalesced
}
