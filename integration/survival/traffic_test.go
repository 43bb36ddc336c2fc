package survival_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
)

// traffic is all that clients do.
type traffic struct {
	plan    plan
	town    *town
	clients *clients
	url     string
	hs      *scripted.Homeserver

	strangers atomic.Int64 // tokens made up so far
}

// run sends requests at an even pace until ctx is done. Whatever is under way then is
// finished.
func (t *traffic) run(ctx context.Context) {
	var all sync.WaitGroup
	for i := range t.plan.clients {
		all.Go(func() {
			w := &worker{traffic: t, random: rand.New(rand.NewPCG(uint64(i), 1))}
			w.popular = rand.NewZipf(w.random, 1.3, 1, uint64(len(t.town.people)-1))
			w.run(ctx)
		})
	}
	all.Wait()
}

// worker is one client after the other.
type worker struct {
	*traffic
	random  *rand.Rand
	popular *rand.Zipf
}

func (w *worker) run(ctx context.Context) {
	pace := time.Second * time.Duration(w.plan.clients) / time.Duration(w.plan.rate)
	next := time.Now().Add(time.Duration(w.random.Int64N(int64(pace) + 1)))
	for ctx.Err() == nil {
		// A client that is late doesn't catch up: after a pause, all together would be over their limits.
		if wait := time.Until(next); wait > 0 {
			time.Sleep(wait)
		} else {
			next = time.Now()
		}
		next = next.Add(pace)
		w.one(w.plan.pick(w.random))
	}
}

// one makes one request, or two.
func (w *worker) one(k kind) {
	switch k {
	case write, leavingWrite:
		// Half of them are by those whom many read.
		writers := w.town.people
		if w.random.IntN(2) == 0 {
			writers = writers[:min(50, len(writers))]
		}
		w.write(k, w.anyOf(writers))
	case greedyWrite:
		w.write(k, w.town.greedy)
	case bridgeWrite:
		w.write(k, w.anyOf(w.town.bridged))
	case again:
		w.write(k, w.anyOf(w.town.repeating))
	case hasty:
		w.write(k, w.anyOf(w.town.hasty))
	case syncing:
		w.sync()
	case preflight:
		w.preflight()
	case foreign:
		w.foreign()
	case strangerRead, strangerWrite, repeatRead:
		w.stranger(k)
	case logout, logoutAll:
		w.logout(k)
	case pass:
		w.pass()
	default:
		w.read(k)
	}
}

// target picks whose presence is read: a few very often, most rarely.
func (w *worker) target() *person {
	switch n := w.random.IntN(20); {
	case w.plan.busy == 0:
	case n == 0:
		return w.anyOf(w.town.repeating)
	case n == 1:
		return w.anyOf(w.town.hasty)
	}
	return w.town.people[w.popular.Uint64()]
}

func (w *worker) anyOf(people []*person) *person { return people[w.random.IntN(len(people))] }

// patience is how long a client that leaves stays: around what the homeserver takes.
func (w *worker) patience() time.Duration {
	return time.Duration(1 + w.random.Int64N(int64(8*time.Millisecond)))
}

// session returns a device's session. If there is none, the person logs in.
func (w *worker) session(p *person, device int) *session {
	if s := p.devices[device].Load(); s != nil {
		return s
	}
	p.changing.Lock()
	defer p.changing.Unlock()
	if s := p.devices[device].Load(); s != nil {
		return s
	}
	q := request{kind: login, method: http.MethodPost, url: w.url + "/_matrix/client/v3/login", body: fmt.Sprintf(`{"user":%q}`, p.id)}
	a, how := w.clients.send(w.random, q)
	f, done := how.common(a)
	var granted struct {
		Token string `json:"access_token"`
	}
	if !done && (json.Unmarshal([]byte(a.body), &granted) != nil || granted.Token == "") {
		f = malformed
	}
	w.clients.note(f, q, a, "")
	if granted.Token == "" {
		return nil // later
	}
	s := &session{owner: p, token: granted.Token}
	p.devices[device].Store(s)
	return s
}

func (w *worker) read(k kind) {
	target := w.target()
	q := request{kind: k, method: http.MethodGet, url: w.url + presencePath("v3", target.id)}
	viewer, device := w.town.viewer(w.random)
	switch k {
	case greedyRead:
		viewer, device = w.town.greedy, 0
	case readQuery:
		q.inQuery = true
	case readR0:
		q.url = w.url + presencePath("r0", target.id)
	case readOdd:
		q.url = w.url + presencePath("unstable", target.id)
	case leavingRead:
		q.leave = w.patience()
	case bridgeRead:
		as := w.anyOf(w.town.bridged)
		q.url += "?user_id=" + url.QueryEscape(as.id)
		w.readAs(q, &session{owner: as, token: appservice}, target)
		return
	}
	if s := w.session(viewer, device); s != nil {
		w.readAs(q, s, target)
	}
}

// readAs reads and judges.
func (w *worker) readAs(q request, s *session, target *person) (a answer) {
	q.token = s.token
	before, floor := s.state.Load(), target.floor()
	a, how := w.clients.send(w.random, q)
	if a.status == 0 && q.leave > 0 {
		return a
	}
	how.before, how.after, how.floor = before, s.state.Load(), floor
	how.hidden, how.mayLimit = hides(s.owner.id, target.id), s.owner == w.town.greedy
	_, version := how.read(a)
	if state := w.hs.State(target.id); state.Version == version {
		how.active = state.Active
	}
	f, version := how.read(a)
	raise(&target.seen, version)
	w.clients.note(f, q, a, fmt.Sprintf("(at least %s)", scripted.Status(floor)))
	return a
}

