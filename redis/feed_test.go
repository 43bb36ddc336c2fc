package redis

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func TestCaddyfileOfAFeed(t *testing.T) {
	var f Feed
	err := f.UnmarshalCaddyfile(caddyfile.NewTestDispenser(`redis {
		address     unix//run/redis.sock
		username    presence
		password    {env.REDIS_PASSWORD}
		server_name example.com
		live_ttl    5m
		tls {
			ca          /etc/ssl/redis.pem
			server_name redis.example.com
		}
	}`))
	if err != nil {
		t.Fatal(err)
	}
	if f.Address != "unix//run/redis.sock" || f.Username != "presence" || f.Password != "{env.REDIS_PASSWORD}" ||
		f.ServerName != "example.com" || f.LiveFor() != 5*time.Minute || *f.TLS != (TLS{"/etc/ssl/redis.pem", "redis.example.com"}) {
		t.Errorf("it is %+v, %+v", f, f.TLS)
	}
}

func TestMistakesInACaddyfileAreNamedWithTheirLine(t *testing.T) {
	for text, want := range map[string]string{
		"redis":                       "needs a server_name: the one in homeserver.yaml, at Testfile:1",
		"redis localhost":             "expected a block",
		"redis {\n}":                  "needs a server_name",
		"redis {\nserver_name a b\n}": "parsing server_name: expected one value",
		"redis {\nserver_name a\nserver_name b\n}": "'server_name' is given twice",
		"redis {\nserver_nam a\n}":                 "unrecognized subdirective 'server_nam'",
		"redis {\nserver_name a\nlive_ttl soon\n}": "parsing live_ttl: expected a duration above 0",
		"redis {\nserver_name a\nlive_ttl 0\n}":    "parsing live_ttl: expected a duration above 0",
		"redis {\nserver_name a\nusername b\n}":    "username has no password",
		"redis {\nserver_name a\naddress a:b\n}":   "a port from 1 to 65535, not 'b', at Testfile:1",
		"redis {\nserver_name a\ntls on\n}":        "argument",
		"redis {\nserver_name a\ntls {\nca\n}\n}":  "parsing ca: expected one value",
		"redis {\nserver_name a\ntls {\nx y\n}\n}": "unrecognized subdirective 'x'",
	} {
		err := new(Feed).UnmarshalCaddyfile(caddyfile.NewTestDispenser(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q in it", text, err, want)
		}
	}
}

func TestServers(t *testing.T) {
	t.Setenv("SERVER", "from-env")
	for address, want := range map[string]string{
		"": "tcp localhost:6379", "redis": "tcp redis:6379", "10.0.0.1:7000": "tcp 10.0.0.1:7000", "[::1]": "tcp [::1]:6379",
		"::1": "tcp [::1]:6379", "[::1]:7000": "tcp [::1]:7000", "unix//run/r.sock": "unix /run/r.sock", "{env.SERVER}:1": "tcp from-env:1",
	} {
		o, err := (&Server{Address: address}).options()
		if err != nil || o.Network+" "+o.Addr != want {
			t.Errorf("%q is %v, %v, want %s", address, o, err, want)
		}
	}
	o, err := (&Server{Address: "redis.example.com", Access: Access{TLS: new(TLS)}}).options()
	if err != nil || o.TLSConfig.ServerName != "redis.example.com" || o.TLSConfig.InsecureSkipVerify {
		t.Errorf("with TLS: %+v, %v", o, err)
	}
}

// What Redis's own tools take for an address was taken for a host with odd letters in its name, which nobody can reach: the
// log said so, and the node went on alone.
func TestAddressesThatAreNone(t *testing.T) {
	t.Setenv("SERVER", "redis://:hunter2@a")
	for address, want := range map[string]string{
		"redis://10.0.0.5:6379": "no URL", "rediss://presence:hunter2@10.0.0.5": "no URL", "{env.SERVER}": "no URL", "unix:///run/r.sock": "no URL",
		"unix/": "no absolute path", "unix/run/r.sock": "no absolute path",
		"10.0.0.5:": "a port from", "10.0.0.5:0": "a port from", "10.0.0.5:70000": "not '70000'", "10.0.0.5:redis": "not 'redis'", "hunter2@a:1": "a port from",
		"10.0.0.5/0": "neither a host", "presence:hunter2@10.0.0.5:1": "neither a host", "a b": "neither a host", "10.0.0.5,10.0.0.6:1": "a port from", "a:b:c": "neither a host",
		"fe80::1%eth0": "", "[fe80::1%eth0]:1": "", ":7000": "",
	} {
		_, err := (&Server{Address: address}).options()
		if (err != nil) != (want != "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%q: %v, want %q", address, err, want)
		}
	}
}

func TestFeedsThatAreRefusedWhenTheyAreLoaded(t *testing.T) {
	none := t.TempDir() + "/none.pem"
	empty := t.TempDir() + "/empty.pem"
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, f := range map[string]*Feed{
		"needs a server_name":                     {},
		"placeholders of server_name":             {ServerName: "{env.NO_SUCH_VARIABLE}"},
		"placeholders of password":                {ServerName: "a", Server: Server{Access: Access{Password: "{env.NO_SUCH_VARIABLE}"}}},
		"username has no password":                {ServerName: "a", Server: Server{Access: Access{Username: "b"}}},
		"reading the certificates of tls: open":   {ServerName: "a", Server: Server{Access: Access{TLS: &TLS{CA: none}}}},
		"reading the certificates of tls: there":  {ServerName: "a", Server: Server{Access: Access{TLS: &TLS{CA: empty}}}},
		"tls needs a server_name, as the address": {ServerName: "a", Server: Server{Address: "unix//run/r.sock", Access: Access{TLS: new(TLS)}}},
	} {
		if err := f.Provision(caddy.Context{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q in it", f, err, want)
		}
	}
}

// A feed goes on over a reload if nothing of it has changed, also in the file that its password
// is in.
func TestKeysTellFeedsApart(t *testing.T) {
	key := func(f Feed) string {
		t.Helper()
		if err := f.Provision(caddy.Context{}); err != nil {
			t.Fatal(err)
		}
		return f.Key()
	}
	t.Setenv("PASSWORD", "one")
	one := Feed{ServerName: "a", Server: Server{Address: "b", Access: Access{Password: "{env.PASSWORD}"}}}
	first := key(one)
	if key(one) != first {
		t.Error("the same feed has two keys")
	}
	if strings.Contains(first, "one") {
		t.Error("the key gives the password away")
	}
	t.Setenv("PASSWORD", "two")
	if key(one) == first {
		t.Error("another password is the same feed")
	}
	if key(Feed{ServerName: "c", Server: one.Server}) == key(one) {
		t.Error("another channel is the same feed")
	}
}
