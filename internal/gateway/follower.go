package gateway

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

const (
	// feedTick is how often a feed is looked after.
	feedTick = time.Second
	// feedSilence is how long it may say nothing while users are online. Synapse says
	// something each minute then.
	feedSilence = 75 * time.Second
	// feedStall is between which two ticks something must have stood still.
	feedStall = 5 * time.Second
	// feedLogInterval is for how long the same loss is not logged again.
	feedLogInterval = 10 * time.Minute
)

// Follower takes in what one feed tells. It implements [News].
type Follower struct {
	store *Store
	log   FeedLog

	mu        sync.Mutex // guards all below
	state     feedState
	whole     time.Time // since when it has told of all changes, in state live
	heard     time.Time // when it last told something, or connected
	evidence  time.Time // when it was first seen since then that somebody is online
	pace      pace
	logged    [feedLosses]time.Time
	announced bool // that it is live, since it was last said that it isn't
}

// FeedLog is where it is logged what becomes of a feed, such as a [slog.Logger].
type FeedLog interface {
	Info(message string, fields ...any)
	Warn(message string, fields ...any)
}

// Follow has a feed tell a store news, until stop is called. The feed outlives the
// configuration that it came with, and so must the log.
func (m *Store) Follow(feed Feed, log FeedLog) (stop func()) {
	f := &Follower{store: m, log: log, pace: newPace()}
	m.feeds.mu.Lock()
	if m.feeds.following == nil {
		m.feeds.following = make(map[*Follower]bool)
	}
	m.feeds.following[f] = true
	m.feeds.mu.Unlock()

	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := m.guard(func() { feed.Run(ctx, f) }); err != nil {
			f.Lost(FeedConnection, err)
		}
	})
	running.Go(func() { f.watch(ctx) })
	return func() {
		cancel()
		running.Wait()
		m.feeds.mu.Lock()
		delete(m.feeds.following, f)
		m.feeds.mu.Unlock()
		m.relive()
	}
}

// settles is the longest time of settle of all who use the store.
func (m *Store) settles() time.Duration { return time.Duration(m.needs.settle.Load()) }

// settled is when what happens now will have settled.
func (m *Store) settled() time.Time { return m.now().Add(m.settles()) }

// Connected implements [News].
func (f *Follower) Connected() {
	now := f.store.now()
	f.mu.Lock()
	f.state, f.heard, f.evidence = feedWaiting, now, time.Time{}
	f.mu.Unlock()
	f.store.relive()
}

// Lost implements [News].
func (f *Follower) Lost(why FeedLoss, err error) {
	f.mu.Lock()
	first := f.state != feedConnecting
	f.state = feedConnecting
	f.mu.Unlock()
	f.store.relive()
	f.report(why, first, err)
}

// Missed implements [News]. What departs from now on is live again.
func (f *Follower) Missed(why FeedLoss) {
	now := f.store.now()
	f.mu.Lock()
	f.whole = now
	f.mu.Unlock()
	f.store.relive()
	f.report(why, true, nil)
}

// report counts a loss, and logs it if the same wasn't logged of late. Attempts to connect
// again aren't counted.
func (f *Follower) report(why FeedLoss, counts bool, err error) {
	now := f.store.now()
	f.mu.Lock()
	last := f.logged[why]
	due := last.IsZero() || now.Sub(last) >= feedLogInterval
	if due {
		f.logged[why] = now
	}
	f.announced = f.announced && !due
	f.mu.Unlock()
	if counts || last.IsZero() {
		f.store.feeds.losses[why].Add(1)
	}
	if !due {
		return
	}
	attrs := []any{"loss", feedLossWords[why].name}
	if err != nil {
		attrs = append(attrs, "error", err)
	}
	f.log.Warn("the feed is not whole, so what was kept before lives as long as without one: "+feedLossWords[why].says, attrs...)
}

// Heard implements [News]. The first line tells nothing of what may have been said before it.
func (f *Follower) Heard(kind FeedLine) {
	f.store.feeds.lines[kind].Add(1)
	now := f.store.now()
	f.mu.Lock()
	f.heard, f.evidence = now, time.Time{}
	began := f.state == feedWaiting
	if began {
		f.state, f.whole = feedLive, now
	}
	announce := began && !f.announced
	f.announced = f.announced || announce
	f.mu.Unlock()
	if began {
		f.store.relive()
	}
	if announce {
		f.log.Info("the feed is live: the homeserver tells of changes by itself")
	}
}

