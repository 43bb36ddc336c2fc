package gateway

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// busyRoom is a room on a homeserver that takes its time for presence. Its first user has opened it.
type busyRoom struct {
	*room
	delay  atomic.Int64
	broken atomic.Bool
	n      int // targets that were read
}

func newBusyRoom(t *testing.T, o *options) *busyRoom {
	t.Helper()
	b := &busyRoom{room: newRoom(t, o)}
	members := b.hs.Intercept
	b.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if strings.Contains(r.URL.Path, "/presence/") || strings.HasSuffix(r.URL.Path, "/whoami") {
			time.Sleep(time.Millisecond + time.Duration(b.delay.Load()))
			if b.broken.Load() {
				answer(w, 503, `{"errcode":"M_UNKNOWN","error":"Broken"}`)
				return true, nil
			}
		}
		return members(w, r)
	})
	return b
}

// ask has everybody in the room ask twice for somebody of whom nothing is known, and waits for a second.
func (b *busyRoom) ask() {
	var all sync.WaitGroup
	for range 2 {
		for _, user := range b.users[:12] {
			b.n++
			target := fmt.Sprintf("@other%d:example.com", b.n)
			all.Go(func() { b.Get(tokenOf(user), target) })
		}
		time.Sleep(500 * time.Millisecond)
	}
	all.Wait()
}

// open has a user open the room.
func (b *busyRoom) open(user string) {
	b.t.Helper()
	b.Want(b.Do(request("GET", listPath, tokenOf(user), "")), 200, b.list(user), "")
	time.Sleep(time.Second) // whose it is may be asked meanwhile
	b.reads(user)
}

func (b *busyRoom) level() policy.BrownOutLevel { return b.memory.brownOut.Level(b.memory.now()) }

// reach has the homeserver be slow until presence gives way as far as that, and then be quick.
func (b *busyRoom) reach(level policy.BrownOutLevel) {
	b.t.Helper()
	b.ask()
	b.delay.Store(int64(50 * time.Millisecond)) // slow, and no more than that
	if level > policy.BrownOutHold {
		b.delay.Store(int64(300 * time.Millisecond))
	}
	for range 60 {
		if b.level() == level {
			b.delay.Store(0)
			return
		}
		b.ask()
	}
	b.t.Fatalf("the level is %s after a minute, want %s", policy.BrownOutNames[b.level()], policy.BrownOutNames[level])
}

func brownOut() *options { return &options{BrownOut: "on", Homeserver: "synapse", Cache: new(caching)} }

// Presence gives way to a homeserver that is slow, and only where that is configured. When it is quick
// again, presence is back within a minute. Each change is one line in the log.
func TestPresenceGivesWayToASlowHomeserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBusyRoom(t, brownOut())
		logs := b.logged()
		b.reach(policy.BrownOutOff)
		if b.samples()["brown_out_level"] != 3 {
			t.Errorf("brown_out_level is %v", b.samples()["brown_out_level"])
		}
		began := time.Now()
		for b.level() != policy.BrownOutNone && time.Since(began) < 2*time.Minute {
			b.ask()
		}
		if took := time.Since(began); took > time.Minute {
			t.Errorf("presence is back after %v", took)
		}
		if gives, back := logs.Count("presence gives way"), logs.Count("presence comes back"); gives != 2 || back != 3 { // to hold at once
			t.Errorf("%d and %d lines in the log", gives, back)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		b := newBusyRoom(t, &options{Homeserver: "synapse"})
		b.delay.Store(int64(time.Second))
		for range 20 {
			b.ask()
		}
		if s := b.samples(); s["brown_out_level"] != 0 || s["outcomes_total shed read"] != 0 {
			t.Errorf("without brown_out the level is %v, and %v reads were shed", s["brown_out_level"], s["outcomes_total shed read"])
		}
	})
}

