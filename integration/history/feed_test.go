package history

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

// What the homeserver tells by itself of each change, as it was captured of Synapse: mostly before the
// answer to the write, else after it, now and then long after; and sometimes an older row again, after that of a
// newer state.

// feed is what the homeserver tells, and to whom.
type feed struct {
	mu    sync.Mutex // guards all below
	news  gateway.News
	queue []row // in the order in which they were made, which a feed keeps
	busy  bool  // somebody delivers
	last  map[string]row
	told  map[int64]time.Duration // when each value was
	rows  [feedKinds]int          // how many there were of a kind
}

// row tells that a user's presence became a value.
type row struct {
	user  string
	value int64
	stamp int64         // by the homeserver's clock, in milliseconds
	due   time.Duration // not told earlier
	again bool          // of a state that has ended
}

// feedKinds are how rows come.
const (
	inTime = iota
	tardy
	repeated
	feedKinds
)

func newFeed() *feed {
	f := &feed{last: make(map[string]row), told: make(map[int64]time.Duration)}
	fedBy.Store(f)
	return f
}

// tell has a row come of a change that was applied at a time, and perhaps the one before it once more. It is
// called in the order of a user's changes.
func (hs *homeserver) tell(user string, value int64, at time.Duration) {
	f := hs.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	r, kind := row{user: user, value: value, stamp: epoch.Add(at).UnixMilli()}, inTime
	lag := rand.N(5 * time.Millisecond) // mostly before the answer to the write
	switch n := rand.IntN(100); {
	case hs.calm.Load(), n < 70:
	case n < 90:
		lag = rand.N(hs.settle / 2)
	default:
		kind, lag = tardy, rand.N(4*hs.settle)
	}
	f.add(kind, r, lag)
	if old, ok := f.last[user]; ok && rand.IntN(4) == 0 && !hs.calm.Load() {
		old.again = true
		f.add(repeated, old, lag+rand.N(20*time.Millisecond))
	}
	f.last[user] = r
}

// add puts a row behind those before. The lock must be held.
func (f *feed) add(kind int, r row, lag time.Duration) {
	f.rows[kind]++
	r.due = clock() + lag
	if n := len(f.queue); n > 0 {
		r.due = max(r.due, f.queue[n-1].due)
	}
	f.queue = append(f.queue, r)
	if !f.busy {
		f.busy = true
		go f.deliver()
	}
}

// deliver tells what there is to tell, in order.
func (f *feed) deliver() {
	for {
		f.mu.Lock()
		if len(f.queue) == 0 {
			f.busy = false
			f.mu.Unlock()
			return
		}
		r, news := f.queue[0], f.news
		f.mu.Unlock()
		time.Sleep(r.due - clock())
		if news != nil {
			news.Heard(gateway.LinePresence)
			news.PresenceChanged(gateway.PresenceNews{
				UserID: r.user, Presence: "online", StatusMsg: fmt.Sprintf(`"%d"`, r.value),
				LastActive: r.stamp, Changed: r.stamp, CurrentlyActive: true,
			})
		}
		f.mu.Lock()
		f.queue = f.queue[1:]
		if !r.again && news != nil {
			f.told[r.value] = clock()
		}
		f.mu.Unlock()
	}
}

// quiet reports whether all has been told.
func (f *feed) quiet() bool {
	if f == nil {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.busy
}

// toldAt returns when it was told of a value, if it was.
func (f *feed) toldAt(value int64) (at time.Duration, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, ok = f.told[value]
	return at, ok
}

// writePast writes past the sidecar, as other devices do in other networks. Nobody there knows of it until the
// feed has told; from then on everybody does.
func (c *client) writePast() {
	w := &write{value: values.Add(1), fate: answered, decided: make(chan struct{})}
	op := operation{client: c.number, target: c.own, isWrite: true, value: w.value, how: "past the sidecar", call: clock(), past: true}
	w.deadline = op.call + time.Minute
	c.hs.expect(w)
	c.hs.register(c.own).beginWrite()
	status, _, body, err := c.send(context.Background(), c.hs.URL, http.MethodPut, c.path(c.own), bodyOf(w.value))
	op.end = clock()
	c.hs.register(c.own).endWrite()
	if err != nil || status != http.StatusOK {
		c.problem("a write past the sidecar was answered with %d %s (%v)", status, body, err)
	}
	c.note(op)
}

// outdated describes reads that show less than was known when they began: writes that the sidecar had
// acknowledged, and those past it of which the feed had told. While a write of the same user is under way, nothing
// is kept, and a row that comes meanwhile counts when that has ended. What one reader saw of a write past the
// sidecar, before the feed had told, binds no other.
func outdated(hs *homeserver, ops []operation, applied map[int64]time.Duration) (found []string) {
	var through, known []operation
	for _, op := range ops {
		if op.isWrite && !op.past {
			through = append(through, op)
		}
	}
	for _, op := range ops {
		switch told, ok := hs.feed.toldAt(op.value); {
		case op.isWrite && op.past && ok:
			op.end = told
			for _, w := range through {
				if w.call < told && told < w.end {
					op.end = max(op.end, w.end)
				}
			}
		case !op.isWrite || !op.acknowledged:
			continue
		}
		op.end = max(op.end, applied[op.value])
		known = append(known, op)
	}
	for _, op := range ops {
		for _, w := range known {
			if !op.isWrite && w.end < op.call && applied[w.value] > applied[op.value] && len(found) < 5 {
				found = append(found, fmt.Sprintf("\t%v\n\t\tbegan after the end of %v", op, w))
			}
		}
	}
	return found
}

// fedBy is the feed of the test that runs.
var fedBy atomic.Pointer[feed]

func init() { caddy.RegisterModule(new(modelFeed)) }

// modelFeed is the feed as a guest module: "feed history".
type modelFeed struct{}

func (*modelFeed) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.matrix_presence.feeds.history",
		New: func() caddy.Module { return new(modelFeed) },
	}
}

func (*modelFeed) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

func (*modelFeed) Run(ctx context.Context, news gateway.News) {
	f := fedBy.Load()
	f.mu.Lock()
	f.news = news
	f.mu.Unlock()
	news.Connected()
	news.Heard(gateway.LineOther)
	<-ctx.Done()
	f.mu.Lock()
	f.news = nil
	f.mu.Unlock()
}

func (*modelFeed) Key() string            { return "history" }
func (*modelFeed) LiveFor() time.Duration { return 10 * time.Minute }
