package history

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// epoch begins all times of this package, which are differences on the clock of the
// process. So those of clients and homeserver can be compared.
var epoch = time.Now()

func clock() time.Duration { return time.Since(epoch) }

// register is a user's presence: the value of the last write that was applied, or 0.
type register struct {
	mu      sync.Mutex // guards all below
	value   int64
	coming  []change                // not applied yet, the next one first
	applied map[int64]time.Duration // when each value was
	writes  int                     // under way
	ended   chan struct{}           // closed when a client knows the end of its write

	// tell, if it isn't nil, is called when a value was applied, in the order of the values.
	tell func(value int64, at time.Duration)
}

type change struct {
	value int64
	due   time.Duration
}

// advance applies what is due. That happens when somebody looks, but counts as having
// happened when it was due: no scheduler can make the homeserver break its word. It
// needs the lock, which now must not be older than.
func (g *register) advance(now time.Duration) {
	for len(g.coming) > 0 && g.coming[0].due <= now {
		g.value, g.applied[g.coming[0].value] = g.coming[0].value, g.coming[0].due
		if g.tell != nil {
			g.tell(g.value, g.coming[0].due)
		}
		g.coming = g.coming[1:]
	}
}

// accept applies a value after a delay, but by the deadline. It reports whether that
// was still possible.
func (g *register) accept(value int64, delay, deadline time.Duration) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := clock()
	if now > deadline {
		return false
	}
	due := min(now+delay, deadline)
	at, _ := slices.BinarySearchFunc(g.coming, due+1, func(c change, due time.Duration) int { return int(c.due - due) })
	g.coming = slices.Insert(g.coming, at, change{value, due})
	g.advance(now)
	return true
}

// read returns the value and its age, whether a write is under way, and a channel that is
// closed when the next one has ended.
func (g *register) read() (value int64, age time.Duration, writing bool, ended <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := clock()
	g.advance(now)
	return g.value, now - g.applied[g.value], g.writes > 0, g.ended
}

// beginWrite and endWrite are called by a client.
func (g *register) beginWrite() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.writes++
}

func (g *register) endWrite() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.writes--
	close(g.ended)
	g.ended = make(chan struct{})
}

// settled reports whether all that was accepted is applied.
func (g *register) settled() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.advance(clock())
	return len(g.coming) == 0
}

// fate is what becomes of a write at the homeserver.
type fate int

const (
	answered     fate = iota // applied and acknowledged, in either order
	failedBefore             // answered with 500 and not applied
	failedAfter              // applied, then answered with 500
	resetBefore              // not applied, and the connection is reset
	resetAfter               // applied, and the connection is reset
	brokenOff                // applied, and the acknowledgement breaks off
	abandoned                // the client goes away; applied or not
	hung                     // not answered until the sidecar gives up; applied before that, after it, or not
	fates                    // how many there are
)

var fateNames = [fates]string{"answered", "failed before", "failed after", "reset before", "reset after", "broken off", "abandoned", "hung"}

func (f fate) String() string { return fateNames[f] }

// write is one that a client is making.
type write struct {
	value int64
	fate  fate

	// deadline is until when the homeserver may apply it: for as long as the
	// sidecar surely hasn't given it up, and the settle time more.
	deadline time.Duration

	decided chan struct{} // closed when it is applied, or never will be
	seen    atomic.Bool
}

// homeserver keeps the registers, behind a real socket.
type homeserver struct {
	URL string

	*scenario
	feed *feed // nil: it tells nothing by itself

	mu        sync.Mutex // guards registers and writes
	registers map[string]*register
	writes    map[int64]*write

	underWay atomic.Int64 // requests
	calm     atomic.Bool  // no faults and no delays
	problem  func(format string, args ...any)
}

func newHomeserver(t *testing.T, s *scenario) *homeserver {
	hs := &homeserver{
		scenario:  s,
		registers: make(map[string]*register),
		writes:    make(map[int64]*write),
		problem:   t.Errorf,
	}
	if s.feeds {
		hs.feed = newFeed()
	}
	server := httptest.NewUnstartedServer(hs)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it would tell of each answer that is broken off
	server.Start()
	t.Cleanup(server.Close)
	hs.URL = server.URL
	return hs
}

func (hs *homeserver) register(user string) *register {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	g, ok := hs.registers[user]
	if !ok {
		g = &register{applied: make(map[int64]time.Duration), ended: make(chan struct{})}
		if hs.feed != nil {
			g.tell = func(value int64, at time.Duration) { hs.tell(user, value, at) }
		}
		hs.registers[user] = g
	}
	return g
}

// expect announces a write.
func (hs *homeserver) expect(w *write) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.writes[w.value] = w
}

