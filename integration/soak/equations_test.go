package main

import (
	"maps"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/survival/scripted"
)

// balanced are books that agree: ten reads, of which one was asked for and one waited for
// that, three writes, of which one failed and one was limited, and a client that left.
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

	b.counters = map[string]int{
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

func failing(b books) (which []string) {
	for _, e := range b.equations() {
		if !e.Holds() {
			which = append(which, e.What)
		}
	}
	return which
}

func TestEquationsHoldWhenTheBooksAgree(t *testing.T) {
	if got := failing(balanced()); len(got) > 0 {
		t.Errorf("they fail: %q", got)
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
			if len(failing(drift(balanced()))) == 0 {
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
