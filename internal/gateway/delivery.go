package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/cluster"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/pending"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// delivery is what a write that waits needs to be sent, after the gateway that accepted it may have
// gone. It is a [pending.Sender].
type delivery struct {
	tenant
	userID     string
	device     [16]byte
	credential matrix.Credential
	limit      policy.Limit
	request    subrequest
	turn       turn // by which other nodes know of it

	lastAnswer atomic.Int64 // the status of the answer when it was last sent, or 0
}

// newDelivery returns what a client's write needs to be sent later as the client sent it.
func (g *Gateway) newDelivery(r *http.Request, next Next, write *presenceWrite) *delivery {
	u := *r.URL
	u.RawQuery = g.assertion(write.credential)
	request := g.newSubrequest(r, next, &u, write.credential.Token, contentTypeField)
	request.request.Method = http.MethodPut
	return &delivery{
		tenant: g.tenant, userID: write.UserID, device: write.Fingerprint, credential: write.credential,
		limit: *write.class.WriteLimit, request: request,
	}
}

// letWait lets a write wait until its user's budget is refilled. It reports false if it doesn't, and
// nothing may be acknowledged then.
func (g *Gateway) letWait(r *http.Request, next Next, write *presenceWrite, wait time.Duration) bool {
	if isEarly(r) {
		return false // it would be as early when it is sent, whenever that is
	}
	d := g.newDelivery(r, next, write)
	if d.request.err != nil {
		return false
	}
	waits := &pending.Write{
		UserID: write.UserID, Device: write.Fingerprint, Credential: write.credential,
		Body: matrix.ReadWriteBody(write.Body, g.knownDialect()), Accepted: g.store.now(),
		Head: sizeOfHead(d.request.request), Kept: sizeOfHead(r), Sender: d,
	}
	if !g.waiting.MayAccept(waits, wait) {
		return false // and none that waits at another node gives way to it
	}
	d.turn = g.store.waits(r.Context(), write, waits.Body)
	if d.turn.member != nil && d.turn.waiting == nil && r.Context().Err() != nil {
		return false // nobody is told of it, and nobody waits for an answer
	}
	waits.Apart = d.turn.waiting != nil
	if !g.waiting.Accept(waits, wait) {
		d.turn.waiting.Done()
		return false
	}
	// What was last written is no longer what the user wants.
	g.store.repeats.Disturb(write.UserID)
	if g.watchesSyncs() {
		g.doubtAfterWrite(write.UserID, write.Fingerprint)
	}
	return true
}

// sizeOfHead is how many bytes of a request's line and fields its client has chosen. The
// placeholders of the site's handlers hold all of it.
func sizeOfHead(r *http.Request) int {
	n := len(r.RequestURI)
	for name, values := range r.Header {
		for _, value := range values {
			n += len(name) + len(value)
		}
	}
	return n
}

// Charge takes an event from the user's budget, or makes a debt.
func (d *delivery) Charge(along bool) (wait time.Duration) {
	return d.store.chargeDelivery(&d.limit, d.userID, along)
}

// Hold keeps a write back while presence gives way, but not until it is too old.
func (d *delivery) Hold(left time.Duration) (wait time.Duration) {
	if !d.cfg.BrownOut || left < d.cfg.Coalesce.MaxAge/4 {
		return 0
	}
	return d.store.brownOut.MayEnter(d.store.now())
}

// Settle is for how long nothing is kept after the write.
func (d *delivery) Settle() time.Duration { return d.settle() }

// behindRetry is after which time a write is tried again that is behind another node's.
const behindRetry = 250 * time.Millisecond

