package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/identity"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

const (
	// maxPendingBytes is the size of the largest request that may wait, as far as the client
	// chose it, with the bodies that it falls back on, and of the head of the one that came: many
	// times what clients send.
	maxPendingBytes = 16 << 10

	// maxFallbacks is how many bodies a write may fall back on: more than homeservers refuse in
	// a row of what they surely take.
	maxFallbacks = 4

	// maxPendingDevices is how many writes of a user may wait: one of each of so many devices.
	maxPendingDevices = 8

	// maxDeliveries is how many are sent at a time, so that a homeserver that is slow
	// isn't sent everything at once.
	maxDeliveries = 64

	// deliveryTimeout is how long the homeserver may take for one.
	deliveryTimeout = 30 * time.Second

	// A delivery that fails is tried again after the first of these, then after twice
	// as long each time, up to the second.
	firstRetry, lastRetry = time.Second, 10 * time.Second

	// flushTimeout is how long all that wait have when a configuration ends: less than what
	// Docker (10 s) and systemd (90 s) give a process to stop by default. Caddy's own unit gives
	// 5 s, which ends them sooner.
	flushTimeout = 8 * time.Second

	// maxFlushing is how many users' writes are flushed at a time.
	maxFlushing = 32
)

// pendings are writes that were answered with 200 and wait for their user's budget, under
// over_limit coalesce: of each device the newest, if the homeserver surely takes it and it
// leaves there what all of them would. While a user has one, their presence
// counts as being written to: nothing about it is stored or served from memory.
//
// What the newest took the place of is still tried if the homeserver doesn't take the
// newest: by its configuration, or because something on the way there minds it.
//
// All writes of a user who has one wait behind it, so that none overtakes another:
//
//	1 write: over the limit, waits
//	2 delivery: of 1, the homeserver is slow
//	3 write: by then within the limit; sent at once it might come before 1
type pendings struct {
	mu    sync.Mutex // guards all below, and what the queues hold
	users map[string]*pendingUser
	n     int // writes in all queues, and those that are being delivered

	// sending has a place for each user whose queue is being delivered, but for those
	// of a flush.
	sending chan struct{}
}

// pendingUser is a user who has writes waiting.
type pendingUser struct {
	userID string
	write  cache.Write // of the presence, in flight as long as anything waits
	queue  []*pendingWrite
	timer  *time.Timer

	// delivering is there while somebody is at the queue, and closed when that is over.
	// Nobody else may take from it. Sent is what is under way.
	delivering chan struct{}
	sent       *pendingWrite

	// settled is when what was sent, taken or not, has settled.
	settled time.Time
}

// pendingWrite is one write, in the queue of its user in the order in which they came. It
// has the access token, as every request under way has, for no longer than max_age and a
// delivery take.
type pendingWrite struct {
	presenceWrite
	read     matrix.WriteBody // of the body
	handler  *Gateway
	request  subrequest
	came     int // bytes of the head of the client's own request, which is kept as long
	accepted time.Time
	attempts int

	// fallbacks are bodies to be sent if the homeserver doesn't want this one, the newest
	// first. Refused tells that one was sent in vain. The pendings' lock guards both.
	fallbacks []fallback
	refused   bool
}

// fallback is what a write took the place of. It goes with that one's fields.
type fallback struct {
	body     matrix.WriteBody
	accepted time.Time
}

// presenceWrite is a write that is in order.
type presenceWrite struct {
	policy.PresenceWrite
	credential matrix.Credential
	class      *Class
}

// waits reports whether the user has writes waiting or being delivered, and how many
// there are in the queue.
func (p *pendings) waits(userID string) (queued int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	user := p.users[userID]
	if user == nil {
		return 0, false
	}
	return len(user.queue), true
}

// len returns how many writes wait or are being delivered.
func (p *pendings) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n
}

// newPending returns a client's write, to be sent later as the client sent it.
func (g *Gateway) newPending(r *http.Request, next Next, write *presenceWrite) *pendingWrite {
	u := *r.URL
	u.RawQuery = g.assertion(write.credential)
	request := g.newSubrequest(r, next, &u, write.credential.Token, contentTypeField)
	request.request.Method, request.request.ContentLength = http.MethodPut, int64(len(write.Body))
	return &pendingWrite{
		presenceWrite: *write, read: matrix.ReadWriteBody(write.Body, g.knownDialect()),
		handler: g, request: request, came: sizeOfHead(r), accepted: g.store.now(),
	}
}

