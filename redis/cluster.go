package redis

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/caddy-matrix/caddy-matrix-presence/caddymodule"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/cluster"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

func init() {
	caddy.RegisterModule(Cluster{})
}

// Cluster is a Redis, or a Valkey, by which several nodes before one homeserver share their users'
// budgets and a log of who writes, so that no node shows what another's write has made untrue. While it
// can't be reached each node goes on alone. It needs Redis 6.2 or newer, and no persistence. An ACL is
// enough that lets these keys be used:
//
//	user presence on >PASSWORD resetchannels ~{mp:*}* -@all +evalsha +eval +get +set +incr +incrby +hget +hset +hdel +hgetall +hincrby +xadd +xrange +xrevrange +zadd +zremrangebyscore +zcard +zscore +pexpire +time +info +ping +hello +auth
type Cluster struct {
	// Addresses are those of the server, with sentinel of the sentinels, with cluster of some of its
	// servers. Each is as the address of a feed. Default: localhost:6379.
	Addresses []string `json:"addresses,omitempty"`

	Access

	// Secret is at least 32 bytes, the same on all nodes, and in no other's hands. By it user IDs and
	// access tokens have other names in Redis. It is best taken from a file or from the environment. It
	// must be given.
	Secret string `json:"secret,omitempty"`

	// Sentinel is the name of the master, if the addresses are those of sentinels.
	Sentinel string `json:"sentinel,omitempty"`

	// Cluster tells that the server is a cluster of Redis's own kind.
	Cluster bool `json:"cluster,omitempty"`

	// Timeout is how long Redis may take to answer. It should be ten times what it takes as a rule.
	// After three of five that took longer it counts as gone until it answers again. Default: 50ms.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// Outage is what becomes of reads while Redis is gone: "stale" serves what was remembered up to
	// OutageTTL, and "fresh" asks the homeserver. Default: stale.
	Outage string `json:"outage,omitempty"`

	// OutageTTL is up to which age a presence is served while Redis is gone. Default: 2s.
	OutageTTL caddy.Duration `json:"outage_ttl,omitempty"`

	// KeyPrefix begins the names of all keys, in braces with the name of the cache. Default: "mp:".
	KeyPrefix string `json:"key_prefix,omitempty"`

	secret  string
	options *redis.UniversalOptions
	key     string
}

const (
	defaultTimeout   = 50 * time.Millisecond
	defaultOutageTTL = 2 * time.Second
	defaultKeyPrefix = "mp:"
	minSecret        = 32
)

// CaddyModule returns the Caddy module information.
func (Cluster) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.matrix_presence.cluster.redis",
		New: func() caddy.Module { return new(Cluster) },
	}
}

// UnmarshalCaddyfile sets up the cluster from Caddyfile tokens. Syntax:
//
//	redis {
//	    address    <host>[:<port>]... | unix/<path>
//	    username   <name>
//	    password   <password>
//	    secret     <32 bytes or more>
//	    sentinel   <name of the master>
//	    cluster
//	    tls {
//	        ca          <file>
//	        server_name <name>
//	    }
//	    timeout    <duration>
//	    outage     stale [<duration>] | fresh
//	    key_prefix <text>
//	}
func (c *Cluster) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	if !d.Next() {
		return d.ArgErr()
	}
	begin := d.Token()
	if d.NextArg() {
		return d.Errf("expected a block, not '%s'", d.Val())
	}
	parsers := c.parsers(d)
	parsers["address"] = func() error {
		if c.Addresses = d.RemainingArgs(); len(c.Addresses) == 0 {
			return d.ArgErr()
		}
		return nil
	}
	parsers["secret"] = func() error { return one(d, &c.Secret) }
	parsers["sentinel"] = func() error { return one(d, &c.Sentinel) }
	parsers["cluster"] = func() error {
		if c.Cluster = true; d.NextArg() {
			return d.ArgErr()
		}
		return nil
	}
	parsers["timeout"] = func() error { return parseDuration(d, &c.Timeout) }
	parsers["outage"] = func() error { return c.parseOutage(d) }
	parsers["key_prefix"] = func() error { return one(d, &c.KeyPrefix) }
	if err := parseBlock(d, parsers); err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return fmt.Errorf("%w, at %s:%d", err, begin.File, begin.Line)
	}
	return nil
}