// In spare what is known is shown for twice its time, to those whose permission is as fresh as ever.
func TestSpareShowsOlderStatesToThosePermitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBusyRoom(t, brownOut())
		viewer, target := tokenOf(b.users[1]), b.users[2]
		b.open(b.users[0])
		before := b.hs.Count("GET")
		time.Sleep(25 * time.Second)
		b.Want(b.Do(request("GET", listPath, viewer, "")), 200, "", "")
		time.Sleep(10 * time.Second) // 35 s after the state, 10 s after the list
		b.force(policy.BrownOutSpare)
		b.Want(b.Get(viewer, target), 200, "", "matrix_presence; hit; ttl=-")
		if got := b.Get(viewer, target).Header.Get("Cache-Status"); !strings.HasSuffix(got, "; detail=brown-out") {
			t.Errorf("Cache-Status is %q", got)
		}
		if n := b.hs.Count("GET") - before; n > 0 {
			t.Errorf("the homeserver was asked %d times", n)
		}
		// A write ends it, as ever.
		b.Want(b.Put(tokenOf(target), target, `{"presence":"unavailable"}`), 200, "", "")
		b.Want(b.Get(viewer, target), 200, `{"presence":"unavailable","status_msg":""}`, "matrix_presence; fwd=miss")
	})
}

// force has presence give way as far as that, until a while after now, because all that was asked took long.
func (b *busyRoom) force(level policy.BrownOutLevel) {
	b.t.Helper()
	brown, now, slow := b.memory.brownOut, b.memory.now(), 3*time.Second
	if level == policy.BrownOutSpare {
		slow = 40 * time.Millisecond // slow, and no more than that
	}
	took := slow
	if brown.IsNone() {
		took = time.Millisecond // at its best
	}
	for n := 0; n == 0 || n < 20 && brown.Level(now) != level; n++ {
		var probes []*policy.Probe
		for i := range 40 {
			probes = append(probes, brown.Departs(policy.ProbeFetch, fmt.Sprint(i), now))
		}
		for _, p := range probes {
			p.Arrives(false, now.Add(took))
		}
		now, took = now.Add(3*time.Second), slow
	}
	if b.level() != level {
		b.t.Fatalf("the level is %s, want %s", policy.BrownOutNames[b.level()], policy.BrownOutNames[level])
	}
}

// In hold and off what needs the homeserver is refused with a 429 that says when to come again, and what doesn't
// is answered as ever. What isn't about presence is not touched.
func TestOffRefusesWhatNeedsTheHomeserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBusyRoom(t, brownOut())
		b.open(b.users[0])
		b.force(policy.BrownOutOff)
		viewer, known := tokenOf(b.users[0]), b.users[1]
		gets, whoamis, puts := b.hs.Count("GET"), b.hs.Count("whoami"), b.hs.Count("PUT")
		b.Want(b.Get(viewer, known), 200, "", "matrix_presence; hit; ttl=")
		unstable := "/_matrix/client/unstable/presence/" + known + "/status"
		for what, resp := range map[string]*http.Response{
			"a read of somebody unknown":  b.Get(viewer, "@unknown:example.com"),
			"a read by somebody unknown":  b.Get("bob-token", known),
			"a write":                     b.Put(viewer, b.users[0], `{"presence":"online"}`),
			"a write by somebody unknown": b.Put("bob-token", bob, `{"presence":"online"}`),
			"an odd spelling":             b.Do(request("GET", unstable, viewer, "")),
			"a read with two tokens":      b.Do(request("GET", statusPath(known)+"?access_token=x", viewer, "")),
		} {
			b.WantError(resp, 429, "M_LIMIT_EXCEEDED")
			if got := resp.Header.Get("Cache-Status"); got != "matrix_presence; detail=brown-out" {
				t.Errorf("%s: Cache-Status is %q", what, got)
			}
			if after := resp.Header.Get("Retry-After"); after != "10" && (after < "5" || after > "9" || len(after) != 1) {
				t.Errorf("%s: Retry-After is %q", what, after)
			}
		}
		b.WantCounts(map[string]int{"GET": gets, "whoami": whoamis, "PUT": puts})
		b.wantMetrics(map[string]float64{"outcomes_total shed read": 4, "outcomes_total shed write": 2})

		b.Want(b.Do(request("GET", "/_matrix/client/v3/joined_rooms", viewer, "")), 200, `{"other":true}`, "")
		if got := b.sync(viewer, "set_presence=unavailable"); got != "set_presence=unavailable" {
			t.Errorf("a sync reached the homeserver as %q", got)
		}
		// A token that ends has ended.
		b.Want(b.Do(request("POST", "/_matrix/client/v3/logout", viewer, "")), 200, "", "")
		if resp := b.Get(viewer, known); resp.StatusCode == 200 {
			t.Error("a token that was logged out reads on")
		}
	})
}