// sizeOfHead is how many bytes of a request's line and fields its client has chosen. The
// placeholders of the site's handlers hold all of it.
func sizeOfHead(r *http.Request) int { return len(r.RequestURI) + sizeOfFields(r.Header) }

func sizeOfFields(header http.Header) (n int) {
	for name, values := range header {
		for _, value := range values {
			n += len(name) + len(value)
		}
	}
	return n
}

// accept lets a write wait until the user's budget is refilled, in the place of an older
// one of the same device. It reports false if there is no room, it would take too
// long, or the homeserver may refuse it: nothing is acknowledged then, and nothing done.
func (g *Gateway) accept(w *pendingWrite, wait time.Duration) bool {
	m, bounds := g.store, g.cfg.Coalesce
	p := &m.pendings
	if wait > bounds.MaxAge || max(w.size(), w.came) > maxPendingBytes || !w.read.Certain() || w.request.err != nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if g.ended.Load() {
		return false
	}
	user := p.users[w.UserID]
	replaced := false
	if user != nil {
		for i := len(user.queue) - 1; i >= 0; i-- {
			older := user.queue[i]
			if older.Fingerprint == w.Fingerprint && w.takePlaceOf(older, user.queue[i+1:]) {
				m.decide(older, deliverySuperseded)
				user.queue = slices.Delete(user.queue, i, i+1)
				replaced = true
			}
		}
	}
	if !replaced && (p.n >= bounds.Pending || user != nil && len(user.queue) >= maxPendingDevices) {
		return false
	}
	if user == nil {
		user = &pendingUser{userID: w.UserID, write: m.presence.BeginWait(w.UserID)}
		if p.users == nil {
			p.users = make(map[string]*pendingUser)
		}
		p.users[w.UserID] = user
	}
	user.queue = append(user.queue, w)
	p.n++
	// What was last written is no longer what the user wants.
	m.repeats.Disturb(w.UserID)
	if g.watchesSyncs() {
		g.doubtAfterWrite(w.UserID, w.Fingerprint)
	}
	if user.delivering == nil && user.timer == nil {
		m.schedule(user, wait)
	}
	return true
}

// takePlaceOf makes a write one that leaves at the homeserver what an older one of the same
// device and this one leave, with what waits between them, and falls back on the older one.
// It reports false if it can't, and has done nothing then. It needs the lock.
func (w *pendingWrite) takePlaceOf(older *pendingWrite, between []*pendingWrite) bool {
	bodies := make([]matrix.WriteBody, len(between))
	for i := range between {
		bodies[i] = between[i].read
	}
	body, ok := w.read.Supersede(older.read, bodies)
	if !ok {
		return false
	}
	var fallbacks []fallback
	if len(body.Text) != len(w.Body) {
		// What it has taken over may be what the homeserver minds.
		without := w.read
		if len(older.fallbacks) > 0 {
			without, _ = w.read.Supersede(older.fallbacks[0].body, bodies)
		}
		fallbacks = append(fallbacks, fallback{without, w.accepted})
	}
	for _, f := range w.fallbacks {
		if body, ok := f.body.Supersede(older.read, bodies); ok {
			f.body = body
		}
		fallbacks = append(fallbacks, f)
	}
	kept := len(fallbacks) + 1 // so many at least, or both wait
	for _, f := range append([]fallback{{older.read, older.accepted}}, older.fallbacks...) {
		fallbacks = append(fallbacks, fallback{f.body.Fallback(bodies), f.accepted})
	}
	size := w.size() - len(w.Body) + len(body.Text)
	for i, f := range fallbacks {
		size += len(f.body.Text)
		if size <= maxPendingBytes && i < maxFallbacks {
			continue
		}
		if i < kept {
			return false
		}
		fallbacks = fallbacks[:i]
		break
	}
	w.setBody(body)
	w.fallbacks = fallbacks
	return true
}

// setBody gives a write another body.
func (w *pendingWrite) setBody(body matrix.WriteBody) {
	w.read, w.Body = body, body.Text
	w.request.request.ContentLength = int64(len(body.Text))
}

