package cache

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// model says what the documentation says, with maps that forget nothing.
type model struct {
	rules   *Rules
	targets map[string]*modelTarget
	since   map[string]time.Duration // by user: what departed before doesn't count
}

type modelTarget struct {
	generation uint64
	inFlight   int
	settled    time.Duration
	states     map[string]*modelState // by viewer, or one under ""
	grants     map[string]*modelGrant // by viewer
}

type modelState struct {
	departed time.Duration
	version  int
	flips    time.Duration // after departure, 0: never
}

type modelGrant struct {
	departed   time.Duration
	denied     bool
	generation uint64
}

type modelTicket struct {
	departed   time.Duration
	generation uint64
	settled    bool
}

func (m *model) target(name string) *modelTarget {
	t, ok := m.targets[name]
	if !ok {
		t = &modelTarget{states: make(map[string]*modelState), grants: make(map[string]*modelGrant)}
		m.targets[name] = t
	}
	return t
}

func (t *modelTarget) depart(now time.Duration) modelTicket {
	return modelTicket{now, t.generation, t.inFlight == 0 && now >= t.settled}
}

func (t *modelTarget) grant(viewer string, g *modelGrant) {
	if old := t.grants[viewer]; old == nil || old.departed <= g.departed {
		t.grants[viewer] = g
	}
}

func (m *model) allow(t *modelTarget, viewer string, k modelTicket, st *modelState) {
	t.grant(viewer, &modelGrant{departed: k.departed})
	if !m.rules.PerViewer {
		viewer = ""
	}
	if old := t.states[viewer]; k.settled && k.generation == t.generation && (old == nil || old.departed <= st.departed) {
		t.states[viewer] = st
	}
}

func (m *model) lookup(target, viewer string, now time.Duration) (outcome Outcome, version int, permitted bool) {
	t := m.target(target)
	g := t.grants[viewer]
	if g == nil || g.departed < max(m.since[viewer], m.since[target]) {
		return Miss, 0, false
	}
	if g.denied {
		if g.generation == t.generation && now < g.departed+m.rules.ForbiddenTTL {
			return Denied, 0, false
		}
		return Miss, 0, false
	}
	permitted = now < g.departed+m.rules.TTL
	if !m.rules.PerViewer {
		viewer = ""
	}
	st := t.states[viewer]
	if st == nil || st.flips > 0 && now >= st.departed+st.flips {
		return Miss, 0, permitted
	}
	switch {
	case permitted && now < st.departed+m.rules.TTL:
		return Hit, st.version, true
	case now < st.departed+m.rules.StaleIfError && st.departed < g.departed+m.rules.TTL:
		return Miss, st.version, permitted // stale
	}
	return Miss, 0, permitted
}

// areApart tells that a change of one user's memberships is none of another's: that would cost a
// question, once in so many runs.
func areApart(p *Presence, users ...string) bool {
	slots := make(map[uint64]bool)
	for _, userID := range users {
		slots[p.memberships.slot(userID)] = true
	}
	return len(slots) == len(users)
}

