package caddymodule

import (
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

// feedNamespace is where guest modules are that are a [Feed].
const feedNamespace = "http.handlers.matrix_presence.feeds"

// Feed is a module by which a homeserver tells of changes by itself. It connects in Run, and must
// stay usable when the configuration that it came with has ended.
type Feed interface {
	gateway.Feed

	// Key is equal for feeds that tell the same, and unequal for all others. It is no secret.
	Key() string

	// LiveFor is how long what the feed covers is kept.
	LiveFor() time.Duration
}

// parseFeed parses "feed <module> { … }".
func (h *Handler) parseFeed(d *caddyfile.Dispenser) error {
	module, raw, err := parseGuest(d, feedNamespace, "feed", "source")
	if err != nil {
		return err
	}
	h.FeedRaw = raw
	h.feed, _ = module.(Feed) // for what options mean together
	return nil
}

// loadFeed loads the guest module, if there is one.
func (h *Handler) loadFeed(ctx caddy.Context) (Feed, error) {
	if h.FeedRaw == nil {
		return nil, nil
	}
	module, err := ctx.LoadModule(h, "FeedRaw")
	if err != nil {
		return nil, fmt.Errorf("loading the feed: %w", err)
	}
	feed, ok := module.(Feed)
	if !ok {
		return nil, fmt.Errorf("loading the feed: a %T is none", module)
	}
	return feed, nil
}

// setFeed sets what a feed changes in the settings. Feed is nil if there is none.
func setFeed(s *gateway.Settings, feed Feed) error {
	if feed == nil {
		return nil
	}
	switch {
	case !s.Cached:
		return blame("feed", "checking feed: it has no effect with cache off")
	case s.Dialect == gateway.Dendrite || s.Dialect == gateway.Tuwunel:
		return blame("feed", "checking feed: only Synapse has one, so homeserver must be synapse or auto")
	case feed.LiveFor() < s.Rules.TTL:
		return blame("feed", "checking feed: live_ttl, %v, is shorter than ttl, %v", feed.LiveFor(), s.Rules.TTL)
	}
	s.Rules.LiveTTL = feed.LiveFor()
	return nil
}

// guestLog logs about a feed or a cluster by Caddy's logger of the running configuration: both
// outlive the one that they came with.
type guestLog string

func (l guestLog) log() *zap.SugaredLogger {
	return caddy.Log().Named("http.handlers.matrix_presence." + string(l)).Sugar()
}

// Info implements [gateway.FeedLog].
func (l guestLog) Info(message string, fields ...any) { l.log().Infow(message, fields...) }

// Warn implements [gateway.FeedLog].
func (l guestLog) Warn(message string, fields ...any) { l.log().Warnw(message, fields...) }

// following is a feed that a store follows, for so many handlers.
type following struct {
	handlers int
	stop     func()
}

// follow has the store follow a feed, unless it follows one of the same options: that one goes
// on over a reload. It needs the plans' lock.
func (p *pooled) follow(feed Feed) {
	f := p.feeds[feed.Key()]
	if f == nil {
		f = &following{stop: p.store.Follow(feed, guestLog("feed"))}
		p.feeds[feed.Key()] = f
	}
	f.handlers++
}

// unfollow undoes a follow, and returns what is to be called without the lock. It needs the
// plans' lock.
func (p *pooled) unfollow(feed Feed) (stop func()) {
	f := p.feeds[feed.Key()]
	if f.handlers--; f.handlers > 0 {
		return func() {}
	}
	delete(p.feeds, feed.Key())
	return f.stop
}
