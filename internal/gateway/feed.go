package gateway

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// Feed is a source of news from the homeserver that no request brings: its own replication.
type Feed interface {
	// Run tells news what the homeserver says, until the context is done. It connects again
	// by itself, and tells that by Connected and Lost.
	Run(ctx context.Context, news News)
}

// News is what a [Feed] tells. What it is told may come twice, and late: each of these ends
// what is known, and none permits anything. Nothing of it may be logged, as it has access tokens.
type News interface {
	// Connected says that from now on all is told that the homeserver says.
	Connected()
	// Lost says that the connection is gone, or there is none, and why. The error is logged.
	Lost(why FeedLoss, err error)
	// Missed says that something was not told, or not understood.
	Missed(why FeedLoss)
	// Heard counts a line. A feed that is connected is believed once it has heard one.
	Heard(kind FeedLine)

	// PresenceChanged tells of a presence. It reports false if that is none.
	PresenceChanged(of PresenceNews) bool
	// MembershipChanged says that a user may have joined or left a room.
	MembershipChanged(userID string)
	// MembershipsChanged says that any user may have.
	MembershipsChanged()
	// TokenEnded says that an access token may have ended, or changed what it may do.
	TokenEnded(token string)
	// SessionsEnded says so of all of a user's.
	SessionsEnded(userID string)
}

// PresenceNews is a presence as Synapse tells of it. Times are in milliseconds by its clock.
type PresenceNews struct {
	UserID, Presence string
	StatusMsg        string // as it stands in JSON, with its quotes, or empty
	LastActive       int64  // 0: never
	Changed          int64  // when it last became another one
	CurrentlyActive  bool
}

// FeedLoss is why a feed isn't whole.
type FeedLoss int

const (
	FeedConnection  FeedLoss = iota // the connection is gone, or there is none
	FeedRefused                     // the server refuses the user, the password or the channel
	FeedGap                         // the homeserver names what it said before, which wasn't heard
	FeedReset                       // the homeserver counts anew
	FeedUnreadable                  // a line of another shape
	FeedUnconfirmed                 // it didn't tell of a change that is known of
	FeedSilent                      // it says nothing, although users are online
	FeedStalled                     // this process, or the machine, stood still
	feedLosses
)

// feedLossWords have, of each, its name in metrics and what it says in the log.
var feedLossWords = [feedLosses]struct{ name, says string }{
	FeedConnection:  {"connection", "there is no connection"},
	FeedRefused:     {"refused", "the server refuses it: check the user name, the password and the ACL"},
	FeedGap:         {"gap", "the homeserver said something that didn't arrive"},
	FeedReset:       {"reset", "the homeserver counts its changes anew"},
	FeedUnreadable:  {"unreadable", "a line has another shape than expected: this version of the homeserver may not be supported"},
	FeedUnconfirmed: {"unconfirmed", "it didn't tell of a change that was seen at the homeserver: is its Redis the homeserver's own, and server_name right?"},
	FeedSilent:      {"silent", "it has said nothing for a minute although users are online: check server_name, and redis in homeserver.yaml"},
	FeedStalled:     {"stalled", "this process stood still for a while"},
}

// FeedLine is a kind of line of a feed.
type FeedLine int

const (
	LinePresence   FeedLine = iota
	LineMembership          // a room's state
	LineSession             // tokens, devices, accounts
	LineOther               // what doesn't concern us
	LineUnknown             // a word or a stream that isn't known
	feedLines
)

var feedLineNames = [feedLines]string{"presence", "membership", "session", "other", "unknown"}

// feedState is how far a feed is believed.
type feedState int

const (
	feedConnecting feedState = iota // there is no connection
	feedWaiting                     // nothing has been heard by it yet, or for too long
	feedLive                        // it tells of all changes
	feedStates
)

var feedStateNames = [feedStates]string{"connecting", "waiting", "live"}

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

// feeds are those that tell a memory news: one, and during a reload to other options two.
type feeds struct {
	mu        sync.Mutex // guards following, and orders changes of what is live
	following map[*Follower]bool

	// onlineSeen is when an answer last showed somebody online, in nanoseconds since the
	// memory began, or 0.
	onlineSeen atomic.Int64

	lines   [feedLines]atomic.Uint64
	losses  [feedLosses]atomic.Uint64
	applied [feedResults]atomic.Uint64
}

const feedResults = int(cache.RowDropped) + 1

var feedResultNames = [feedResults]string{
	cache.RowUnread: "unread", cache.RowSame: "same", cache.RowUpdated: "updated", cache.RowDropped: "dropped",
}

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

// Follow has a feed tell a memory news, until stop is called. The feed outlives the
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

