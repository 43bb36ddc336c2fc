package redis

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/redis/go-redis/v9"

	"github.com/caddy-matrix/caddy-matrix-presence/caddymodule"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

func init() {
	caddy.RegisterModule(Feed{})
	redis.SetLogger(silent{})
}

// Feed is Synapse's own replication, by which its workers hear of changes: of presences, of who is
// in which room, and of access tokens that end. Synapse publishes it to Redis if it has
//
//	redis:
//	  enabled: true
//
// in homeserver.yaml, also without workers. It is read, and nothing is written. An ACL is
// enough that lets the channel be subscribed to:
//
//	user presence on >PASSWORD resetchannels &example.com -@all +subscribe +unsubscribe +ping
type Feed struct {
	Server

	// ServerName is server_name in homeserver.yaml: the part of user IDs after the colon. Synapse's
	// channel has that name. It must be given.
	ServerName string `json:"server_name,omitempty"`

	// LiveTTL is how long what the feed covers is kept, at least as long as ttl. It bounds how long
	// something stays wrong that the feed missed unnoticed. Default: 10m.
	LiveTTL caddy.Duration `json:"live_ttl,omitempty"`

	client *redis.Options
	key    string
}

const defaultLiveTTL = 10 * time.Minute

// CaddyModule returns the Caddy module information.
func (Feed) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.matrix_presence.feeds.redis",
		New: func() caddy.Module { return new(Feed) },
	}
}

// UnmarshalCaddyfile sets up the feed from Caddyfile tokens. Syntax:
//
//	redis {
//	    address     <host>[:<port>] | unix/<path>
//	    username    <name>
//	    password    <password>
//	    tls {
//	        ca          <file>
//	        server_name <name>
//	    }
//	    server_name <name>
//	    live_ttl    <duration>
//	}
func (f *Feed) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	if !d.Next() {
		return d.ArgErr()
	}
	begin := d.Token()
	if d.NextArg() {
		return d.Errf("expected a block, not '%s'", d.Val())
	}
	parsers := f.parsers(d)
	parsers["server_name"] = func() error { return one(d, &f.ServerName) }
	parsers["live_ttl"] = func() error { return parseDuration(d, &f.LiveTTL) }
	if err := parseBlock(d, parsers); err != nil {
		return err
	}
	if err := f.check(); err != nil {
		return fmt.Errorf("%w, at %s:%d", err, begin.File, begin.Line)
	}
	return nil
}

// parseDuration reads a duration above 0.
func parseDuration(d *caddyfile.Dispenser, into *caddy.Duration) error {
	name, text := d.Val(), ""
	if err := one(d, &text); err != nil {
		return err
	}
	duration, err := caddy.ParseDuration(text)
	if err != nil || duration <= 0 {
		return d.Errf("parsing %s: expected a duration above 0, such as 10m, not '%s'", name, text)
	}
	*into = caddy.Duration(duration)
	return nil
}

// check refuses what can be told without looking at anything else.
func (f *Feed) check() error {
	if f.ServerName == "" {
		return errors.New("a feed needs a server_name: the one in homeserver.yaml")
	}
	if f.Username != "" && f.Password == "" {
		return errors.New("username has no password")
	}
	return checkAddress(f.Address)
}

// Provision checks the configuration. It connects to nothing.
func (f *Feed) Provision(caddy.Context) error {
	name, err := replaced("server_name", f.ServerName)
	if err != nil {
		return err
	}
	f.ServerName = name
	if err := f.check(); err != nil {
		return err
	}
	if f.client, err = f.options(); err != nil {
		return err
	}
	f.key = f.newKey()
	return nil
}

// newKey returns what tells feeds apart. It gives nothing of the password away.
func (f *Feed) newKey() string {
	public, _ := json.Marshal(f) // it has strings only
	sum := sha256.Sum256(append(public, f.client.Addr+"\x00"+f.client.Username+"\x00"+f.client.Password...))
	return hex.EncodeToString(sum[:])
}

// Key implements [caddymodule.Feed].
func (f *Feed) Key() string { return f.key }

// LiveFor implements [caddymodule.Feed].
func (f *Feed) LiveFor() time.Duration {
	if f.LiveTTL == 0 {
		return defaultLiveTTL
	}
	return time.Duration(f.LiveTTL)
}

// Run implements [gateway.Feed].
func (f *Feed) Run(ctx context.Context, news gateway.News) {
	s := &subscription{client: f.client, channel: f.ServerName, news: news}
	s.run(ctx)
}

// Interface guards
var (
	_ caddy.Provisioner     = (*Feed)(nil)
	_ caddyfile.Unmarshaler = (*Feed)(nil)
	_ caddymodule.Feed      = (*Feed)(nil)
)
