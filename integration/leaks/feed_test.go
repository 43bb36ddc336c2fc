package leaks_test

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

// What the homeserver tells by itself: rows that come late, twice, in another order, or never.

// feed is what the homeserver tells, and how it is told.
type feed struct {
	seed    uint64
	trouble int  // rows that don't come as they should, of a hundred
	fate    fate // of all rows for a while, if it isn't drawn

	mu   sync.Mutex   // guards all below
	news gateway.News // who is told, or nil
	told []told
	live []liveness // a change of it at a time
}

// told is a row that has arrived, about a change that had been before.
type told struct {
	changed, arrived time.Time
	who              string // whose rooms have changed
	token            string // which has ended
	sessions         string // whose sessions may have ended
}

// liveness is from when on nothing has been lost, or the zero time after a loss.
type liveness struct{ from, whole time.Time }

// fate is what becomes of a row.
type fate int

const (
	drawn        fate = iota
	cutOffWithIt      // lost, and the connection with it
	missing           // lost, which the next line shows
	twice
	late
	fates = iota
)

// row is about a change that has just been.
type row struct {
	told
	presence gateway.PresenceNews
}

// noticed is after how long it is noticed at the latest that something is missing.
const noticed = 5*time.Second + 20*time.Millisecond

// heartbeat is how often a homeserver says something at least.
const heartbeat = 20 * time.Second

func (hs *homeserver) run(ctx context.Context, news gateway.News) {
	f := &hs.feed
	f.connect(news)
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			f.mu.Lock()
			f.news = nil
			f.lives(time.Time{})
			f.mu.Unlock()
			return
		case <-tick.C:
			f.mu.Lock()
			if f.isConnected() {
				f.news.Heard(gateway.LineOther)
			}
			f.mu.Unlock()
		}
	}
}

func (f *feed) connect(news gateway.News) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.news = news
	news.Connected()
	news.Heard(gateway.LineOther)
	f.lives(time.Now())
}

// lives notes since when nothing has been lost. F.mu must be held.
func (f *feed) lives(whole time.Time) { f.live = append(f.live, liveness{time.Now(), whole}) }

// isConnected reports whether rows arrive at all. F.mu must be held.
func (f *feed) isConnected() bool {
	return f.news != nil && len(f.live) > 0 && !f.live[len(f.live)-1].whole.IsZero()
}

// wholeAt returns since when nothing had been lost just before a moment, or the zero time.
func (f *feed) wholeAt(at time.Time) (whole time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.live {
		if l.from.Before(at) {
			whole = l.whole
		}
	}
	return whole
}

// lastTold returns when the last change was of which it had been told before a moment.
func (f *feed) lastTold(before time.Time, concerns func(of *told) bool) (changed time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.told {
		if t := &f.told[i]; t.arrived.Before(before) && t.changed.After(changed) && concerns(t) {
			changed = t.changed
		}
	}
	return changed
}

// change is the history's, of which the feed tells.
func (hs *homeserver) change(do func(w *world)) (before, after *world) {
	before, after = hs.history.change(do)
	moved := make(map[string]bool)
	for at := range before.joined {
		moved[at.user] = moved[at.user] || !after.joined[at]
	}
	for at := range after.joined {
		moved[at.user] = moved[at.user] || !before.joined[at]
	}
	for user, yes := range moved {
		if yes {
			hs.feed.tell(row{told: told{changed: after.from, who: user}})
		}
	}
	for token, s := range before.sessions {
		if _, good := after.sessions[token]; !good || before.locked[s.owner] != after.locked[s.owner] {
			hs.feed.tell(row{told: told{changed: after.from, token: token}})
		}
	}
	for _, user := range append(append([]string(nil), bridged...), appservice) {
		if before.locked[user] != after.locked[user] || before.deactivated[user] != after.deactivated[user] {
			hs.feed.tell(row{told: told{changed: after.from, sessions: user}})
		}
	}
	return before, after
}

