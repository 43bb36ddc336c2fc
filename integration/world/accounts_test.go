package world_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/equations"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/model"
)

// countsRight: the counters say of each other what their Help promises, and each write that got a
// 200 which isn't the homeserver's is counted as what became of it.
func countsRight(p *plan, r *run) string {
	counters := equations.Counters(r.vitals.Counters)
	if r.vitals.Pending > 0 {
		return fmt.Sprintf("writes wait for ever: %d of them", r.vitals.Pending)
	}
	var promised equations.List
	promised.Counters(counters)
	if failing := promised.Failing(); len(failing) > 0 {
		return fmt.Sprintf("the counters contradict each other: %v", failing)
	}
	since := p.restarted(r, time.Time{})
	own, unknown, all := 0, 0, ""
	for _, o := range r.outcomes {
		if o.call.method != http.MethodPut || !o.call.presence || !o.began.After(since) {
			continue
		}
		if !strings.Contains(o.cacheStatus(), "fwd=") {
			all += fmt.Sprintf("\n%v", o)
		}
		switch {
		case o.status == 0:
			unknown++
		case o.status == http.StatusOK && strings.HasPrefix(o.cacheStatus(), "matrix_presence; detail="):
			own++
		}
	}
	if given := counters.Outcomes("write", "absorbed", "coalesced"); own > given || given > own+unknown {
		return fmt.Sprintf("writes got a 200 that isn't counted: %d did, and %d are absorbed or coalesced%s", own, given, all)
	}
	return ""
}

// restarted is when Caddy last began before a moment, or before the end if that is zero.
func (p *plan) restarted(r *run, by time.Time) time.Time {
	began := r.began.Add(-1)
	for _, s := range p.steps {
		if at := r.began.Add(s.at); s.machine != nil && s.machine.restarts && (by.IsZero() || at.Before(by)) {
			began = at
		}
	}
	return began
}

// restarts tells whether Caddy ever restarts.
func (p *plan) restarts() bool {
	return slices.ContainsFunc(p.steps, func(s step) bool { return s.machine != nil && s.machine.restarts })
}

// tableParts is how many parts a table has at most, each of which holds one entry at least.
const tableParts = 64

// staysSmall: no table has more entries than are configured.
func staysSmall(p *plan, r *run) string {
	// Tables fit a configuration from its first request on. Budgets stay until they are full.
	bounds, ever := make(map[string]int), make(map[string]int)
	p.site.largest(bounds)
	p.site.largest(ever)
	for i, s := range p.steps {
		if s.reload == nil || s.reload.broken != "" {
			continue
		}
		used := slices.ContainsFunc(r.outcomes, func(o *outcome) bool {
			return o.step > i && o.status != 0 && o.call.presence && !o.call.staging && o.began.After(r.began.Add(s.at+time.Second))
		})
		if used && !p.site.staging {
			clear(bounds)
		}
		s.reload.largest(bounds)
		s.reload.largest(ever)
	}
	for table, n := range r.vitals.Tables {
		bound, known := bounds[table]
		switch {
		case slices.Contains([]string{"readers", "writers", "syncers", "rejected_clients"}, table):
			bound = ever[""]
		case !known:
			bound = bounds[""]
		}
		bound = max(bound, tableParts)
		if p.site.staging {
			bound *= 2 // it has a memory of its own
		}
		if n > bound {
			return fmt.Sprintf("a table is larger than is configured: %s has %d entries, not %d", table, n, bound)
		}
	}
	return ""
}

// asksLittle: the homeserver gets no more reads and writes of presence than it would directly, but for
// what is tried again; and a request costs it a question whose it is for each token that it shows.
func asksLittle(p *plan, direct, ours *run) string {
	if p.site.transport != "transport model" || len(p.site.proxy) > 0 || p.restarts() {
		return "" // Caddy tries again by itself; what was counted before a restart is forgotten
	}
	counters := equations.Counters(ours.vitals.Counters)
	upstream := func(reasons ...string) int { return counters.Sum("upstream_requests_total", "reason", reasons...) }
	count := func(r *run, match func(model.Received) bool) (n int) {
		for _, one := range r.received {
			if match(one) {
				n++
			}
		}
		return n
	}
	// What the homeserver never gets directly, because its body doesn't come to an end, it may get from us
	// without one.
	lost := 0
	for _, o := range direct.outcomes {
		if o.status == 0 || o.call.cutOff {
			lost++
		}
	}
	isPresence := func(one model.Received) bool { return strings.Contains(one.Path, "/presence/") }
	isWhoami := func(one model.Received) bool { return strings.HasSuffix(one.Path, "/account/whoami") }
	asked, large, tokens := 0, 0, 0
	for _, o := range ours.outcomes {
		tokens += len(o.call.tokens())
		if o.call.presence && o.call.method != http.MethodPut && (!o.fromMemory() || strings.Contains(o.cacheStatus(), "stale-if-error")) {
			asked++
		}
		if strings.Contains(o.cacheStatus(), "detail=large") {
			large++
		}
	}
	for _, kind := range []struct {
		what    string
		match   func(model.Received) bool
		allowed int
	}{
		{"reads", func(one model.Received) bool { return isPresence(one) && isRead(one.Method) },
			// What fails is tried again, and what a fetch finds too large its reader asks for anew; a first
			// read that fails says nothing of whose it is, and is fetched once that is known. Each of
			// these is a request more.
			min(upstream("retry")+large, asked) + upstream("first_read")},
		{"writes", func(one model.Received) bool { return isPresence(one) && one.Method == http.MethodPut }, upstream("delivery")},
		{"questions whose token it is", isWhoami, tokens + upstream("retry")},
		{"questions which homeserver it is", func(one model.Received) bool { return strings.HasSuffix(one.Path, "/version") }, len(ours.outcomes)},
		{"other requests", func(one model.Received) bool {
			// The versions come ahead of a pipelined request, once more when it is sent again.
			return !isPresence(one) && !isWhoami(one) && !strings.HasSuffix(one.Path, "/version") && !strings.HasSuffix(one.Path, "/versions")
		}, 0},
	} {
		if got, without := count(ours, kind.match), count(direct, kind.match); got > without+kind.allowed+lost {
			return fmt.Sprintf("the homeserver is asked more than without the module: %d %s, and %d without, and %d more may be%s", got, kind.what, without, kind.allowed+lost, besides(direct, ours, kind.match))
		}
	}
	return ""
}

