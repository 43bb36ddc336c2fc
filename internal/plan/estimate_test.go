package plan

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// about returns a question about a small server.
func about(t testing.TB, users int, profile string) *Question {
	t.Helper()
	settings, err := Profile(profile)
	if err != nil {
		t.Fatal(err)
	}
	costs, err := DefaultCosts("synapse")
	if err != nil {
		t.Fatal(err)
	}
	l := DefaultLoad()
	l.Users, l.Rooms, l.Looks = users, []RoomKind{{3, 20}}, 20
	return &Question{Load: l, Settings: settings, Profile: profile, Homeserver: "synapse", Costs: costs, Nodes: 1, Cores: 2}
}

func estimate(t *testing.T, q *Question) *Answer {
	t.Helper()
	a, err := q.Estimate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// withoutRace skips a long simulation under the race detector, which makes it ten times as slow and has nothing to find in what
// one goroutine does. "make test" runs it without.
func withoutRace(t *testing.T) {
	t.Helper()
	if testkit.Race {
		t.Skip("skipped under the race detector; make test-unit runs it without")
	}
}

// The blocks have all users and all ghosts, whatever their numbers.
func TestBlocksHaveEverybody(t *testing.T) {
	for _, users := range []int{1, 1999, 2000, 12345, 999_999, MaxUsers} {
		q := about(t, users, "default")
		q.Load.Bridges = []Bridge{{777, Duration(time.Second), Duration(time.Minute)}, {1, Duration(time.Second), Duration(time.Minute)}}
		b := q.cut()
		allUsers, allGhosts := 0, 0
		for i := range b.n {
			u, g := b.people(i)
			allUsers += u
			for _, n := range g {
				allGhosts += n
			}
		}
		if allUsers != users || allGhosts != 778 || b.simulated < 1 || b.share <= 0 || b.share > 1 {
			t.Errorf("%d users: blocks have %d users and %d ghosts, %d of %d blocks are %v of all", users, allUsers, allGhosts, b.simulated, b.n, b.share)
		}
	}
}

// Where nobody reads or writes, nothing reaches the homeserver for presence.
func TestWithoutPresenceThereIsNothingToSave(t *testing.T) {
	q := about(t, 300, "default")
	q.Load.Opens, q.Load.Writes, q.Load.Idles = 0, 0, 0
	a := estimate(t, q)
	if a.Without.High != 0 || a.With.High != 0 || a.HitRatio != (Range{}) {
		t.Errorf("without %v, with %v, %v hits", a.Without, a.With, a.HitRatio)
	}
	if a.Clients["sync"].Low == 0 || a.Upstream["sync"] != a.Clients["sync"] {
		t.Errorf("syncs: %v of clients, %v reach the homeserver", a.Clients["sync"], a.Upstream["sync"])
	}
}

// A part of a big server tells the same as a larger part: both ranges have something in common.
func TestPartsOfAServerAgree(t *testing.T) {
	withoutRace(t)
	small, large := about(t, 1_500_000, "busy"), about(t, 1_500_000, "busy")
	small.Load.Online, large.Load.Online = 0.004, 0.004
	small.Load.Rooms, large.Load.Rooms = []RoomKind{{1, 20}}, []RoomKind{{1, 20}}
	small.Blocks, large.Blocks = 8, 75
	few, many := estimate(t, small), estimate(t, large)
	if few.Simulated.Share > 0.011 || many.Simulated.Share < 0.099 {
		t.Fatalf("%v and %v of the server were simulated", few.Simulated.Share, many.Simulated.Share)
	}
	for name, of := range map[string]func(*Answer) Range{
		"with": func(a *Answer) Range { return a.With }, "without": func(a *Answer) Range { return a.Without }, "hits": func(a *Answer) Range { return a.HitRatio },
		"homeserver": func(a *Answer) Range { return a.CPUWith }, "own": func(a *Answer) Range { return a.Own }, "memory": func(a *Answer) Range { return a.Memory },
	} {
		one, other := of(few), of(many)
		if one.Low > other.High || other.Low > one.High {
			t.Errorf("%s: %v of %d users, %v of %d", name, one, few.Simulated.Users, other, many.Simulated.Users)
		}
	}
}

// The LRU's share is a block's: a table that is too small for a server is so for each part of it.
func TestASmallTableIsSmallForEachPart(t *testing.T) {
	withoutRace(t)
	q := about(t, 1000, "default")
	q.Load.Online, q.Load.Poll = 0.1, Duration(10*time.Second)
	q.Blocks = 1
	enough := estimate(t, q)
	q.Settings.Sizes.Permissions = 50
	tooFew := estimate(t, q)
	if tooFew.HitRatio.High >= enough.HitRatio.Low || tooFew.Evicted.Low == 0 {
		t.Errorf("hits: %v with 50 permissions, %v with a million", tooFew.HitRatio, enough.HitRatio)
	}
	if !strings.Contains(strings.Join(tooFew.Advice, "\n"), "permissions") || strings.Contains(strings.Join(enough.Advice, "\n"), "permissions") {
		t.Errorf("advice: %q with 50 permissions, %q with a million", tooFew.Advice, enough.Advice)
	}
}

// A bridge that repeats itself is what the busy profile is for.
func TestTheBusyProfileSparesRepeats(t *testing.T) {
	for profile, saves := range map[string]bool{"default": true, "busy": true} {
		q := about(t, 200, profile)
		q.Load.Online = 0
		q.Load.Bridges = []Bridge{{10, Duration(400 * time.Millisecond), Duration(time.Minute)}}
		a := estimate(t, q)
		if limited := a.Outcomes["write"]["limited"].High > 0; limited != (profile == "default") {
			t.Errorf("%s: writes end as %v", profile, a.Outcomes["write"])
		}
		if got := a.With.High < a.Without.Low/5; got != saves {
			t.Errorf("%s: %v of %v", profile, a.With, a.Without)
		}
	}
}

// Of several nodes each knows of writes through the others.
func TestNodesHearOfWritesThroughOthers(t *testing.T) {
	settings, err := Profile("default")
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPlayer(Script{Settings: settings, Homeserver: "synapse", Nodes: 2})
	if err != nil {
		t.Fatal(err)
	}
	reader, writer := p.Device("@alice:test", "alice", false), p.Device("@bob:test", "bob", false)
	reader.node, writer.node = 0, 1
	for i, r := range []Request{
		{Kind: Read, By: reader, Target: p.User("@bob:test")}, {Kind: Read, By: reader, Target: p.User("@bob:test")},
		{Kind: Write, By: writer, Presence: 3}, {Kind: Read, By: reader, Target: p.User("@bob:test")},
	} {
		r.At = time.Duration(i) * 2 * time.Second
		p.Play(r)
	}
	c := p.Until(time.Minute)
	if c.Outcomes[Read][Miss] != 2 || c.Outcomes[Read][Hit] != 1 {
		t.Errorf("reads end as %v", c.Outcomes[Read])
	}
}

func TestAnAnswerIsATableAndJSON(t *testing.T) {
	q := about(t, 300, "busy")
	q.Load.Bridges = []Bridge{{20, Duration(time.Second), Duration(time.Minute)}}
	last := 0.0
	q.Progress = func(done float64) {
		if done <= last || done > 1 {
			t.Errorf("%v is done after %v", done, last)
		}
		last = done
	}
	a := estimate(t, q)
	if last != 1 {
		t.Errorf("%v was done in the end", last)
	}
	var table bytes.Buffer
	if err := a.WriteTable(&table); err != nil {
		t.Fatal(err)
	}
	for _, says := range []string{"presence requests/s", "CPU for presence", "memory of a node", "nodes", "a bridge of 20 ghosts", "absorbed", "assumed"} {
		if !strings.Contains(table.String(), says) {
			t.Errorf("the table doesn't say %q:\n%s", says, &table)
		}
	}
	text, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	var back Answer
	if err := json.Unmarshal(text, &back); err != nil || back.With != a.With || back.Load.Bridges[0] != q.Load.Bridges[0] {
		t.Errorf("%v: %+v", err, back)
	}
	for _, r := range []Range{a.With, a.Without, a.CPUWith, a.CPUWithout, a.Own, a.Memory, a.NodesNeeded, a.HitRatio, a.Saved} {
		if !(r.Low <= r.High) || math.IsInf(r.High, 0) {
			t.Errorf("%v is no range", r)
		}
	}
}

// What would take all memory, or hours, is refused, and the error says what to do.
func TestTooMuchToSimulateIsRefused(t *testing.T) {
	for says, make := range map[string]func(*Load){
		"smaller rooms": func(l *Load) { l.Rooms = []RoomKind{{100, 1_000_000}} },
		"a tenth": func(l *Load) {
			l.Bridges = []Bridge{{5_000_000, Duration(10 * time.Millisecond), Duration(time.Minute)}}
		},
	} {
		q := about(t, 5_000_000, "default")
		make(&q.Load)
		if _, err := q.Estimate(t.Context()); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want something about %q", err, says)
		}
	}
}

func TestAPlanCanBeInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	q := about(t, 20_000, "default")
	q.Progress = func(float64) { cancel() }
	if _, err := q.Estimate(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestCostsCanBeGiven(t *testing.T) {
	costs, err := DefaultCosts("dendrite")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(costs.Set("read=2"), costs.Set("hit=10-20.5")); err != nil {
		t.Fatal(err)
	}
	if costs.Homeserver[ServeRead].Is != (Range{2, 2}) || costs.Own[Hit].Is != (Range{10, 20.5}) || costs.Own[Hit].Source != "given" {
		t.Errorf("%+v, %+v", costs.Homeserver[ServeRead], costs.Own[Hit])
	}
	for _, bad := range []string{"", "read", "read=", "read=much", "read=-1", "read=2-1", "reed=1", "read=1-2-3", "read=NaN", "read=Inf", "read=1ms"} {
		if costs.Set(bad) == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if again, _ := DefaultCosts("dendrite"); again.Homeserver[ServeRead].Is == (Range{2, 2}) {
		t.Error("a cost that was given stays")
	}
	if _, err := DefaultCosts("conduit"); err == nil {
		t.Error("costs of a homeserver that wasn't measured")
	}
}

// What happens hardly ever doesn't happen all the time: a mean of 1e300 hours is no time span.
func TestWhatHappensHardlyEverIsRare(t *testing.T) {
	q := about(t, 50, "default")
	q.Load.Online, q.Load.Writes, q.Load.Idles, q.Load.Opens = 1e-300, 1e-300, 1e-300, 1e-300
	if a := estimate(t, q); a.Simulated.Requests != 0 {
		t.Errorf("%d requests", a.Simulated.Requests)
	}
	q.Load.Online = 1
	if a := estimate(t, q); a.Without.High != 0 || a.Clients["sync"].Low == 0 {
		t.Errorf("%v presence requests, %v syncs", a.Without, a.Clients["sync"])
	}
}