func TestPresenceAgreesWithAModel(t *testing.T) {
	r := testkit.Rand(t)
	type flight struct {
		viewer, target string
		ticket         Ticket
		model          modelTicket
		version        int
	}
	type writing struct {
		target string
		write  Write
	}
	outcomes := make(map[Outcome]int)
	var stale int
	for range 250 {
		ttl := testkit.Pick(r, 8, 30*time.Second)
		rules := &Rules{TTL: ttl, ForbiddenTTL: testkit.Pick(r, ttl/2, ttl), StaleIfError: testkit.Pick(r, 0, 3*ttl), PerViewer: r.IntN(3) == 0}
		p, m := newPresence(), &model{rules: rules, targets: make(map[string]*modelTarget), since: make(map[string]time.Duration)}
		a, _, other := fenceMates(p)
		for !areApart(p, a, other, bob, carol) {
			p = newPresence()
			a, _, other = fenceMates(p)
		}
		var now time.Duration
		var flights []flight
		var writes []writing
		var log []string
		note := func(format string, args ...any) {
			log = append(log, fmt.Sprintf("%v: ", now)+fmt.Sprintf(format, args...))
		}
		for n := range 150 {
			target, viewer := testkit.Pick(r, a, other), testkit.Pick(r, bob, carol)
			now += testkit.Pick(r, 0, 0, 0, 1, time.Duration(r.Int64N(int64(ttl)/2)))
			switch r.IntN(17) {
			case 0, 1, 2:
				flights = append(flights, flight{viewer, target, p.Depart(target, testkit.At(now)), m.target(target).depart(now), n})
				note("%d departs: %s reads %s", n, viewer, target)
			case 3, 4, 5:
				if len(flights) == 0 {
					continue
				}
				i := r.IntN(len(flights))
				f := flights[i]
				flights = append(flights[:i], flights[i+1:]...)
				mt := m.target(f.target)
				if r.IntN(4) == 0 {
					note("%d is denied", f.version)
					p.Deny(f.viewer, f.ticket, &Denial{UntilWrite: true, Status: 403}, rules)
					if f.model.settled {
						mt.grant(f.viewer, &modelGrant{f.model.departed, true, f.model.generation})
						continue
					}
					// It isn't stored. What it does to older answers that are still
					// on their way is for TestADenialThatIsNotStoredEndsAPermission.
					if g := mt.grants[f.viewer]; g != nil && g.departed <= f.model.departed {
						delete(mt.grants, f.viewer)
					}
					flights = slices.DeleteFunc(flights, func(o flight) bool {
						return o.viewer == f.viewer && o.target == f.target && o.model.departed < f.model.departed
					})
				}
				note("%d is allowed", f.version)
				answer, st := version(f.version), &modelState{departed: f.model.departed, version: f.version}
				if r.IntN(3) == 0 {
					ago := r.Int64N(60_000)
					answer = parse(t, fmt.Sprintf(`{"presence":"online","status_msg":"%d","last_active_ago":%d,"currently_active":true}`, f.version, ago))
					st.flips = time.Minute - time.Duration(ago)*time.Millisecond
				}
				p.Allow(f.viewer, f.ticket, answer, rules, testkit.Epoch)
				m.allow(mt, f.viewer, f.model, st)
			case 6:
				note("a write of %s begins", target)
				writes = append(writes, writing{target, p.BeginWrite(target)})
				mt := m.target(target)
				mt.generation++
				mt.inFlight++
				clear(mt.states)
			case 7:
				if len(writes) == 0 {
					continue
				}
				i, settle := r.IntN(len(writes)), testkit.Pick(r, 0, time.Duration(r.Int64N(int64(ttl)/4)))
				w := writes[i]
				writes = append(writes[:i], writes[i+1:]...)
				note("a write of %s ends, to settle for %v", w.target, settle)
				w.write.End(testkit.At(now), settle)
				mt := m.target(w.target)
				mt.generation++
				mt.inFlight--
				mt.settled = max(mt.settled, now+settle)
			case 8:
				who, settle := testkit.Pick(r, target, viewer), testkit.Pick(r, 0, time.Duration(r.Int64N(int64(ttl)/4)))
				changed := []string{who}
				if r.IntN(8) == 0 {
					changed = []string{a, other, bob, carol}
					p.AllMembershipsChanged(testkit.At(now), settle)
				} else {
					p.MembershipChanged(who, testkit.At(now), settle)
				}
				note("%v join or leave, to settle for %v", changed, settle)
				for _, one := range changed {
					m.since[one] = max(m.since[one], now+settle+1)
				}
			default:
				found := p.Lookup(viewer, target, rules, testkit.At(now))
				outcome, version, permitted := m.lookup(target, viewer, now)
				got := 0
				if found.Answer != nil {
					got = versionOf(found.Answer)
				}
				if outcome == Denied {
					permitted = found.Permitted
				}
				if found.Outcome != outcome || got != version || found.Permitted != permitted {
					t.Fatalf("%+v\n%v\n%v: %s reads %s: %+v, want outcome %v, version %d, permitted %v",
						*rules, log, now, viewer, target, found, outcome, version, permitted)
				}
				outcomes[outcome]++
				if outcome == Miss && version != 0 {
					stale++
				}
			}
		}
	}
	if outcomes[Hit] < 200 || outcomes[Denied] < 50 || outcomes[Miss] < 200 || stale < 50 {
		t.Errorf("the sequences are too dull: %v, %d stale", outcomes, stale)
	}
	t.Logf("%v, %d stale", outcomes, stale)
}
