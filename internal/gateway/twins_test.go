package gateway

import (
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// twins are two equal homeservers, one of them behind us, that the same clients talk to at
// the same time.
type twins struct {
	*proxy
	direct, behind *modelled

	mu    sync.Mutex
	wrote map[string]string // by whom, last
}

// send sends a request to both.
func (tw *twins) send(who actor, method, target, body string) {
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = tw.direct.serve(httptest.NewRecorder(), request(method, target, who.token, body))
	})
	both.Go(func() { tw.Do(request(method, target, who.token, body)) })
	both.Wait()
}

// live has a device do the same for a while: it polls, and may write and type at some pace.
func (tw *twins) live(random *rand.Rand, who actor, until time.Time) (highest string, all *sync.WaitGroup) {
	all = new(sync.WaitGroup)
	if random.IntN(6) == 0 {
		return "", all // it is away
	}
	words := []string{"online", "online", "unavailable", "offline"}
	if tw.behind.Name == "tuwunel" {
		words = append(words, "busy", "foo")
	}
	word, written := testkit.Pick(random, words...), testkit.Pick(random, "online", "unavailable", "offline")
	timeout, pause := testkit.Pick(random, 0, 1000, 10_000, 26_000, 29_900, 30_000), testkit.Pick(random, 100, 500, 2000, 5000)
	if timeout == 0 {
		pause = max(pause, 500)
	}
	pace := func(every time.Duration, f func()) {
		if every == 0 {
			return
		}
		start := time.Duration(random.Int64N(int64(every)))
		all.Go(func() {
			for time.Sleep(start); time.Now().Before(until); time.Sleep(every) {
				f()
			}
		})
	}
	pace(time.Duration(pause)*time.Millisecond+time.Duration(random.IntN(1e6)), func() {
		tw.send(who, "GET", fmt.Sprintf("%s?since=s&timeout=%d&set_presence=%s", syncPath, timeout, word), "")
	})
	pace(testkit.Pick(random, 0, 0, 3*time.Second, 11*time.Second), func() {
		tw.mu.Lock()
		tw.wrote[who.userID] = written
		tw.mu.Unlock()
		tw.send(who, "PUT", statusPath(who.userID), fmt.Sprintf(`{"presence":%q}`, written))
	})
	types := testkit.Pick(random, 0, 0, 2*time.Second, 70*time.Second)
	if tw.behind.Name == "synapse" && word == "offline" {
		// It would keep in place for ever what its syncs have said before, but brings back
		// nothing that has ended up to refresh sooner.
		types = 0
	}
	pace(types, func() {
		tw.send(who, "PUT", "/_matrix/client/v3/rooms/!r:x/typing/x", "{}")
	})
	return word, all
}

const twinPhase, twinPhases = 240 * time.Second, 3

// Two equal homeservers, one behind the busy profile or another, get the same random traffic. A
// watcher looks at each user every second. At times both homeservers lose what they had of one. What a request changes is seen at once, what
// timers change no later than a ttl; in the end both are the same; and who syncs all the time is
// never offline. Such a test found most of what TestSyncsShowWhatTheyWouldWithoutUs and its
// neighbours are about.
func TestTwins(t *testing.T) {
	if testkit.Race {
		t.Skip("the race detector of Go 1.26 fails a check of its own (tsan_rtl.cpp) about so many goroutines in a bubble; make runs it without")
	}
	profiles := map[string]func() *options{
		"busy": func() *options {
			return &options{
				RepeatWrites: "absorb", OverLimit: "coalesce", SyncPresence: "limit",
				WriteLimit: &rate{Events: 2, Window: time.Second, Burst: 5},
				SyncLimit:  &rate{Events: 1, Window: 2 * time.Second, Burst: 5},
			}
		},
		"absorbing": func() *options { return &options{RepeatWrites: "absorb", WriteLimit: &rate{Off: true}} },
		"tight": func() *options {
			return &options{SyncPresence: "limit", WriteLimit: &rate{Off: true}, SyncLimit: &rate{Events: 1, Window: 30 * time.Second, Burst: 1}}
		},
	}
	for _, name := range []string{"synapse", "dendrite", "tuwunel"} {
		for profile, handler := range profiles {
			t.Run(name+"/"+profile, func(t *testing.T) {
				random := testkit.Rand(t)
				synctest.Test(t, func(t *testing.T) {
					h := handler()
					h.Homeserver = name
					p := newProxy(t, h)
					tw := &twins{proxy: p, behind: p.behaves(name), wrote: make(map[string]string)}
					tw.direct = &modelled{Homeserver: testkit.NewHomeserver(name, time.Now()), hs: p.hs}
					var users sync.WaitGroup
					for n := range 4 {
						userID, seed := fmt.Sprintf("@user%d:example.com", n), random.Uint64()
						users.Go(func() { tw.user(rand.New(rand.NewPCG(seed, seed)), userID) })
					}
					users.Wait()
				})
			})
		}
	}
}