// A permission ends when it does, however far presence gives way.
func TestPermissionsAreNotStretched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, level := range []policy.BrownOutLevel{policy.BrownOutSpare, policy.BrownOutHold, policy.BrownOutOff} {
			o := brownOut()
			o.Cache.StaleIfError = time.Hour
			b := newBusyRoom(t, o)
			b.Get("bob-token", alice)
			time.Sleep(29 * time.Second)
			b.force(level)
			b.Want(b.Get("bob-token", alice), 200, "", "matrix_presence; hit; ttl=0")
			time.Sleep(time.Second)
			gets := b.hs.Count("GET")
			resp := b.Get("bob-token", alice)
			if shed := resp.StatusCode == 429; resp.StatusCode == 200 && b.hs.Count("GET") == gets || shed != (level == policy.BrownOutOff) {
				t.Errorf("%s: status %d, Cache-Status %q", policy.BrownOutNames[level], resp.StatusCode, resp.Header.Get("Cache-Status"))
			}
		}
	})
}

// A homeserver that fails, and isn't only slow, is what stale_if_error is for: who may see what is
// stale then may in a brown-out.
func TestStaleIfErrorInABrownOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := brownOut()
		o.Cache.StaleIfError = 10 * time.Minute
		o.Identity = &identifying{TTL: time.Hour}
		b := newBusyRoom(t, o)
		b.Get("bob-token", b.users[3])
		b.ask()
		b.broken.Store(true)
		time.Sleep(40 * time.Second)
		for range 30 {
			b.ask()
		}
		if b.level() != policy.BrownOutOff {
			t.Fatalf("the level is %s", policy.BrownOutNames[b.level()])
		}
		b.Want(b.Get("bob-token", b.users[3]), 200, "", "matrix_presence; hit; ttl=-")
	})
}

// What waits in a brown-out was answered 200 only where writes may wait, costs its user's budget once, and
// is sent when presence is back, the newest of each device.
func TestWritesWaitInABrownOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := coalescing()
		o.BrownOut, o.Homeserver = "on", "synapse"
		b := newBusyRoom(t, o)
		writer, token := b.users[0], tokenOf(b.users[0])
		b.open(writer)
		sent := b.hs.bodies()
		b.force(policy.BrownOutOff)
		for n := range 3 {
			b.Want(b.Put(token, writer, message(n)), 200, "{}", "matrix_presence; detail=coalesced")
		}
		if resp := b.Get(token, writer); resp.StatusCode != 429 {
			t.Errorf("a read of who has a write waiting: %d", resp.StatusCode)
		}
		for range 6 { // the homeserver stays slow
			time.Sleep(5 * time.Second)
			b.force(policy.BrownOutOff)
		}
		if len(sent()) > 0 {
			t.Errorf("sent were %q while the homeserver is to be spared", sent())
		}
		time.Sleep(time.Minute)
		if got := sent(); len(got) != 1 || got[0] != message(2) {
			t.Errorf("sent were %q, want the newest", got)
		}
		b.wantDeliveries(map[string]float64{"superseded": 2, "delivered": 1})
		b.Want(b.Get(token, writer), 200, `{"presence":"online","status_msg":"2"}`, "")
	})
}

// Where syncs are limited, none is within its budget in hold: a change that can be taken out is, and what
// the homeserver needs to hear it hears.
func TestSyncsInABrownOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := brownOut()
		o.SyncPresence = "limit"
		b := newBusyRoom(t, o)
		b.sync("bob-token", "since=s&set_presence=online&timeout=0")
		time.Sleep(2 * time.Second)
		b.sync("bob-token", "since=s&set_presence=online&timeout=0")
		b.force(policy.BrownOutHold)
		time.Sleep(time.Second)
		if got := b.sync("bob-token", "since=s&set_presence=unavailable&timeout=0"); strings.Contains(got, "unavailable") {
			t.Errorf("a change over the budget reached the homeserver: %q", got)
		}
		b.wantMetrics(map[string]float64{"sync_writes_total limited": 1})
		time.Sleep(25 * time.Second)
		if got := b.sync("bob-token", "since=s&set_presence=online&timeout=0"); got != "since=s&set_presence=online&timeout=0" {
			t.Errorf("a repeat that the homeserver needs reached it as %q", got)
		}
	})
}

