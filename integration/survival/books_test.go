package survival_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/equations"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
)

// books are the counts of all three sides.
type books struct {
	clients map[kind]*outcomes
	log     map[entry]int
	hs      map[scripted.Key]scripted.Tally

	counters equations.Counters
	behind   int // people of whom the homeserver lacks an acknowledged write
	waiting  int // hasty people of whom it lacks the last write that was accepted
}

// logged sums the entries that match.
func (b books) logged(k kind, match func(entry) bool) (n int) {
	for e, times := range b.log {
		if e.Kind == k && match(e) {
			n += times
		}
	}
	return n
}

func (b books) asked(route scripted.Route, k kind) int {
	return b.hs[scripted.Key{Route: route, Label: string(k)}].Answered()
}

func every(entry) bool { return true }

// statuses are those that go with each decision. A decision to forward goes with whatever
// the homeserver says, or that it could not be reached.
var statuses = map[string][]int{
	"answered":  {200, 403, 404},
	"absorbed":  {200},
	"coalesced": {200},
	"rejected":  {401},
	"refused":   {403},
	"limited":   {429},
	"invalid":   {400, 413},
	"failed":    {502, 503, 504},
}

// contradicts tells that a decision doesn't go with the status, or that there is none.
func (e entry) contradicts() bool {
	if e.Decision == "forwarded" {
		return false
	}
	return !slices.Contains(statuses[e.Decision], e.Status)
}

// equations returns all of them.
func (b books) equations() (all equations.List) {
	var log, client, spare, missing, contradictions int
	for _, k := range kinds {
		o := b.clients[k.kind]
		logged := b.logged(k.kind, every)
		log, client, spare = log+logged, client+o.answers(), spare+o.left+o.unanswered
		all.Between(logged, o.answers(), o.answers()+o.left+o.unanswered, "%s: requests in the log, answers at the clients", k.kind)

		// Each status that a client got is in the log; those that it did not get may be.
		for status, n := range o.answered {
			missing += max(0, n-b.logged(k.kind, func(e entry) bool { return e.Status == status }))
		}
		if !k.presence() {
			continue
		}
		if !k.leaves {
			contradictions += b.logged(k.kind, entry.contradicts)
		}
		b.presence(k, o, &all)
	}
	all.Between(log, client, client+spare, "all requests in the log, all answers at the clients")
	all.Equal(missing, 0, "answers with a status that the log doesn't have")
	all.Equal(contradictions, 0, "decisions in the log that don't go with the status")

	// What is no presence goes to the homeserver as it came, and without a question.
	for _, of := range []struct {
		kind
		scripted.Route
	}{
		{pass, scripted.Other}, {login, scripted.Login}, {logout, scripted.Logout}, {logoutAll, scripted.Logout},
		{syncing, scripted.Other}, {preflight, scripted.Preflight},
	} {
		forwarded := b.logged(of.kind, func(e entry) bool { return e.Status < 500 && e.Decision != "answered" })
		all.Equal(b.asked(of.Route, of.kind), forwarded, "%s: answered by the homeserver, forwarded in the log", of.kind)
		if of.kind != logoutAll && of.kind != syncing { // it has to be known whose
			all.Equal(b.asked(scripted.WhoAmI, of.kind), 0, "%s: questions whose token it is", of.kind)
		}
	}
	b.own(&all)
	all.Equal(b.behind, 0, "people whose acknowledged write the homeserver lacks")
	all.Between(b.waiting, 0, b.counters["deliveries_total{result=lost}"], "hasty people whose last accepted write the homeserver lacks, lost deliveries")
	return all
}

// own adds what the module's counters promise.
func (b books) own(l *equations.List) {
	of := func(route string, match func(entry) bool) (n int) {
		for _, k := range kinds {
			if k.route == route {
				n += b.logged(k.kind, match)
			}
		}
		return n
	}
	answered := func(route scripted.Route) (n int) {
		for key, tally := range b.hs {
			if key.Route == route {
				n += tally.Answered()
			}
		}
		return n
	}
	l.Counters(b.counters)
	l.Log(b.counters, func(route, cache, decision string) int {
		return of(route, func(e entry) bool { return e.Cache == cache && e.Decision == decision })
	}, func(route string) int { return of(route, every) })
	l.Homeserver(b.counters, equations.Answered{
		Reads: answered(scripted.Read), Writes: answered(scripted.Write), WhoAmI: answered(scripted.WhoAmI),
	})
	l.Equal(b.counters.Sum("limiter_overflow_total", "limit", "read", "write", "rejected"), 0, "limiter_overflow_total")
}