// fallBack makes a write that the homeserver doesn't want the one that it took the place of,
// and reports whether there was one. It needs the lock.
func (w *pendingWrite) fallBack() bool {
	if len(w.fallbacks) == 0 {
		return false
	}
	w.setBody(w.fallbacks[0].body)
	w.accepted, w.fallbacks = w.fallbacks[0].accepted, w.fallbacks[1:]
	w.attempts, w.refused = 0, true
	return true
}

// size is how many bytes of a write its client has chosen.
func (w *pendingWrite) size() int {
	return len(w.Body) + len(w.request.request.RequestURI) + sizeOfFields(w.request.request.Header)
}

// decide counts what became of a write that waited. It needs the lock.
//
// One that was refused is lost, whatever became of the one that was sent then: that
// has been counted, when this one took its place.
func (m *Store) decide(w *pendingWrite, result delivery) {
	switch {
	case w.refused && result != deliveryDropped:
		result = deliveryLost
	case result == deliverySuperseded && w.attempts > 0:
		result = deliveryOvertaken
	}
	m.pendings.n--
	m.counters.deliveries[result].Add(1)
	if result == deliveryLost || result == deliveryDropped {
		w.handler.reportLoss()
	}
}

// schedule has a user's queue delivered later. It needs the lock.
func (m *Store) schedule(user *pendingUser, wait time.Duration) {
	user.timer = time.AfterFunc(wait, func() { m.deliverInTurn(user) })
}

// deliverInTurn delivers a user's queue when there is a place for it. What gets too old
// before that is lost.
func (m *Store) deliverInTurn(user *pendingUser) {
	sending := m.pendings.sending
	for {
		left, ok := m.expire(user)
		if !ok {
			return
		}
		timer := time.NewTimer(left)
		select {
		case sending <- struct{}{}:
			timer.Stop()
			defer func() { <-sending }()
			m.deliverQueue(user, time.Time{})
			return
		case <-timer.C:
		}
	}
}

// expire drops what is too old of a user's queue, and returns when the next will be. It
// reports false if nothing waits, or somebody is at the queue.
func (m *Store) expire(user *pendingUser) (left time.Duration, ok bool) {
	p := &m.pendings
	p.mu.Lock()
	defer p.mu.Unlock()
	if user.delivering != nil || p.users[user.userID] != user {
		return 0, false
	}
	for len(user.queue) > 0 {
		w := user.queue[0]
		if left = w.handler.cfg.Coalesce.MaxAge - m.clock.Since(w.accepted); left > 0 {
			return left, true
		}
		user.queue = user.queue[1:]
		m.decide(w, deliveryLost)
	}
	m.finish(user)
	return 0, false
}

// deliverQueue sends what waits in a user's queue, oldest first, once the budget has an event
// for the first: the others that wait by then go along and are charged for, so that the
// homeserver has the newest as soon as it may have any. With an end, which is that of a
// configuration, nothing waits for a budget, and there is no second attempt.
func (m *Store) deliverQueue(user *pendingUser, end time.Time) {
	p := &m.pendings
	p.mu.Lock()
	defer p.mu.Unlock()
	if user.delivering != nil || p.users[user.userID] != user {
		return
	}
	user.delivering = make(chan struct{})
	if user.timer != nil {
		user.timer.Stop()
		user.timer = nil
	}
	var again time.Duration
	for together := 0; len(user.queue) > 0 && again == 0; {
		w := user.queue[0]
		timeout := deliveryTimeout
		if !end.IsZero() {
			if timeout = min(timeout, time.Until(end)); timeout <= 0 {
				break
			}
		}
		if again = m.chargeDelivery(w, together > 0 || !end.IsZero()); again > 0 {
			break
		}
		if together == 0 {
			together = len(user.queue)
		}
		together--
		user.queue = user.queue[1:]
		if m.clock.Since(w.accepted) >= w.handler.cfg.Coalesce.MaxAge {
			m.decide(w, deliveryLost)
			continue
		}

		user.sent = w
		p.mu.Unlock()
		result, retry := deliveryLost, time.Duration(0)
		_ = m.guard(func() { result, retry = w.deliver(timeout) })
		p.mu.Lock()
		user.sent = nil
		if settled := m.now().Add(w.handler.settle()); settled.After(user.settled) {
			user.settled = settled
		}

		ended := w.handler.ended.Load() || !end.IsZero()
		unwanted := result == deliveryLost && retry == 0
		fallen := unwanted && w.fallBack()
		switch {
		case result == deliveryLost && user.overtakes(w, unwanted && !fallen):
			m.decide(w, deliverySuperseded)
		case fallen:
			user.queue = slices.Insert(user.queue, 0, w)
			together++ // it goes in the place of the one that was charged for
		case retry > 0 && !ended && m.clock.Since(w.accepted)+retry < w.handler.cfg.Coalesce.MaxAge:
			user.queue = slices.Insert(user.queue, 0, w)
			again = retry
		default:
			m.decide(w, result)
		}
	}
	close(user.delivering)
	user.delivering = nil
	if len(user.queue) > 0 {
		m.schedule(user, again)
		return
	}
	m.finish(user)
}