// In mode observe nothing changes, and it is counted what would.
func TestBrownOutInModeObserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := brownOut()
		o.Mode = "observe"
		b := newBusyRoom(t, o)
		b.ask()
		b.delay.Store(int64(time.Second))
		for range 30 {
			b.ask()
		}
		s := b.samples()
		if s["brown_out_level"] != 3 || s["observed_total shed read"] == 0 || s["outcomes_total shed read"] > 0 {
			t.Errorf("level %v, %v would have been shed, and %v were", s["brown_out_level"], s["observed_total shed read"], s["outcomes_total shed read"])
		}
		b.Want(b.Get("bob-token", alice), 200, b.hs.Presence[alice], "")
		b.Want(b.Put("bob-token", bob, `{"presence":"online"}`), 200, "{}", "")
	})
}

// A write that was answered 200 is not lost because the homeserver is spared for long.
func TestWriteThatWaitsIsSentBeforeItIsTooOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := coalescing()
		o.BrownOut, o.Homeserver = "on", "synapse"
		b := newBusyRoom(t, o)
		b.open(b.users[0])
		b.force(policy.BrownOutOff)
		b.Want(b.Put(tokenOf(b.users[0]), b.users[0], message(0)), 200, "{}", "matrix_presence; detail=coalesced")
		for range 11 { // the homeserver stays slow
			time.Sleep(5 * time.Second)
			b.force(policy.BrownOutOff)
		}
		b.wantDeliveries(map[string]float64{"delivered": 1})
	})
}

// slowWriter is a client that doesn't read its answer until it is let go on.
type slowWriter struct {
	*httptest.ResponseRecorder
	reads chan struct{}
}

func (s slowWriter) Write(p []byte) (int, error) {
	<-s.reads
	return s.ResponseRecorder.Write(p)
}

// In hold a place is the homeserver's time. Whoever sends a body slowly, or never, or doesn't read their answer, had
// one for as long as they liked. A few such requests, which take no account, kept everybody else out, and as nothing
// was measured any more, for good.
func TestPlacesAreNotTheClientsToKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBusyRoom(t, brownOut())
		b.open(b.users[0])
		b.Get("bob-token", alice)
		for _, user := range b.users[:14] { // who aren't known are one sender, their address, and it leaves the next place to others
			b.Get(tokenOf(user), alice)
		}
		members := b.hs.Intercept
		b.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return true, failed(http.StatusBadRequest, err)
			}
			return members(w, r)
		})
		b.force(policy.BrownOutHold)
		unstable := "/_matrix/client/unstable/presence/" + alice + "/status"
		reads := make(chan struct{})
		var clients sync.WaitGroup
		var bodies []*io.PipeWriter
		for i := range 10 {
			for _, r := range []*http.Request{
				request("PUT", statusPath(b.users[i]), tokenOf(b.users[i]), ""),
				request("GET", statusPath(alice), tokenOf(b.users[i]), ""),
				request("GET", unstable, tokenOf(b.users[i]), ""),
				request("GET", unstable, "", ""), // of nobody
				request("GET", statusPath(alice)+"?access_token=x", tokenOf(b.users[i]), ""),
			} {
				body, writer := io.Pipe()
				bodies = append(bodies, writer)
				r.Body, r.ContentLength = body, -1
				clients.Go(func() {
					time.Sleep(time.Duration(i) * time.Second)
					b.Do(r)
				})
				clients.Go(func() { _, _ = writer.Write([]byte("{")) })
			}
			clients.Go(func() {
				time.Sleep(time.Duration(i) * time.Second)
				r := prepared(request("GET", unstable, tokenOf(b.users[i]), ""))
				_ = b.gateway.Serve(slowWriter{httptest.NewRecorder(), reads}, r, nextFunc(func(w http.ResponseWriter, r *http.Request) error {
					answered := httptest.NewRecorder() // by a homeserver that doesn't wait for the client
					err := b.hs.ServeHTTP(answered, r)
					w.WriteHeader(answered.Code)
					_, _ = w.Write(answered.Body.Bytes())
					return err
				}))
			})
		}
		time.Sleep(5*time.Second + time.Second/2) // a place that was used rests for a moment
		for i := range 2 {
			b.Want(b.Get(tokenOf(b.users[12+i]), fmt.Sprintf("@unheard%d:example.com", i)), 200, "", "matrix_presence; fwd=miss")
			time.Sleep(time.Second)
		}
		for n := 0; b.level() != policy.BrownOutNone && n < 120; n++ {
			b.Get(tokenOf(b.users[2+n%10]), fmt.Sprintf("@other%d:example.com", n))
			time.Sleep(time.Second)
		}
		if b.level() != policy.BrownOutNone {
			t.Errorf("after two minutes of a homeserver that is quick the level is %s", policy.BrownOutNames[b.level()])
		}
		close(reads)
		for _, body := range bodies {
			_ = body.CloseWithError(io.ErrUnexpectedEOF)
		}
		clients.Wait()
	})
}