// presence adds what is to be said of a kind of presence requests.
func (b books) presence(k traits, o *outcomes, l *equations.List) {
	by := func(ways ...string) int {
		return b.logged(k.kind, func(e entry) bool {
			// 499 is what reverse_proxy says of a client that has left.
			return slices.Contains(ways, e.CacheStatus) && e.Status != 499
		})
	}
	// A fetch goes on when its client has left, and one that takes too long is not waited
	// for if there is a stale answer.
	spare := 0
	if k.leaves {
		spare = o.left
	}
	if k.route == "write" {
		n := by(wayWrite)
		if k.never {
			n = 0
		}
		if k.kind == hasty {
			spare += b.counters["upstream_requests_total{reason=delivery}"]
		}
		l.Between(b.asked(scripted.Write, k.kind), n, n+spare, "%s: answered by the homeserver, forwarded in the log", k.kind)
	} else {
		spare += b.logged(k.kind, func(e entry) bool { return e.Cache == "stale" })
		n := by(wayMiss, wayBypass)
		l.Between(b.asked(scripted.Read, k.kind), n, n+spare, "%s: answered by the homeserver, misses and bypasses in the log", k.kind)
	}
	whoami := b.asked(scripted.WhoAmI, k.kind)
	if k.newToken {
		n := b.logged(k.kind, func(e entry) bool { return e.Decision == "rejected" })
		l.Equal(whoami, n, "%s: questions whose token it is, rejections in the log", k.kind)
		return
	}
	l.Between(whoami, 0, o.sent, "%s: questions whose token it is, at most one a request", k.kind)
}

// balanced are books that agree: ten reads (one was asked for, one waited for that one), three
// writes (one failed, one was limited), and a client that left.
func balanced() books {
	b := books{clients: make(map[kind]*outcomes), log: make(map[entry]int), hs: make(map[scripted.Key]scripted.Tally)}
	for _, k := range kinds {
		b.clients[k.kind] = &outcomes{answered: make(map[int]int)}
	}
	*b.clients[read] = outcomes{sent: 10, answered: map[int]int{200: 9, 403: 1}}
	b.log[entry{read, 200, "hit", "answered", wayHit}] = 7
	b.log[entry{read, 403, "hit", "answered", wayHit}] = 1
	b.log[entry{read, 200, "miss", "forwarded", wayMiss}] = 1
	b.log[entry{read, 200, "miss", "forwarded", wayCollapsed}] = 1
	// The first time, the homeserver broke off.
	b.hs[scripted.Key{Route: scripted.Read, Label: string(read)}] = scripted.Tally{Asked: 2, Cut: 1}
	b.hs[scripted.Key{Route: scripted.WhoAmI, Label: string(read)}] = scripted.Tally{Asked: 1}

	*b.clients[write] = outcomes{sent: 4, answered: map[int]int{200: 1, 429: 1, 502: 1}, unanswered: 1}
	b.log[entry{write, 200, "", "forwarded", wayWrite}] = 1
	b.log[entry{write, 429, "", "limited", ""}] = 1
	b.log[entry{write, 502, "", "forwarded", ""}] = 1
	b.hs[scripted.Key{Route: scripted.Write, Label: string(write)}] = scripted.Tally{Asked: 1}

	*b.clients[strangerRead] = outcomes{sent: 1, answered: map[int]int{401: 1}}
	b.log[entry{strangerRead, 401, "", "rejected", ""}] = 1
	b.hs[scripted.Key{Route: scripted.WhoAmI, Label: string(strangerRead)}] = scripted.Tally{Asked: 1}

	*b.clients[leavingRead] = outcomes{sent: 2, answered: map[int]int{200: 1}, left: 1}
	b.log[entry{leavingRead, 200, "hit", "answered", wayHit}] = 1
	b.log[entry{leavingRead, 499, "", "canceled", ""}] = 1
	b.hs[scripted.Key{Route: scripted.Read, Label: string(leavingRead)}] = scripted.Tally{Asked: 1}

	*b.clients[pass] = outcomes{sent: 2, answered: map[int]int{200: 1, 502: 1}}
	b.log[entry{pass, 200, "", "", ""}] = 1
	b.log[entry{pass, 502, "", "", ""}] = 1
	b.hs[scripted.Key{Route: scripted.Other, Label: string(pass)}] = scripted.Tally{Asked: 1}

	b.counters = equations.Counters{
		"requests_total{route=read}":                    13,
		"outcomes_total{outcome=hit,route=read}":        9,
		"outcomes_total{outcome=miss,route=read}":       1,
		"outcomes_total{outcome=collapsed,route=read}":  1,
		"outcomes_total{outcome=rejected,route=read}":   1,
		"outcomes_total{outcome=canceled,route=read}":   1,
		"requests_total{route=write}":                   3,
		"outcomes_total{outcome=forwarded,route=write}": 2,
		"outcomes_total{outcome=limited,route=write}":   1,
		"saved_total":                            12,
		"lookups_total{result=known}":            1,
		"lookups_total{result=rejected}":         1,
		"lookups_total{result=failed}":           1,
		"upstream_requests_total{reason=whoami}": 3,
		"upstream_requests_total{reason=fetch}":  2,
		"upstream_requests_total{reason=write}":  2,
	}
	return b
}

