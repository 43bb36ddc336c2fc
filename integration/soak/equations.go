package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/equations"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/survival/scripted"
)

// books are the counts of all three sides.
type books struct {
	clients map[kind]*outcomes
	log     map[entry]int
	hs      map[scripted.Key]scripted.Tally

	counters equations.Counters // the module's own, see vitals
	behind   int                // people of whom the homeserver lacks an acknowledged write
	waiting  int                // hasty people of whom it lacks the last write that was accepted
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
func (b books) equations() (all []equations.Equation) {
	add := func(value, low, high int, format string, args ...any) {
		all = append(all, equations.Equation{What: fmt.Sprintf(format, args...), Low: low, High: high, Value: value})
	}
	exactly := func(value, want int, format string, args ...any) { add(value, want, want, format, args...) }

	var log, client, spare, missing, contradictions int
	for _, k := range kinds {
		o := b.clients[k.kind]
		logged := b.logged(k.kind, every)
		log, client, spare = log+logged, client+o.answers(), spare+o.left+o.unanswered
		add(logged, o.answers(), o.answers()+o.left+o.unanswered, "%s: requests in the log, answers at the clients", k.kind)

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
		b.presence(k, o, add)
	}
	add(log, client, client+spare, "all requests in the log, all answers at the clients")
	exactly(missing, 0, "answers with a status that the log doesn't have")
	exactly(contradictions, 0, "decisions in the log that don't go with the status")

	// What is no presence goes to the homeserver as it came, and without a question.
	for _, of := range []struct {
		kind
		scripted.Route
	}{
		{pass, scripted.Other}, {login, scripted.Login}, {logout, scripted.Logout}, {logoutAll, scripted.Logout},
		{syncing, scripted.Other}, {preflight, scripted.Preflight},
	} {
		forwarded := b.logged(of.kind, func(e entry) bool { return e.Status < 500 && e.Decision != "answered" })
		exactly(b.asked(of.Route, of.kind), forwarded, "%s: answered by the homeserver, forwarded in the log", of.kind)
		if of.kind != logoutAll && of.kind != syncing { // it has to be known whose
			exactly(b.asked(scripted.WhoAmI, of.kind), 0, "%s: questions whose token it is", of.kind)
		}
	}
	all = append(all, b.counters.All(0)...)
	b.own(add, exactly)
	exactly(b.behind, 0, "people whose acknowledged write the homeserver lacks")
	add(b.waiting, 0, b.counters["deliveries_total{result=lost}"], "hasty people whose last accepted write the homeserver lacks, lost deliveries")
	return all
}

// words are what the access log says of an outcome, in the variables cache and decision.
// A fetch that was made for a reader and one that was made for another are the same there.
var words = []struct {
	outcomes        []string
	cache, decision string
}{
	{[]string{"hit"}, "hit", "answered"},
	{[]string{"stale"}, "stale", "answered"},
	{[]string{"miss", "collapsed"}, "miss", "forwarded"},
	{[]string{"bypass"}, "bypass", "forwarded"},
	{[]string{"forwarded"}, "", "forwarded"},
	{[]string{"quieted"}, "", "quieted"},
	{[]string{"held"}, "", "held"},
	{[]string{"absorbed"}, "", "absorbed"},
	{[]string{"coalesced"}, "", "coalesced"},
	{[]string{"rejected"}, "", "rejected"},
	{[]string{"refused"}, "", "refused"},
	{[]string{"limited"}, "", "limited"},
	{[]string{"invalid"}, "", "invalid"},
	{[]string{"failed"}, "", "failed"},
	{[]string{"canceled"}, "", "canceled"},
}

// own adds what the module's counters promise in their Help about the log and about the
// homeserver.
func (b books) own(add func(value, low, high int, format string, args ...any), exactly func(value, want int, format string, args ...any)) {
	for _, route := range equations.Routes {
		of := func(match func(entry) bool) (n int) {
			for _, k := range kinds {
				if k.route == route {
					n += b.logged(k.kind, match)
				}
			}
			return n
		}
		exactly(b.counters.Sum("requests_total", "route", route), of(every), "requests_total of %s, requests in the log", route)
		for _, w := range words {
			exactly(b.counters.Outcomes(route, w.outcomes...), of(func(e entry) bool { return e.Cache == w.cache && e.Decision == w.decision }),
				"outcomes_total of %s %s, in the log", route, strings.Join(w.outcomes, " and "))
		}
	}
	upstream := func(reasons ...string) int { return b.counters.Sum("upstream_requests_total", "reason", reasons...) }
	answered := func(route scripted.Route) (n int) {
		for key, tally := range b.hs {
			if key.Route == route {
				n += tally.Answered()
			}
		}
		return n
	}
	exactly(b.counters.Sum("lookups_total", "result", "known", "rejected", "refused"), answered(scripted.WhoAmI),
		"lookups_total of known, rejected and refused, questions that the homeserver answered")
	// The homeserver may be away, so it has answered no more than it was sent.
	add(answered(scripted.Write), 0, upstream("write", "delivery"), "writes that the homeserver answered, upstream_requests_total of write and delivery")
	add(answered(scripted.Read), 0, upstream("fetch", "bypass", "retry"), "reads that the homeserver answered, upstream_requests_total of fetch, bypass and retry")
	exactly(b.counters.Sum("limiter_overflow_total", "limit", "read", "write", "rejected"), 0, "limiter_overflow_total")
}

// presence adds what is to be said of a kind of presence requests.
func (b books) presence(k traits, o *outcomes, add func(value, low, high int, format string, args ...any)) {
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
		add(b.asked(scripted.Write, k.kind), n, n+spare, "%s: answered by the homeserver, forwarded in the log", k.kind)
	} else {
		spare += b.logged(k.kind, func(e entry) bool { return e.Cache == "stale" })
		n := by(wayMiss, wayBypass)
		add(b.asked(scripted.Read, k.kind), n, n+spare, "%s: answered by the homeserver, misses and bypasses in the log", k.kind)
	}
	whoami := b.asked(scripted.WhoAmI, k.kind)
	if k.newToken {
		n := b.logged(k.kind, func(e entry) bool { return e.Decision == "rejected" })
		add(whoami, n, n, "%s: questions whose token it is, rejections in the log", k.kind)
		return
	}
	add(whoami, 0, o.sent, "%s: questions whose token it is, at most one a request", k.kind)
}