// besides lists the requests of a kind that the homeserver got more often than directly.
func besides(direct, ours *run, match func(model.Received) bool) (list string) {
	times := make(map[string]int)
	for _, one := range direct.received {
		times[request(one)]++
	}
	for _, one := range ours.received {
		what := request(one)
		if times[what]--; match(one) && times[what] < 0 {
			list += fmt.Sprintf("\nat %v %.200s", one.At.Sub(ours.began), what)
		}
	}
	return list
}

// dropsItsOwnOnly: a write that waits is dropped because its own token or user_id is refused, and not
// another's.
func dropsItsOwnOnly(p *plan, r *run) string {
	counters := equations.Counters(r.vitals.Counters)
	end := r.ended()
	if counters.Sum("deliveries_total", "result", "dropped") == 0 || p.restarts() || !p.isBare() || !p.isWell(r, r.began, end) {
		return ""
	}
	for _, o := range r.outcomes {
		if strings.Contains(o.cacheStatus(), "detail=coalesced") && (!o.call.isPlain() || !isGood(r, o.call, o.began, end)) {
			return ""
		}
	}
	return "a write that waits is dropped, and all whose writes wait may write"
}

// isRead tells of a method that it reads. In place of a client's HEAD, the homeserver gets a GET of ours.
func isRead(method string) bool { return method == http.MethodGet || method == http.MethodHead }

// request names what a homeserver was asked for.
func request(one model.Received) string {
	if isRead(one.Method) {
		return http.MethodGet + " " + one.Path
	}
	return one.Method + " " + one.Path
}

// endsAlike: whose writes all got a 200 has what they wrote last at the homeserver, as without the
// module.
func endsAlike(p *plan, direct, ours *run) string {
	counters := equations.Counters(ours.vitals.Counters)
	if counters.Sum("deliveries_total", "result", "lost", "dropped") > 0 || p.restarts() {
		return "" // which is counted; what waits at a restart is forgotten
	}
	for _, user := range users() {
		if !settled(direct, user) || !settled(ours, user) || hasNoEffect(ours, user) {
			continue
		}
		wrote, writes := lastWrites(ours, user), lastWrites(direct, user)
		for device, want := range writes {
			if got := wrote[device]; got.Word != want.Word || got.Message != want.Message {
				return fmt.Sprintf("a write ends otherwise than without the module: %s by %s has %q %.50q, and without it %q %.50q",
					user, device, got.Word, got.Message, want.Word, want.Message)
			}
		}
	}
	return ""
}

// users are all who may write.
func users() (all []string) {
	for _, a := range slices.Concat(actors, neighbours) {
		all = append(append(all, a.user), a.ghosts...)
	}
	return all
}

// settled tells that the homeserver has, or will have, taken all that a user wrote of their own, in
// an order that is known.
func settled(r *run, user string) bool {
	var before *outcome
	for _, o := range r.outcomes {
		if o.call.method != http.MethodPut || !o.call.presence || o.call.target != user {
			continue
		}
		if o.status != http.StatusOK || before != nil && !before.ended.Before(o.began) {
			return false
		}
		before = o
	}
	return before != nil
}

// hasNoEffect tells of a user's writes that presence is off at some time from the first of them on. One
// that has to wait for a slow answer whose it is may come only then.
func hasNoEffect(r *run, user string) bool {
	first := slices.IndexFunc(r.outcomes, func(o *outcome) bool {
		return o.call.method == http.MethodPut && o.call.presence && o.call.target == user
	})
	for page := range r.hs.Between(r.outcomes[first].began, r.ended()) {
		if page.PresenceOff {
			return true
		}
	}
	return false
}

// lastWrites are those of each device, or for a homeserver that merges none of all of them.
func lastWrites(r *run, user string) map[string]model.Deed {
	last := make(map[string]model.Deed)
	for _, deed := range r.hs.Writes(user) {
		if deed.Device == "ELSEWHERE" {
			continue
		}
		device := deed.Device
		if r.hs.Dialect.Name == "dendrite" {
			device = "any device"
		}
		last[device] = deed
	}
	return last
}