func (w *worker) write(k kind, p *person) {
	s, path := &session{owner: p, token: appservice}, presencePath("v3", p.id)
	if k == bridgeWrite {
		path += "?user_id=" + url.QueryEscape(p.id)
	} else if s = w.session(p, 0); s == nil {
		return
	}
	p.writing.Lock()
	defer p.writing.Unlock()
	if k != again || p.written == 0 || w.random.IntN(20) == 0 {
		p.written++
	}
	q := request{
		kind: k, method: http.MethodPut, url: w.url + path, token: s.token,
		body: fmt.Sprintf(`{"presence":"online","status_msg":%q}`, scripted.Status(p.written)),
	}
	if k == leavingWrite {
		q.leave = w.patience()
	}
	before := s.state.Load()
	a, how := w.clients.send(w.random, q)
	if a.status == http.StatusOK {
		p.accepted = p.written
		if way(a.cacheStatus()) != wayCoalesced {
			raise(&p.acknowledged, p.written)
		}
	}
	if a.status == 0 && q.leave > 0 {
		return
	}
	how.before, how.after, how.mayLimit = before, s.state.Load(), p == w.town.greedy || k == hasty
	w.clients.note(how.write(a), q, a, "")
}

func (w *worker) foreign() {
	viewer, device := w.town.viewer(w.random)
	victim := w.target()
	s := w.session(viewer, device)
	if s == nil || victim == viewer {
		return
	}
	q := request{
		kind: foreign, method: http.MethodPut, url: w.url + presencePath("v3", victim.id), token: s.token,
		body: `{"presence":"offline","status_msg":"v1000000000"}`,
	}
	before := s.state.Load()
	a, how := w.clients.send(w.random, q)
	how.before, how.after = before, s.state.Load()
	w.clients.note(how.foreign(a), q, a, "")
}

// stranger shows a token that doesn't exist. New ones come from many addresses, and half of
// them from one, which goes over its limit.
func (w *worker) stranger(k kind) {
	target := w.target()
	q := request{kind: k, method: http.MethodGet, url: w.url + presencePath("v3", target.id)}
	if k == repeatRead {
		q.token = w.town.bad[w.random.IntN(len(w.town.bad))]
	} else {
		q.token = fmt.Sprintf("stranger-%d", w.strangers.Add(1))
		q.from = "198.51.100.1"
		if w.random.IntN(2) == 0 {
			q.from = fmt.Sprintf("203.0.113.%d", w.random.IntN(256))
		}
	}
	if k == strangerWrite {
		q.method, q.body = http.MethodPut, `{"presence":"offline","status_msg":"v1000000000"}`
	}
	a, how := w.clients.send(w.random, q)
	how.mayLimit = k != repeatRead
	w.clients.note(how.stranger(a), q, a, "")
}

// logout ends a session, or all of somebody's, and then tries a token that was ended.
func (w *worker) logout(k kind) {
	p, device := w.town.viewer(w.random)
	p.changing.Lock()
	defer p.changing.Unlock()
	s := p.devices[device].Load()
	if s == nil {
		return
	}
	ended := []*session{s}
	q := request{kind: k, method: http.MethodPost, url: w.url + "/_matrix/client/v3/logout", token: s.token}
	if k == logoutAll {
		q.url += "/all"
		// A homeserver may end a token before it has said whose it was. Then nobody knows whose
		// other tokens have ended with it (SECURITY.md). A read makes it known before that.
		target := w.target()
		a := w.readAs(request{kind: read, method: http.MethodGet, url: w.url + presencePath("v3", target.id)}, s, target)
		known := a.status == http.StatusOK || a.status == http.StatusForbidden
		if other := p.devices[1-device].Load(); other != nil && known {
			ended = append(ended, other)
		} else if other != nil {
			other.state.Store(going)
		}
	}
	for _, e := range ended {
		e.state.Store(going)
	}
	p.devices[device].Store(nil)
	if k == logoutAll {
		p.devices[1-device].Store(nil)
	}
	a, how := w.clients.send(w.random, q)
	how.before, how.after = going, going
	w.clients.note(how.write(a), q, a, "")
	if a.status != http.StatusOK {
		return
	}
	for _, e := range ended {
		e.state.Store(gone)
	}
	last := ended[w.random.IntN(len(ended))]
	target := w.target()
	w.readAs(request{kind: goneRead, method: http.MethodGet, url: w.url + presencePath("v3", target.id)}, last, target)
}

// sync is a client that asks for news, again and again, and says how present its user is.
func (w *worker) sync() {
	s := w.session(w.anyOf(w.town.people[:w.plan.busy]), w.random.IntN(2))
	if s == nil {
		return
	}
	presence := []string{"", "&set_presence=online"}[w.random.IntN(2)]
	if w.random.IntN(10) == 0 {
		presence = "&set_presence=unavailable"
	}
	q := request{kind: syncing, method: http.MethodGet, url: w.url + "/_matrix/client/v3/sync?since=s1&timeout=0" + presence, token: s.token}
	a, how := w.clients.send(w.random, q)
	w.clients.note(how.pass(a, `{"other":true}`), q, a, "")
}

// preflight is a browser that asks whether it may read.
func (w *worker) preflight() {
	q := request{kind: preflight, method: http.MethodOptions, url: w.url + presencePath("v3", w.target().id), asking: true}
	a, how := w.clients.send(w.random, q)
	w.clients.note(how.preflight(a), q, a, "")
}

func (w *worker) pass() {
	body := strings.Repeat("some other request ", 1+w.random.IntN(1000))
	q := request{kind: pass, method: http.MethodPost, url: w.url + "/_matrix/client/v3/rooms/!r/send", body: body}
	a, how := w.clients.send(w.random, q)
	w.clients.note(how.pass(a, body), q, a, "")
}
