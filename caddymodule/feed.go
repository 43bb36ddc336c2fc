package caddymodule

import (
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
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
	if !d.NextArg() {
		return d.Err("parsing feed: expected the name of a module, such as redis")
	}
	name := d.Val()
	module, err := caddyfile.UnmarshalModule(d, feedNamespace+"."+name)
	if err != nil {
		if _, unknown := caddy.GetModule(feedNamespace + "." + name); unknown != nil {
			return d.Errf("parsing feed: this Caddy has no feed '%s'. Build it with the module that has: "+
				"--with github.com/caddy-matrix/caddy-matrix-presence/redis for redis", name)
		}
		return fmt.Errorf("parsing feed: %w", err)
	}
	h.FeedRaw = caddyconfig.JSONModuleObject(module, "source", name, nil)
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

// feedLog logs by Caddy's logger of the running configuration: a feed outlives the one that it
// came with.
type feedLog struct{}

func (feedLog) log() *zap.SugaredLogger {
	return caddy.Log().Named("http.handlers.matrix_presence.feed").Sugar()
}

// Info implements [gateway.FeedLog].
func (l feedLog) Info(message string, fields ...any) { l.log().Infow(message, fields...) }

// Warn implements [gateway.FeedLog].
func (l feedLog) Warn(message string, fields ...any) { l.log().Warnw(message, fields...) }

// following is a feed that a memory follows, for so many handlers.
type following struct {
	handlers int
	stop     func()
}

// follow has the memory follow a feed, unless it follows one of the same options: that one goes
// on over a reload. It needs the plans' lock.
func (p *pooled) follow(feed Feed) {
	f := p.feeds[feed.Key()]
	if f == nil {
		f = &following{stop: p.store.Follow(feed, feedLog{})}
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