// watch looks after a feed until the context is done.
func (f *Follower) watch(ctx context.Context) {
	tick := time.NewTicker(feedTick)
	defer tick.Stop()
	last := f.store.now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := f.store.now()
		_ = f.store.guard(func() { f.check(now, last) })
		last = now
	}
}

// check looks whether the feed may still be believed. It was last looked after at some time.
func (f *Follower) check(now, last time.Time) {
	if now.Sub(last) > feedStall {
		f.doubt(FeedStalled)
	}
	if f.store.presence.RowsOverdue(now) {
		f.doubt(FeedUnconfirmed)
	}
	if f.isSilent(now) {
		f.Missed(FeedSilent)
	}
}

// doubt is Missed for a feed that was believed.
func (f *Follower) doubt(why FeedLoss) {
	f.mu.Lock()
	live := f.state == feedLive
	f.mu.Unlock()
	if live {
		f.Missed(why)
	}
}

// isSilent reports, once, that the feed has said nothing for too long since an answer showed
// somebody online. It is not believed until it says something.
func (f *Follower) isSilent(now time.Time) bool {
	seen := f.store.feeds.onlineSince(f.store)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state == feedConnecting || !seen.After(f.heard) {
		return false
	}
	if f.evidence.IsZero() {
		f.evidence = seen
	}
	if now.Sub(f.evidence) < feedSilence {
		return false
	}
	f.state, f.heard, f.evidence = feedWaiting, now, time.Time{}
	return true
}

// MembershipChanged implements [News].
func (f *Follower) MembershipChanged(userID string) {
	f.store.presence.MembershipChanged(userID, f.store.now(), f.store.settles())
}

// MembershipsChanged implements [News].
func (f *Follower) MembershipsChanged() {
	f.store.presence.AllMembershipsChanged(f.store.now(), f.store.settles())
}

// TokenEnded implements [News]. The homeserver is asked again whose it is: the token may
// still be good.
func (f *Follower) TokenEnded(token string) {
	c := matrix.Credential{Token: token}
	f.store.identities.Settle(c, f.store.settled())
	f.store.identities.Doubt(c)
}

// SessionsEnded implements [News].
func (f *Follower) SessionsEnded(userID string) {
	f.store.identities.SettleUser(userID, f.store.settled())
	f.store.endSessionsOf(userID)
}

// PresenceChanged implements [News].
func (f *Follower) PresenceChanged(of PresenceNews) bool {
	answer, err := of.answer()
	if err != nil {
		return false
	}
	m, now := f.store, f.store.now()
	f.mu.Lock()
	late := f.pace.isLate(of.Changed, now, m.settles()/2)
	f.mu.Unlock()
	result := m.presence.Apply(cache.Row{Target: of.UserID, Answer: answer, Stamp: of.Changed, Late: late}, now, m.settles())
	m.feeds.applied[result].Add(1)
	return true
}

// errNoPresence says that a presence has a word or a time that it can't have.
var errNoPresence = errors.New("not a presence")

// isStamp tells that a time in milliseconds is one of a clock: none before 1970, nor one of year 10000. A row with
// such a stamp would be newer than all that come, and quicker.
func isStamp(ms int64) bool { return ms >= 0 && time.UnixMilli(ms).Year() < 10_000 }

// answer returns what Synapse answers to a read when the presence has just changed: last_active_ago
// is from the two times of its clock, whatever ours says.
func (of *PresenceNews) answer() (*cache.Answer, error) {
	switch of.Presence {
	case "online", "unavailable", "offline", "org.matrix.msc3026.busy":
	default:
		return nil, errNoPresence
	}
	if !strings.HasPrefix(of.UserID, "@") || !isStamp(of.LastActive) || !isStamp(of.Changed) {
		return nil, errNoPresence
	}
	body := fmt.Appendf(nil, `{"presence":%q`, of.Presence)
	if of.LastActive != 0 {
		body = fmt.Appendf(body, `,"last_active_ago":%d`, max(0, of.Changed-of.LastActive))
	}
	if of.StatusMsg != "" && of.StatusMsg != `""` {
		body = fmt.Appendf(body, `,"status_msg":%s`, of.StatusMsg)
	}
	if of.Presence == "online" {
		body = fmt.Appendf(body, `,"currently_active":%v`, of.CurrentlyActive)
	}
	return cache.ParseAnswer(append(body, '}'), nil)
}