// parseOutage parses "outage stale [<duration>]" or "outage fresh".
func (c *Cluster) parseOutage(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	if c.Outage = d.Val(); c.Outage == "stale" && d.NextArg() {
		ttl, err := caddy.ParseDuration(d.Val())
		if err != nil || ttl <= 0 {
			return d.Errf("parsing outage: expected a duration above 0, such as 2s, not '%s'", d.Val())
		}
		c.OutageTTL = caddy.Duration(ttl)
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

// check refuses what can be told without looking at anything else. A secret that is a placeholder is
// looked at when it is replaced.
func (c *Cluster) check() error {
	sockets := 0
	for _, address := range c.Addresses {
		if err := checkAddress(address); err != nil {
			return err
		}
		if strings.HasPrefix(address, unixPrefix) {
			sockets++
		}
	}
	switch {
	case c.Secret == "":
		return fmt.Errorf("a cluster needs a secret of at least %d bytes, the same on all nodes, such as {file./etc/caddy/presence-secret}", minSecret)
	case len(c.Secret) < minSecret && !strings.Contains(c.Secret, "{"):
		return fmt.Errorf("the secret of a cluster must have at least %d bytes, not %d", minSecret, len(c.Secret))
	case c.Username != "" && c.Password == "":
		return errors.New("username has no password")
	case c.Sentinel != "" && c.Cluster:
		return errors.New("sentinel and cluster are two ways to have several servers: choose one")
	case len(c.Addresses) > 1 && c.Sentinel == "" && !c.Cluster:
		return errors.New("several addresses need sentinel, or cluster")
	case sockets > 0 && (c.Sentinel != "" || c.Cluster):
		return errors.New("an address that is a socket goes with neither sentinel nor cluster")
	case c.Outage != "" && c.Outage != "stale" && c.Outage != "fresh":
		return fmt.Errorf("outage must be 'stale' or 'fresh', not '%s'", c.Outage)
	case c.Timeout < 0 || c.OutageTTL < 0:
		return errors.New("timeout and outage_ttl must be above 0")
	case c.Outage == "fresh" && c.OutageTTL != 0:
		return errors.New("outage fresh has no duration: nothing is served from memory")
	case strings.ContainsAny(c.KeyPrefix, "{}"):
		return errors.New("key_prefix must have no braces: Redis has a meaning for them")
	}
	return nil
}

// Provision checks the configuration. It connects to nothing.
func (c *Cluster) Provision(caddy.Context) error {
	if err := c.check(); err != nil {
		return err
	}
	var err error
	if c.secret, err = replaced("secret", c.Secret); err != nil {
		return err
	}
	if len(c.secret) < minSecret {
		return fmt.Errorf("the secret of a cluster must have at least %d bytes, not %d", minSecret, len(c.secret))
	}
	if c.options, err = c.newOptions(); err != nil {
		return err
	}
	c.key = c.newKey()
	return nil
}

// newOptions returns those of a client. Its errors have no password in them.
func (c *Cluster) newOptions() (*redis.UniversalOptions, error) {
	o := &redis.UniversalOptions{MasterName: c.Sentinel, IsClusterMode: c.Cluster}
	given := c.Addresses
	if len(given) == 0 {
		given = []string{defaultAddress}
	}
	for _, text := range given {
		address, err := replaced("address", text)
		if err != nil {
			return nil, err
		}
		one, err := c.Access.options(address)
		if err != nil {
			return nil, err
		}
		o.Addrs = append(o.Addrs, one.Addr)
		o.Username, o.Password, o.TLSConfig = one.Username, one.Password, one.TLSConfig
		o.Protocol, o.DisableIdentity, o.ContextTimeoutEnabled, o.MaxRetries = one.Protocol, one.DisableIdentity, one.ContextTimeoutEnabled, one.MaxRetries
		o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	}
	if o.TLSConfig != nil && c.TLS.ServerName == "" {
		o.TLSConfig.ServerName = "" // that of each server: its address
	}
	// Each call has its own deadline. Whoever waits for a connection has it too.
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout, o.PoolTimeout = dialTimeout, -1, -1, dialTimeout
	o.MaxRedirects, o.DialerRetries = 1, 1
	return o, nil
}

// newKey returns what tells clusters apart. It gives nothing of the password and the secret away.
func (c *Cluster) newKey() string {
	public, _ := json.Marshal(struct {
		Addresses             []string
		Username, Sentinel    string
		Cluster               bool
		Timeout, Recent       time.Duration
		KeyPrefix, CA, Server string
	}{c.options.Addrs, c.options.Username, c.Sentinel, c.Cluster, c.Rules().Timeout, c.Rules().Recent, c.prefix(), c.tls().CA, c.tls().ServerName})
	sum := sha256.Sum256([]byte(string(public) + "\x00" + c.options.Password + "\x00" + c.secret))
	return hex.EncodeToString(sum[:])
}

func (c *Cluster) tls() TLS {
	if c.TLS == nil {
		return TLS{}
	}
	return *c.TLS
}

func (c *Cluster) prefix() string {
	if c.KeyPrefix == "" {
		return defaultKeyPrefix
	}
	return c.KeyPrefix
}

// Key implements [caddymodule.Cluster].
func (c *Cluster) Key() string { return c.key }

// Rules implements [caddymodule.Cluster].
func (c *Cluster) Rules() gateway.ClusterRules {
	rules := gateway.ClusterRules{Timeout: defaultTimeout, Recent: defaultOutageTTL}
	if c.Timeout != 0 {
		rules.Timeout = time.Duration(c.Timeout)
	}
	switch {
	case c.Outage == "fresh":
		rules.Recent = 0
	case c.OutageTTL != 0:
		rules.Recent = time.Duration(c.OutageTTL)
	}
	mac := hmac.New(sha256.New, []byte(c.secret))
	_, _ = mac.Write([]byte("tokens")) // never fails
	rules.Secret = [32]byte(mac.Sum(nil))
	return rules
}

// Open implements [caddymodule.Cluster].
func (c *Cluster) Open(name string) cluster.Log {
	return newLog(newClient(c.options), c.secret, c.prefix(), name)
}

// newClient returns a client of a server, of what its sentinels say is the master, or of a cluster.
func newClient(o *redis.UniversalOptions) redis.UniversalClient {
	if len(o.Addrs) == 1 && strings.HasPrefix(o.Addrs[0], "/") {
		simple := o.Simple()
		simple.Network = "unix"
		return redis.NewClient(simple)
	}
	return redis.NewUniversalClient(o)
}

// Interface guards
var (
	_ caddy.Provisioner     = (*Cluster)(nil)
	_ caddyfile.Unmarshaler = (*Cluster)(nil)
	_ caddymodule.Cluster   = (*Cluster)(nil)
)