// Send sends the write with this body, if it is its turn among those that wait at other nodes.
func (d *delivery) Send(body []byte, timeout time.Duration, last bool) pending.Answer {
	told, order := d.store.announceInTurn(d.turn, d.userID, last)
	switch order {
	case cluster.Behind:
		return pending.Answer{Reply: pending.Early, After: behindRetry}
	case cluster.TakenOver:
		return pending.Answer{Reply: pending.TakenOver}
	case cluster.Late:
		return pending.Answer{Reply: pending.Late}
	}
	defer told.end(context.Background())
	request := d.request
	request.request = request.request.Clone(context.Background())
	request.request.Body, request.request.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))

	write := &policy.PresenceWrite{UserID: d.userID, Fingerprint: d.device, Body: body}
	began := d.store.now()
	attempt := d.store.repeats.Begin(d.userID, began)
	answered, status := d.beginWrite(write, began), 0
	var taken *policy.PresenceWrite
	defer func() {
		answered(status)
		attempt.End(taken)
		d.tellHeirs(d.userID)
	}()
	pass := d.joins()
	leave := func() { pass.Leave(d.store.now()) }
	defer leave() // if it panics
	answer := request.send(timeout, d.store.counters.departs(reasonDelivery))
	leave()
	d.lastAnswer.Store(int64(answer.code()))
	if answer.err == nil {
		status = answer.status
	}
	if answer.err == nil && isSuccess(answer.status) {
		if answer.local {
			status = http.StatusBadGateway // that the homeserver has taken it, nobody has said
			return pending.Answer{Reply: pending.Failed}
		}
		taken = write
	}
	return d.judge(answer)
}

// judge says what the answer to a delivery means.
func (d *delivery) judge(answer *subresponse) pending.Answer {
	switch {
	case answer.err == nil && isSuccess(answer.status):
		return pending.Answer{Reply: pending.Taken}
	case answer.err == nil && answer.status == http.StatusUnauthorized && !answer.site:
		d.store.refused(d.credential, d.store.identities.LastSession(d.credential), answer)
		if answer.matrixError() == unknownToken {
			return pending.Answer{Reply: pending.Ended}
		}
	case answer.code() == http.StatusTooManyRequests, answer.isAboutRequest():
		return pending.Answer{Reply: pending.Failed, After: retryAfter(answer)}
	case answer.failed(), answer.code() >= http.StatusInternalServerError:
		return pending.Answer{Reply: pending.Failed}
	}
	return pending.Answer{Reply: pending.Refused}
}

// retryAfter returns for how long a 429 says to wait, or 0 if it doesn't. Nothing waits for as long
// as a day.
func retryAfter(answer *subresponse) (wait time.Duration) {
	const day = 24 * time.Hour
	field := answer.header.Get("Retry-After")
	if seconds, err := strconv.ParseInt(field, 10, 64); err == nil {
		wait = time.Duration(min(max(0, seconds), int64(day/time.Second))) * time.Second
	} else if until, err := http.ParseTime(field); err == nil {
		wait = until.Sub(dateOf(answer))
	} else {
		var limited matrixError
		_ = json.Unmarshal(answer.body, &limited) // 0 if it isn't one
		wait = time.Duration(min(limited.RetryAfterMS, int64(day/time.Millisecond))) * time.Millisecond
	}
	return min(max(0, wait), day)
}

// dateOf returns when an answer was made, by the clock of who made it if that says so (RFC 9110, 6.6.1).
func dateOf(answer *subresponse) time.Time {
	if date, err := http.ParseTime(answer.header.Get("Date")); err == nil {
		return date
	}
	return answer.arrived
}

// Flush delivers what waits of a configuration that ends, and returns when that
// is done, or given up. No more will wait.
func (g *Gateway) Flush() {
	if g.waiting.Flush() {
		g.logLosses(0)
	}
}

// Ended notes what became of the write, and if that was answered with 200 and then not delivered, says so.
func (d *delivery) Ended(became pending.Result) {
	d.turn.waiting.Done()
	if became == pending.Lost || became == pending.Dropped {
		d.store.losses.unlogged.Add(1)
		d.store.losses.lastAnswer.Store(d.lastAnswer.Load())
		d.logLosses(faultLogInterval)
	}
}

// logLosses logs how many writes were lost, unless it did within the interval.
func (t tenant) logLosses(interval time.Duration) {
	losses := &t.store.losses
	if !losses.logged.due(t.store.clock.Stamp(), interval) {
		return
	}
	if n := losses.unlogged.Swap(0); n > 0 {
		t.logger.Warn("presence writes that were answered with 200 could not be delivered to the homeserver; "+
			"over_limit reject makes no such promise", "lost_since_last_message", n, "last_answer", losses.lastAnswer.Load())
	}
}

// lossLog makes one line in the log of many losses.
type lossLog struct {
	unlogged   atomic.Int64
	lastAnswer atomic.Int64 // the status of the answer to the last of them, or 0 if it was never sent
	logged     logInterval
}

// Interface guard
var _ pending.Sender = (*delivery)(nil)
