package plan

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/plan"
)

// trace is what some clients ask, in order.
type trace []asked

type asked struct {
	at           time.Duration
	by, of       int
	kind         plan.Kind
	presenceThen matrix.Presence
}

// drawTrace draws reads, and some writes, of a few users within a few minutes.
func drawTrace(t *rapid.T, users int, writes bool) (all trace) {
	for range rapid.IntRange(1, 400).Draw(t, "requests") {
		a := asked{
			at: time.Duration(rapid.Int64Range(0, int64(4*time.Minute)).Draw(t, "at")),
			by: rapid.IntRange(0, users-1).Draw(t, "by"), of: rapid.IntRange(0, users-1).Draw(t, "of"),
		}
		if writes && rapid.IntRange(0, 9).Draw(t, "write") == 0 {
			a.kind, a.presenceThen = plan.Write, rapid.SampledFrom([]matrix.Presence{matrix.Online, matrix.Unavailable}).Draw(t, "presence")
		}
		all = append(all, a)
	}
	slices.SortStableFunc(all, func(a, b asked) int { return int(a.at - b.at) })
	return all
}

// play plays a trace through a configuration.
func (all trace) play(t interface{ Fatal(...any) }, s *gateway.Settings) plan.Counts {
	p, err := plan.NewPlayer(plan.Script{Settings: s, Homeserver: "synapse", Nodes: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		id := fmt.Sprintf("@u%d:test", a.by)
		r := plan.Request{At: a.at, Kind: a.kind, By: p.Device(id, "token of "+id, false), Presence: a.presenceThen}
		if a.kind == plan.Read {
			r.Target = p.User(fmt.Sprintf("@u%d:test", a.of))
		}
		p.Play(r)
	}
	return p.Until(time.Hour)
}

func settings(t interface{ Fatal(...any) }, name string) *gateway.Settings {
	s, err := plan.Profile(name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What is remembered for longer is asked for no more often. Among writes a longer ttl can move a
// fetch to a bad moment, so that is a law of reads.
func TestALongerTTLNeverMakesMoreFetches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := drawTrace(t, 6, false)
		short, long := settings(t, "default"), settings(t, "default")
		short.Rules.TTL = time.Duration(rapid.IntRange(1, 60).Draw(t, "ttl")) * time.Second
		long.Rules.TTL = short.Rules.TTL * time.Duration(rapid.IntRange(2, 5).Draw(t, "times"))
		less, more := all.play(t, long), all.play(t, short)
		if less.Upstream[plan.ForFetch] > more.Upstream[plan.ForFetch] {
			t.Fatalf("%v: %d fetches, %v: %d", long.Rules.TTL, less.Upstream[plan.ForFetch], short.Rules.TTL, more.Upstream[plan.ForFetch])
		}
	})
}

// No client's request is lost, and every read that isn't from memory or shared is one upstream.
func TestWhatBecomesOfRequestsAddsUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := drawTrace(t, 5, true)
		c := all.play(t, settings(t, rapid.SampledFrom(plan.Profiles()).Draw(t, "profile")))
		if int(c.Requests()) != len(all) {
			t.Fatalf("%d requests were counted, %d sent", c.Requests(), len(all))
		}
		for k := range plan.Kinds {
			sum := int64(0)
			for _, n := range c.Outcomes[k] {
				sum += n
			}
			if sum != c.Clients[k] {
				t.Fatalf("%s: %d outcomes of %d requests", plan.KindNames[k], sum, c.Clients[k])
			}
		}
		if reads := c.Upstream[plan.ForFetch] + c.Upstream[plan.ForFirstRead]; reads != c.With[plan.ServeRead] || reads < c.Outcomes[plan.Read][plan.Miss] {
			t.Fatalf("%d reads upstream, the homeserver served %d, %d missed", reads, c.With[plan.ServeRead], c.Outcomes[plan.Read][plan.Miss])
		}
	})
}

// A larger table never makes more fetches. What goes first is drawn by lot, so that is a law of many
// traces together.
func TestALargerCacheNeverMakesMoreFetches(t *testing.T) {
	traces := rapid.Custom(func(t *rapid.T) trace { return drawTrace(t, 8, true) })
	var fetches [3]int64
	for seed := range 30 {
		all := traces.Example(seed)
		for i, size := range []int{4, 16, 1000} {
			s := settings(t, "default")
			s.Sizes.States, s.Sizes.Permissions = size, 4*size
			fetches[i] += all.play(t, s).Upstream[plan.ForFetch]
		}
	}
	if fetches[0] < fetches[1] || fetches[1] < fetches[2] || fetches[0] == fetches[2] {
		t.Errorf("%d fetches with 4 states, %d with 16, %d with 1,000", fetches[0], fetches[1], fetches[2])
	}
}

// loads are of small servers, with rooms that fit.
var loads = rapid.Custom(func(t *rapid.T) plan.Load {
	l := plan.DefaultLoad()
	l.Users = rapid.IntRange(20, 80).Draw(t, "users")
	l.Online = rapid.Float64Range(0.1, 0.5).Draw(t, "online")
	l.Devices = rapid.Float64Range(1, 3).Draw(t, "devices")
	l.Rooms = []plan.RoomKind{{PerUser: rapid.Float64Range(0.5, 3).Draw(t, "rooms"), Size: rapid.IntRange(2, 20).Draw(t, "size")}}
	l.Opens = rapid.Float64Range(1, 12).Draw(t, "opens")
	l.Looks = rapid.IntRange(1, 20).Draw(t, "looks")
	l.Poll = plan.Duration(rapid.IntRange(0, 2).Draw(t, "poll") * int(10*time.Second))
	l.Writes = rapid.Float64Range(0, 30).Draw(t, "writes")
	return l
})

// Twice the users never miss less often.
func TestTwiceTheUsersNeverMissLess(t *testing.T) {
	for seed := range 4 {
		l := loads.Example(seed)
		for _, profile := range plan.Profiles() {
			once := estimate(t, l, profile)
			twice := l
			twice.Users *= 2
			if doubled := estimate(t, twice, profile); misses(doubled) < misses(once) {
				t.Errorf("%s: %v fetches/s of %d users, %v of twice as many: %+v", profile, misses(once), l.Users, misses(doubled), l)
			}
		}
	}
}

// misses are the fetches in a second, on average.
func misses(a *plan.Answer) float64 {
	return a.Upstream["fetch"].Middle() + a.Upstream["first_read"].Middle()
}

func estimate(t *testing.T, l plan.Load, profile string) *plan.Answer {
	t.Helper()
	costs, err := plan.DefaultCosts("synapse")
	if err != nil {
		t.Fatal(err)
	}
	q := plan.Question{Load: l, Settings: settings(t, profile), Profile: profile, Homeserver: "synapse", Costs: costs, Nodes: 1, Cores: 2}
	a, err := q.Estimate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return a
}