// Whoever has many tokens is one sender. And in mode observe, nobody without an account tells anything of the homeserver:
// requests go as they came, and may have been made to fail.
func TestOneClientDecidesNothing(t *testing.T) {
	for mode, ask := range map[string]func(b *busyRoom, n int){
		"enforce": func(b *busyRoom, n int) { // one user, whose lookups fail
			token := fmt.Sprint("device-", n)
			b.memory.identities.Doubt(matrix.Credential{Token: token})
			b.Get(token, alice)
		},
		"observe": func(b *busyRoom, n int) {
			r := request("GET", statusPath(alice), "", "")
			r.RemoteAddr = fmt.Sprintf("192.0.2.%d:1", n)
			r.Header.Set("X-Long", strings.Repeat("x", 16_500))
			b.Do(r)
		},
	} {
		t.Run(mode, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := brownOut()
				o.Mode, o.LearnOff = mode, true
				b := newBusyRoom(t, o)
				for n := range 12 { // before anybody is asked behind a client's back
					b.hs.Tokens[fmt.Sprint("device-", n)] = bob
				}
				for n := range 12 {
					b.Get(fmt.Sprint("device-", n), alice)
				}
				answers := b.hs.Intercept
				b.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if r.Header["X-Long"] != nil || strings.Contains(r.Header.Get("Authorization"), "device-") {
						return true, failed(502, errors.New("the homeserver closed the connection"))
					}
					return answers(w, r)
				})
				level := policy.BrownOutNone
				for range 40 {
					for n := range 12 {
						ask(b, n)
					}
					b.Get("carol-token", alice)
					time.Sleep(time.Second)
					level = max(level, b.level())
				}
				if level != policy.BrownOutNone {
					t.Errorf("presence gave way: %s", policy.BrownOutNames[level])
				}
			})
		})
	}
}

// Where a reload switches it off, presence is back at once, and what was known of the homeserver is forgotten.
func TestBrownOutThatIsSwitchedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBusyRoom(t, brownOut())
		b.reach(policy.BrownOutOff)
		on := b.gateway.Settings()
		off := *on
		off.BrownOut = false
		b.memory.WatchFor([]*Settings{on, &off}) // as during a reload
		if got := b.samples()["brown_out_level"]; got != 3 {
			t.Errorf("before the old configuration ends the level is %v", got)
		}
		b.memory.WatchFor([]*Settings{&off})
		if level, ok := b.samples()["brown_out_level"]; ok || b.level() != policy.BrownOutNone {
			t.Errorf("brown_out_level is %v", level)
		}
		b.memory.WatchFor([]*Settings{on})
		b.delay.Store(0)
		b.ask()
		if level, ok := b.samples()["brown_out_level"]; !ok || level != 0 {
			t.Errorf("switched on again: brown_out_level is %v, %v", level, ok)
		}
	})
}