// overtakes reports whether a newer write of the same device waits that can take the place
// of one that was sent in vain: any, if the homeserver doesn't want that. It needs the lock.
func (u *pendingUser) overtakes(w *pendingWrite, unwanted bool) bool {
	i := slices.IndexFunc(u.queue, func(other *pendingWrite) bool { return other.Fingerprint == w.Fingerprint })
	return i >= 0 && (unwanted || u.queue[i].takePlaceOf(w, u.queue[:i]))
}

// chargeDelivery takes an event for a write from its user's budget, or returns how long
// there will be none, but no longer than until the write is too old: another handler's
// deliveries may have led to a debt. For one that goes along with another it makes a debt.
func (m *Store) chargeDelivery(w *pendingWrite, along bool) (wait time.Duration) {
	limit := w.class.WriteLimit
	switch {
	case w.attempts > 0 || limit == nil: // it was charged for, or costs nothing
		return 0
	case along:
		m.writes.Charge(w.UserID, *limit, m.now())
		return 0
	}
	wait, _ = m.writes.Take(w.UserID, *limit, m.now())
	return min(wait, w.handler.cfg.Coalesce.MaxAge-m.clock.Since(w.accepted))
}

// deliver sends a write. If that fails in a way that may pass it returns after which time
// to try again.
func (w *pendingWrite) deliver(timeout time.Duration) (result delivery, retry time.Duration) {
	m := w.handler.store
	request := w.request
	request.request = w.request.request.Clone(context.Background())
	request.request.Body = io.NopCloser(bytes.NewReader(w.Body))

	began := m.now()
	attempt := m.repeats.Begin(w.UserID, began)
	answered, status := w.handler.beginWrite(&w.PresenceWrite, began), 0
	var taken *policy.PresenceWrite
	defer func() {
		answered(status)
		attempt.End(taken)
	}()
	answer := request.send(timeout, m.counters.departs(reasonDelivery))
	w.attempts++
	retry = min(lastRetry, firstRetry<<min(w.attempts-1, 10))
	if answer.err == nil {
		status = answer.status
	}
	switch {
	case answer.err == nil && isSuccess(answer.status) && answer.local:
		status = http.StatusBadGateway // that the homeserver has taken it, nobody has said
		return deliveryLost, retry
	case answer.err == nil && isSuccess(answer.status):
		taken = &w.PresenceWrite
		return deliveryDone, 0
	case answer.err == nil && answer.status == http.StatusUnauthorized && !answer.site:
		m.refused(w.credential, m.identities.LastSession(w.credential), answer)
		if answer.matrixError() == unknownToken {
			return deliveryDropped, 0
		}
	case answer.code() == http.StatusTooManyRequests, answer.isAboutRequest():
		return deliveryLost, max(retry, retryAfter(answer))
	case answer.failed(), answer.code() >= http.StatusInternalServerError:
		return deliveryLost, retry
	}
	return deliveryLost, 0 // the homeserver doesn't want it
}

// retryAfter returns for how long a 429 says to wait, or 0 if it doesn't. Nothing waits for as long
// as a day.
func retryAfter(answer *subresponse) time.Duration {
	const day = 24 * time.Hour
	if seconds, err := strconv.ParseInt(answer.header.Get("Retry-After"), 10, 64); err == nil {
		return time.Duration(min(seconds, int64(day/time.Second))) * time.Second
	}
	var limited matrixError
	if json.Unmarshal(answer.body, &limited) != nil {
		return 0
	}
	return time.Duration(min(limited.RetryAfterMS, int64(day/time.Millisecond))) * time.Millisecond
}