// tellPresence tells of a presence as it is now.
func (f *feed) tellPresence(target string, active bool) {
	now := time.Now()
	f.tell(row{presence: gateway.PresenceNews{
		UserID: target, Presence: wordOf(target), StatusMsg: fmt.Sprintf("%q", stateMark+target+" for "),
		LastActive: now.Add(-activeAgo).UnixMilli(), Changed: now.UnixMilli(), CurrentlyActive: active,
	}})
}

// tell has a row arrive. What becomes of it depends on nothing but the row, the time and the seed.
func (f *feed) tell(r row) {
	f.mu.Lock()
	connected := f.isConnected()
	f.mu.Unlock()
	if !connected {
		return
	}
	sum := fnv.New64a()
	fmt.Fprint(sum, r.who, r.token, r.sessions, r.presence.UserID, time.Now().UnixNano())
	random := rand.New(rand.NewPCG(f.seed, sum.Sum64()))
	soon := time.Duration(1+random.IntN(20)) * time.Millisecond
	times := []time.Duration{soon}
	becomes := f.fate
	if becomes == drawn && random.IntN(100) < f.trouble {
		becomes = 1 + fate(random.IntN(int(fates)-1))
	}
	switch becomes {
	case cutOffWithIt:
		f.lose(soon, time.Duration(random.IntN(120_000))*time.Millisecond)
		return
	case missing:
		go func() {
			time.Sleep(soon + time.Duration(random.Int64N(int64(noticed-20*time.Millisecond))))
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.isConnected() {
				f.news.Missed(gateway.FeedGap)
				f.lives(time.Now())
			}
		}()
		return
	case twice:
		times = []time.Duration{soon, time.Duration(random.IntN(60_000)) * time.Millisecond}
	case late:
		times = []time.Duration{time.Duration(random.IntN(10_000)) * time.Millisecond}
	}
	for _, after := range times {
		go func() {
			time.Sleep(after)
			f.arrive(r)
		}()
	}
}

// lose breaks the connection for a while.
func (f *feed) lose(after, down time.Duration) {
	go func() {
		time.Sleep(after)
		f.mu.Lock()
		news := f.news
		if !f.isConnected() {
			f.mu.Unlock()
			return
		}
		news.Lost(gateway.FeedConnection, errUnreachable)
		f.lives(time.Time{})
		f.mu.Unlock()
		time.Sleep(down)
		f.mu.Lock()
		same := f.news == news
		f.mu.Unlock()
		if same {
			f.connect(news)
		}
	}()
}

func (f *feed) arrive(r row) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case !f.isConnected():
		return
	case r.who != "":
		f.news.Heard(gateway.LineMembership)
		f.news.MembershipChanged(r.who)
	case r.token != "":
		f.news.Heard(gateway.LineSession)
		f.news.TokenEnded(r.token)
	case r.sessions != "":
		f.news.Heard(gateway.LineSession)
		f.news.SessionsEnded(r.sessions)
	default:
		f.news.Heard(gateway.LinePresence)
		f.news.PresenceChanged(r.presence)
		return
	}
	r.arrived = time.Now()
	f.told = append(f.told, r.told)
}

// fedBy is the homeserver of this test.
var fedBy atomic.Pointer[homeserver]

func init() { caddy.RegisterModule(new(modelFeed)) }

// modelFeed is the feed as a guest module: "feed model 10m".
type modelFeed struct {
	LiveTTL caddy.Duration `json:"live_ttl"`
}

func (*modelFeed) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.matrix_presence.feeds.model",
		New: func() caddy.Module { return new(modelFeed) },
	}
}

func (f *modelFeed) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	var ttl string
	if !d.Args(&ttl) {
		return d.ArgErr()
	}
	lives, err := time.ParseDuration(ttl)
	f.LiveTTL = caddy.Duration(lives)
	return err
}

func (f *modelFeed) Run(ctx context.Context, news gateway.News) { fedBy.Load().run(ctx, news) }
func (f *modelFeed) Key() string                                { return "model" }
func (f *modelFeed) LiveFor() time.Duration                     { return time.Duration(f.LiveTTL) }