func (tw *twins) lastWritten(userID string) string {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	return tw.wrote[userID]
}

// user lives through some phases with some devices, and is watched.
func (tw *twins) user(random *rand.Rand, userID string) {
	var devices []actor
	for n := range 1 + random.IntN(3) {
		who := actor{userID, fmt.Sprintf("%s/%d", userID, n)}
		tw.hs.Mu.Lock()
		tw.hs.Tokens[who.token] = userID
		tw.hs.Mu.Unlock()
		devices = append(devices, who)
	}
	var directly []string // each second
	var lost time.Time
	for range twinPhases {
		end := time.Now().Add(twinPhase)
		var clients []*sync.WaitGroup
		highest := ""
		for _, who := range devices {
			word, client := tw.live(random, who, end)
			clients = append(clients, client)
			if testkit.StateRank(word) > testkit.StateRank(highest) {
				highest = word
			}
		}
		loss := end
		if tw.behind.Name != "dendrite" && random.IntN(3) == 0 {
			loss = end.Add(-time.Duration(random.Int64N(int64(twinPhase))))
		}
		for time.Sleep(time.Duration(random.IntN(1e9))); time.Now().Before(end); time.Sleep(time.Second) {
			if !time.Now().Before(loss) {
				tw.direct.Forget(userID, time.Now())
				tw.behind.Forget(userID, time.Now())
				loss, lost = end, time.Now()
			}
			shown, _ := tw.direct.Presence(userID, time.Now())
			state, timed := tw.behind.Presence(userID, time.Now())
			got := tw.shows("bob-token", userID)
			directly = append(directly, shown)
			if got != "offline" && time.Since(lost) < defaultTTL+time.Second {
				timed = lost // nobody has read what would have told us
			}
			if got != state && (timed.IsZero() || time.Since(timed) > defaultTTL+time.Second) {
				tw.t.Errorf("%s: a reader sees %q, the homeserver has %q since %v", userID, got, state, timed)
			}
			// A client that slows down or leaves is gone up to refresh sooner. By now none has
			// for a while.
			if left := time.Until(end); tw.behind.Name == "synapse" && left < twinPhase-time.Minute && got == "offline" {
				if near := strings.Join(directly[len(directly)-50:], " "); !strings.Contains(near, got) {
					tw.t.Errorf("%s: offline after %v, and without us %s", userID, time.Since(end.Add(-twinPhase)), near)
				}
			}
			recent := strings.Join(directly[max(0, len(directly)-110):], " ")
			if time.Until(end) > 10*time.Second || strings.Contains(recent, got) {
				continue
			}
			if tw.behind.Name == "dendrite" && (highest == "" || got == highest || got == tw.lastWritten(userID)) {
				continue // see TestSyncsShowWhatTheyWouldWithoutUs
			}
			if tw.behind.Name == "tuwunel" && got == "unavailable" && tw.direct.Silence(userID, time.Now()) > 5*time.Minute-25*time.Second {
				continue // one of the devices is idle, up to refresh sooner
			}
			tw.t.Errorf("%s: a reader sees %q, and without us %s", userID, got, recent)
		}
		for _, client := range clients {
			client.Wait()
		}
	}
}