// revokeToken forgets a credential that the homeserver has said to be no longer good, and
// drops what waits of it. An appservice's other users are none of its business: their
// writes are delivered, or refused for themselves.
func (m *Store) revokeToken(c matrix.Credential) { m.revokeTokenOf(c, m.identities.LastSession(c)) }

// revokeTokenOf is revokeToken for a credential of which it isn't remembered any more whose
// it was.
func (m *Store) revokeTokenOf(c matrix.Credential, was identity.Session) {
	if was.UserID != "" {
		m.devices.Forget(was.UserID, was.Device) // it wants nothing any more
	}
	m.identities.RevokeToken(c)
	m.dropPending(deliveryDropped, func(w *pendingWrite) bool {
		own := w.credential
		return own.Token == c.Token && (own.UserID == c.UserID && own.DeviceID == c.DeviceID || was.UserID != "" && w.UserID == was.UserID)
	})
}

// dropPending drops the writes that match. What is on its way can't be.
func (m *Store) dropPending(result delivery, match func(*pendingWrite) bool) {
	p := &m.pendings
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, user := range p.users {
		user.queue = slices.DeleteFunc(user.queue, func(w *pendingWrite) bool {
			if !match(w) {
				return false
			}
			m.decide(w, result)
			return true
		})
		if len(user.queue) == 0 && user.delivering == nil {
			user.timer.Stop()
			m.finish(user)
		}
	}
}

// finish is called when nothing of a user's waits any more. It needs the lock.
func (m *Store) finish(user *pendingUser) {
	delete(m.pendings.users, user.userID)
	now := m.now()
	user.write.End(now, max(0, user.settled.Sub(now)))
}

// Flush delivers what waits of a handler whose configuration ends, and returns when that
// is done, or given up. No more will wait.
func (g *Gateway) Flush() {
	p := &g.store.pendings
	p.mu.Lock()
	var users []*pendingUser
	if !g.ended.Swap(true) {
		for _, user := range p.users {
			if user.concerns(g) {
				users = append(users, user)
			}
		}
	}
	p.mu.Unlock()
	if len(users) == 0 {
		return
	}

	patience, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	places := make(chan struct{}, maxFlushing)
	var all sync.WaitGroup
	for _, user := range users {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			g.flushUser(patience, user)
		})
	}
	all.Wait()
	g.store.dropPending(deliveryLost, func(w *pendingWrite) bool { return w.handler == g })
	g.logLosses(0)
}

// flushUser delivers what waits of a user, until nothing of this handler's does.
func (g *Gateway) flushUser(patience context.Context, user *pendingUser) {
	p := &g.store.pendings
	end, _ := patience.Deadline()
	for patience.Err() == nil {
		p.mu.Lock()
		busy, concerned := user.delivering, user.concerns(g)
		p.mu.Unlock()
		switch {
		case !concerned:
			return
		case busy == nil:
			g.store.deliverQueue(user, end)
			continue
		}
		select {
		case <-busy:
		case <-patience.Done():
		}
	}
}

// concerns reports whether a write of a handler's waits or is being delivered. It needs the
// lock.
func (u *pendingUser) concerns(h *Gateway) bool {
	return u.sent != nil && u.sent.handler == h ||
		slices.ContainsFunc(u.queue, func(w *pendingWrite) bool { return w.handler == h })
}

// reportLoss notes that a write was answered with 200 and then not delivered.
func (g *Gateway) reportLoss() {
	g.store.losses.unlogged.Add(1)
	g.logLosses(faultLogInterval)
}

// logLosses logs how many writes were lost, unless it did within the interval.
func (g *Gateway) logLosses(interval time.Duration) {
	losses := &g.store.losses
	if !losses.logged.due(g.store.clock.Stamp(), interval) {
		return
	}
	if n := losses.unlogged.Swap(0); n > 0 {
		g.logger.Warn("presence writes that were answered with 200 could not be delivered to the homeserver; "+
			"over_limit reject makes no such promise", "lost_since_last_message", n)
	}
}

// lossLog makes one line in the log of many losses.
type lossLog struct {
	unlogged atomic.Int64
	logged   logInterval
}