// quiet reports whether every request is answered, and every write that was accepted
// applied.
func (hs *homeserver) quiet() bool {
	if hs.underWay.Load() > 0 {
		return false
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for _, g := range hs.registers {
		if !g.settled() {
			return false
		}
	}
	return hs.feed.quiet()
}

// token returns an access token of a user, one of many.
func token(user string, n int) string { return fmt.Sprintf("%d.%s", n, user) }

func (hs *homeserver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	hs.underWay.Add(1)
	defer hs.underWay.Add(-1)
	_, user, ok := strings.Cut(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), ".")
	if !ok {
		hs.problem("the homeserver got %s %s without a token", r.Method, r.URL)
		respond(w, http.StatusUnauthorized, `{"errcode":"M_MISSING_TOKEN","error":"Missing access token"}`)
		return
	}
	_, rest, isPresence := strings.Cut(r.URL.Path, "/presence/")
	target := strings.TrimSuffix(rest, "/status")
	switch {
	case strings.HasSuffix(r.URL.Path, "/account/whoami"):
		respond(w, http.StatusOK, fmt.Sprintf(`{"user_id":%q}`, user))
	case isPresence && r.Method == http.MethodPut:
		hs.serveWrite(w, r, hs.register(target))
	case isPresence && r.Method == http.MethodGet:
		hs.serveRead(w, r, hs.register(target))
	default:
		hs.problem("the homeserver got %s %s", r.Method, r.URL)
		respond(w, http.StatusNotFound, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`)
	}
}

func (hs *homeserver) serveWrite(w http.ResponseWriter, r *http.Request, g *register) {
	body, err := io.ReadAll(r.Body) // to its end, or the server doesn't notice that the sidecar gives up
	if err != nil {
		return
	}
	value, err := valueOf(body)
	if err != nil {
		hs.problem("the homeserver got a write of %q: %v", body, err)
		return
	}
	hs.mu.Lock()
	plan := hs.writes[value]
	hs.mu.Unlock()
	repeated := plan != nil && plan.seen.Swap(true)
	if repeated && hs.absorbs {
		hs.pauseLong()
		respond(w, http.StatusInternalServerError, `{"errcode":"M_UNKNOWN","error":"No value is written twice"}`)
		return
	}
	if plan == nil || repeated {
		hs.problem("the homeserver got a write of %d that nobody sent, or twice", value)
		return
	}
	hs.pauseLong()
	applied := false
	switch {
	case plan.fate == failedBefore, plan.fate == resetBefore:
	case plan.fate == hung && rand.IntN(2) == 0, plan.fate == abandoned && hs.settle > 0 && rand.IntN(4) > 0:
		// The homeserver learns that the sidecar has given up, but may have gone too far.
		select {
		case <-r.Context().Done():
		case <-time.After(2 * headerTimeout): // it hasn't, or before this came
		}
		if rand.IntN(4) > 0 {
			applied = g.accept(value, lateness(hs.settle), plan.deadline)
		}
	case plan.fate == abandoned && rand.IntN(2) == 0:
	default:
		applied = g.accept(value, lateness(hs.lateness), plan.deadline)
	}
	close(plan.decided)
	if hs.lateness == 0 {
		hs.pauseLong()
	}
	switch plan.fate {
	case failedBefore, failedAfter:
		applied = false
	case resetBefore, resetAfter:
		reset(w)
		return
	case brokenOff:
		breakOff(w, `{`)
	case abandoned, hung:
		select {
		case <-r.Context().Done():
		case <-time.After(2 * headerTimeout):
		}
	}
	if !applied {
		respond(w, http.StatusInternalServerError, `{"errcode":"M_UNKNOWN","error":"Internal server error"}`)
		return
	}
	respond(w, http.StatusOK, `{}`)
}

func (hs *homeserver) serveRead(w http.ResponseWriter, r *http.Request, g *register) {
	hs.pause()
	value, age, writing, ended := g.read()
	hold := rand.IntN(12) == 0 || writing && rand.IntN(3) == 0
	if hold && !hs.calm.Load() {
		// The answer comes when a write has overtaken it, at once or when that
		// has settled.
		select {
		case <-ended:
			time.Sleep(rand.N(patience / 2))
		case <-r.Context().Done():
		case <-time.After(patience):
		}
	} else {
		hs.pause()
	}
	if !hs.calm.Load() {
		switch rand.IntN(100) {
		case 0:
			respond(w, http.StatusInternalServerError, `{"errcode":"M_UNKNOWN","error":"Internal server error"}`)
			return
		case 1:
			reset(w)
			return
		case 2:
			breakOff(w, `{"presence":`)
		}
	}
	if value == 0 {
		respond(w, http.StatusNotFound, `{"errcode":"M_NOT_FOUND","error":"No presence yet"}`)
		return
	}
	if rand.IntN(4) == 0 {
		// The last activity needn't have been the write. Then its answer proves nothing.
		age += rand.N(20 * time.Second)
	}
	respond(w, http.StatusOK, fmt.Sprintf(`{"presence":"online","last_active_ago":%d,"status_msg":"%d","currently_active":true}`,
		age.Milliseconds(), value))
}

// patience is for how long the homeserver waits for something to happen that would make
// things difficult.
const patience = 150 * time.Millisecond

// pause is the time that a homeserver takes: mostly none, at times longer than a
// write takes to settle.
func (hs *homeserver) pause() {
	if hs.calm.Load() {
		return
	}
	switch n := rand.IntN(100); {
	case n < 50:
	case n < 80:
		time.Sleep(rand.N(2 * time.Millisecond))
	case n < 98:
		time.Sleep(rand.N(15 * time.Millisecond))
	default:
		time.Sleep(rand.N(80 * time.Millisecond))
	}
}

// pauseLong is the time that a homeserver takes for a write, so that readers and other
// writes come in between.
func (hs *homeserver) pauseLong() {
	hs.pause()
	if rand.IntN(2) == 0 {
		time.Sleep(rand.N(25 * time.Millisecond))
	}
}

// lateness returns a time up to a bound, near to it rather than not: the latest moments
// are those that readers can make most of.
func lateness(bound time.Duration) time.Duration {
	if bound == 0 {
		return 0
	}
	return bound - min(rand.N(bound), rand.N(bound))
}

// valueOf returns the number in a presence.
func valueOf(body []byte) (int64, error) {
	var presence struct {
		StatusMsg string `json:"status_msg"`
	}
	if err := json.Unmarshal(body, &presence); err != nil {
		return 0, err
	}
	return strconv.ParseInt(presence.StatusMsg, 10, 64)
}

func respond(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// breakOff sends the beginning of an answer and ends the connection.
func breakOff(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Length", "1000")
	respond(w, http.StatusOK, body)
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// reset ends the connection without an answer, the hard way.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // the same, only milder
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
