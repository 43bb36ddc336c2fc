package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
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

// feeds are those that tell a store news: one, and during a reload to other options two.
type feeds struct {
	mu        sync.Mutex // guards following, and orders changes of what is live
	following map[*Follower]bool

	// onlineSeen is when an answer last showed somebody online, in nanoseconds since the
	// store began, or 0.
	onlineSeen atomic.Int64

	lines   [feedLines]atomic.Uint64
	losses  [feedLosses]atomic.Uint64
	applied [feedResults]atomic.Uint64
}

const feedResults = int(cache.RowDropped) + 1

var feedResultNames = [feedResults]string{
	cache.RowUnread: "unread", cache.RowSame: "same", cache.RowUpdated: "updated", cache.RowDropped: "dropped",
}

// relive says to the store since when a feed is whole: the one that has been for longest.
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
