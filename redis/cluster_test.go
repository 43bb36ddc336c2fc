package redis

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/redis/go-redis/v9"
)

func caddyContext() caddy.Context { return caddy.Context{} }

func TestCaddyfileOfACluster(t *testing.T) {
	var c Cluster
	err := c.UnmarshalCaddyfile(caddyfile.NewTestDispenser(`redis {
		address  a:1 b
		username presence
		password {env.REDIS_PASSWORD}
		secret   {env.SECRET}
		sentinel mymaster
		tls {
			ca /etc/ssl/redis.pem
		}
		timeout 100ms
		outage  stale 5s
		key_prefix x:
	}`))
	if err != nil {
		t.Fatal(err)
	}
	rules := c.Rules()
	if strings.Join(c.Addresses, " ") != "a:1 b" || c.Username != "presence" || c.Sentinel != "mymaster" || c.KeyPrefix != "x:" ||
		rules.Timeout != 100*time.Millisecond || rules.Recent != 5*time.Second || c.TLS.CA != "/etc/ssl/redis.pem" {
		t.Errorf("it is %+v", c)
	}
}

func TestClustersThatAreRefusedWhenTheyAreLoaded(t *testing.T) {
	t.Setenv("SHORT", "hunter2")
	for want, c := range map[string]*Cluster{
		"needs a secret":                   {},
		"at least 32 bytes, not 7":         {Secret: "{env.SHORT}"},
		"placeholders of secret":           {Secret: "{env.NO_SUCH_VARIABLE}"},
		"{file./no/such/file} is empty":    {Secret: "{file./no/such/file}"},
		"placeholders of address":          {Secret: secret, Addresses: []string{"{env.NO_SUCH_VARIABLE}"}},
		"goes with neither sentinel nor":   {Secret: secret, Addresses: []string{"unix//run/r.sock"}, Cluster: true},
		"several addresses need sentinel":  {Secret: secret, Addresses: []string{"a", "b"}},
		"'stale' or 'fresh'":               {Secret: secret, Outage: "off"},
		"outage fresh has no duration":     {Secret: secret, Outage: "fresh", OutageTTL: 1},
		"timeout and outage_ttl must be":   {Secret: secret, Timeout: -1},
		"outage_ttl must be above 0":       {Secret: secret, OutageTTL: -1},
		"is a host, or a host and a port,": {Secret: secret, Addresses: []string{"rediss://a"}},
		"tls needs a server_name, as the ": {Secret: secret, Addresses: []string{"unix//run/r.sock"}, Access: Access{TLS: new(TLS)}},
	} {
		err := c.Provision(caddy.Context{})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%+v: %v, want %q in it", c, err, want)
		}
	}
}

func TestKindsOfServers(t *testing.T) {
	for want, c := range map[string]*Cluster{
		"client localhost:6379":    {},
		"client /run/r.sock":       {Addresses: []string{"unix//run/r.sock"}},
		"failover FailoverClient":  {Addresses: []string{"a", "b"}, Sentinel: "mymaster"},
		"cluster [a:6379 b:1]":     {Addresses: []string{"a", "b:1"}, Cluster: true},
		"cluster [localhost:6379]": {Cluster: true},
	} {
		c.Secret = secret
		if err := c.Provision(caddy.Context{}); err != nil {
			t.Fatal(err)
		}
		client := newClient(c.options)
		got := ""
		switch client := client.(type) {
		case *redis.Client:
			got = "client " + client.Options().Addr
			if c.Sentinel != "" {
				got = "failover " + client.Options().Addr
			}
		case *redis.ClusterClient:
			got = "cluster [" + strings.Join(client.Options().Addrs, " ") + "]"
		}
		if got != want {
			t.Errorf("%+v is %s, want %s", c, got, want)
		}
		client.Close()
	}
}

// A node goes on over a reload if nothing of it has changed.
func TestKeysTellClustersApart(t *testing.T) {
	key := func(c Cluster) string {
		t.Helper()
		c.Secret += secret
		if err := c.Provision(caddy.Context{}); err != nil {
			t.Fatal(err)
		}
		return c.Key()
	}
	all := map[string]bool{key(Cluster{}): true}
	if !all[key(Cluster{Outage: "stale", KeyPrefix: "mp:"})] {
		t.Error("the defaults are another cluster when they are written down")
	}
	for _, c := range []Cluster{
		{Secret: "x"}, {Addresses: []string{"a"}}, {Timeout: 1}, {Outage: "fresh"}, {OutageTTL: 1}, {KeyPrefix: "x"}, {Cluster: true}, {Sentinel: "m"},
		{Access: Access{Password: "p"}}, {Access: Access{Username: "u", Password: "p"}}, {Access: Access{TLS: &TLS{ServerName: "s"}}},
	} {
		if all[key(c)] {
			t.Errorf("%+v is the same as another", c)
		}
		all[key(c)] = true
	}
}

// Two sites of one cache name were part of two clusters: of which one a node heard was chance, and what was written by
// way of the other was not seen.
func TestOneCacheIsPartOfOneCluster(t *testing.T) {
	for option, want := range map[string]string{
		"timeout 1s": "can't be part of two clusters", "address localhost:6380": "can't be part of two clusters", "outage stale 2s": "",
	} {
		var sites strings.Builder
		for i, more := range []string{"", option} {
			fmt.Fprintf(&sites, "http://%d.example.com:9080 {\nmatrix_presence {\ncache {\nname hs\n}\ncluster redis {\nsecret %s\n%s\n}\n}\nreverse_proxy localhost:1\n}\n", i, secret, more)
		}
		adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte("{\nadmin off\npersist_config off\n}\n"+sites.String()), nil)
		if err != nil {
			t.Fatal(err)
		}
		var config caddy.Config
		if err := json.Unmarshal(adapted, &config); err != nil {
			t.Fatal(err)
		}
		switch err := caddy.Validate(&config); {
		case want == "" && err != nil, want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", option, err, want)
		}
	}
}