func TestEquationsHoldWhenTheBooksAgree(t *testing.T) {
	if got := balanced().equations().Failing(); len(got) > 0 {
		t.Errorf("they fail:\n%s", got)
	}
}

func TestEachDriftFailsAnEquation(t *testing.T) {
	more := func(b books, route scripted.Route, k kind) {
		key := scripted.Key{Route: route, Label: string(k)}
		tally := b.hs[key]
		tally.Asked++
		b.hs[key] = tally
	}
	for name, drift := range map[string]func(books) books{
		"an answer that isn't in the log":       func(b books) books { b.clients[read].answered[200]++; return b },
		"a request in the log that nobody sent": func(b books) books { b.log[entry{read, 200, "hit", "answered", wayHit}]++; return b },
		"another status in the log":             func(b books) books { b.clients[write].answered = map[int]int{200: 2, 502: 1}; return b },
		"a decision against the status":         func(b books) books { return swap(b, entry{read, 200, "hit", "refused", wayHit}) },
		"no decision":                           func(b books) books { return swap(b, entry{read, 200, "hit", "", wayHit}) },
		"a hit that was asked for":              func(b books) books { more(b, scripted.Read, read); return b },
		"a write that was made twice":           func(b books) books { more(b, scripted.Write, write); return b },
		"a write to somebody else gets through": func(b books) books { more(b, scripted.Write, foreign); return b },
		"a rejection without a question": func(b books) books {
			delete(b.hs, scripted.Key{Route: scripted.WhoAmI, Label: string(strangerRead)})
			return b
		},
		"a question for what is no presence":     func(b books) books { more(b, scripted.WhoAmI, pass); return b },
		"two questions for a request":            func(b books) books { more(b, scripted.WhoAmI, bridgeRead); return b },
		"more reads than clients that have left": func(b books) books { more(b, scripted.Read, leavingRead); return b },
		"other requests made twice":              func(b books) books { more(b, scripted.Other, pass); return b },
		"an overflow":                            func(b books) books { b.counters["limiter_overflow_total{limit=read}"]++; return b },
		"a request that isn't counted":           func(b books) books { b.counters["requests_total{route=read}"]--; return b },
		"a hit that isn't counted":               func(b books) books { b.counters["outcomes_total{outcome=hit,route=read}"]--; return b },
		"a question that isn't counted":          func(b books) books { b.counters["upstream_requests_total{reason=whoami}"]--; return b },
		"a write that isn't counted":             func(b books) books { b.counters["upstream_requests_total{reason=write}"]--; return b },
		"a fetch too many":                       func(b books) books { b.counters["upstream_requests_total{reason=fetch}"]++; return b },
		"something saved twice":                  func(b books) books { b.counters["saved_total"]++; return b },
		"a lost write":                           func(b books) books { b.behind++; return b },
	} {
		t.Run(name, func(t *testing.T) {
			if len(drift(balanced()).equations().Failing()) == 0 {
				t.Error("no equation fails")
			}
		})
	}
}

// swap puts an entry in the place of one of the hits.
func swap(b books, e entry) books {
	b.log = maps.Clone(b.log)
	b.log[entry{read, 200, "hit", "answered", wayHit}]--
	b.log[e]++
	return b
}

func TestWays(t *testing.T) {
	for cacheStatus, want := range map[string]string{
		"":                             "",
		"matrix_presence; hit; ttl=29": wayHit,
		"matrix_presence; hit; ttl=-3; detail=stale":   wayHit,
		"matrix_presence; fwd=miss":                    wayMiss,
		"matrix_presence; fwd=miss; stored":            wayMiss,
		"matrix_presence; fwd=miss; collapsed":         wayCollapsed,
		"matrix_presence; fwd=bypass; detail=spelling": wayBypass,
		"matrix_presence; fwd=method":                  wayWrite,
	} {
		if got := way(cacheStatus); got != want {
			t.Errorf("%q: got %q, want %q", cacheStatus, got, want)
		}
	}
}