// relive says to the memory since when a feed is whole: the one that has been for longest.
func (m *Store) relive() {
	m.feeds.mu.Lock()
	defer m.feeds.mu.Unlock()
	var since time.Time
	for f := range m.feeds.following {
		f.mu.Lock()
		if f.state == feedLive && (since.IsZero() || f.whole.Before(since)) {
			since = f.whole
		}
		f.mu.Unlock()
	}
	if since.IsZero() {
		m.presence.NotLive()
	} else {
		m.presence.LiveSince(since, m.settles())
	}
}

// settles is the longest time of settle of all who use the memory.
func (m *Store) settles() time.Duration { return time.Duration(m.needs.settle.Load()) }

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
		if now.Sub(last) > feedStall {
			f.doubt(FeedStalled)
		}
		last = now
		if f.store.presence.RowsOverdue(now) {
			f.doubt(FeedUnconfirmed)
		}
		if f.isSilent(now) {
			f.Missed(FeedSilent)
		}
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

// sawOnline notes that an answer that has just come shows somebody online.
func (m *Store) sawOnline() {
	m.feeds.onlineSeen.Store(int64(m.now().Sub(m.began)) + 1)
}

// onlineSince returns when an answer last showed somebody online.
func (f *feeds) onlineSince(m *Store) (seen time.Time) {
	if since := f.onlineSeen.Load(); since > 0 {
		seen = m.began.Add(time.Duration(since))
	}
	return seen
}

// MembershipChanged implements [News].
func (f *Follower) MembershipChanged(userID string) {
	f.store.presence.MembershipChanged(userID, f.store.now(), f.store.settles())
}

// MembershipsChanged implements [News].
func (f *Follower) MembershipsChanged() {
	f.store.presence.AllMembershipsChanged(f.store.now(), f.store.settles())
}

// TokenEnded implements [News]. Whose it is, is asked again: a token of whom it is said may
// still be good.
func (f *Follower) TokenEnded(token string) {
	f.store.identities.Doubt(matrix.Credential{Token: token})
}

// SessionsEnded implements [News].
func (f *Follower) SessionsEnded(userID string) { f.store.endSessionsOf(userID) }

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

// answer returns what Synapse answers to a read when the presence has just changed: last_active_ago
// is from the two times of its clock, whatever ours says.
func (of *PresenceNews) answer() (*cache.Answer, error) {
	switch of.Presence {
	case "online", "unavailable", "offline", "org.matrix.msc3026.busy":
	default:
		return nil, errNoPresence
	}
	if !strings.HasPrefix(of.UserID, "@") || of.LastActive < 0 || of.Changed < 0 {
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

// pace tells how long news took to come, by the stamps that the homeserver's clock gives them. The
// clocks of two machines differ, so it is by the quickest of the last minutes.
type pace struct {
	quickest [2]time.Duration // our clock less the homeserver's, in this span of time and in the one before
	began    time.Time        // when this one did
	newest   int64            // the highest stamp so far
}

// paceSpan is how long a span is. Clocks that drift apart, or are set, are believed after two.
const paceSpan = 5 * time.Minute

// unknownPace is longer than any.
const unknownPace = time.Duration(1<<63 - 1)

func newPace() pace { return pace{quickest: [2]time.Duration{unknownPace, unknownPace}} }

// isLate reports whether news with this stamp took longer than most to come, or may have: of the
// first, and of what repeats an old stamp, nobody knows.
func (p *pace) isLate(stamp int64, now time.Time, most time.Duration) bool {
	if now.Sub(p.began) > paceSpan {
		p.began = now
		p.quickest = [2]time.Duration{unknownPace, p.quickest[0]}
	}
	known := min(p.quickest[0], p.quickest[1])
	took := now.Sub(time.UnixMilli(stamp))
	if stamp > p.newest {
		p.newest = stamp
		p.quickest[0] = min(p.quickest[0], took)
	}
	return known == unknownPace || took-known > most
}

// sampleFeeds yields what there is about feeds.
func (m *Store) sampleFeeds(yield func(metric *Metric, value float64, labels ...string)) {
	var states [feedStates]int
	m.feeds.mu.Lock()
	configured := len(m.feeds.following) > 0
	for f := range m.feeds.following {
		f.mu.Lock()
		states[f.state]++
		f.mu.Unlock()
	}
	m.feeds.mu.Unlock()
	if !configured {
		return
	}
	for state, name := range feedStateNames {
		yield(feedsMetric, float64(states[state]), name)
	}
	for kind, name := range feedLineNames {
		yield(feedLinesMetric, float64(m.feeds.lines[kind].Load()), name)
	}
	for why, words := range feedLossWords {
		yield(feedLossesMetric, float64(m.feeds.losses[why].Load()), words.name)
	}
	for result, name := range feedResultNames {
		yield(feedPresenceMetric, float64(m.feeds.applied[result].Load()), name)
	}
}
