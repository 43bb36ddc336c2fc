package attack_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/wire"
)

// spoofs are fields in which clients say that they are somebody else, a new one with
// each request. Before is what a proxy before us puts there, in the same field.
func spoofs(i int) []string {
	address := fmt.Sprintf("198.51.%d.%d", i>>8&0xff, i&0xff)
	return []string{
		"X-Real-IP: " + address, "CF-Connecting-IP: " + address, "True-Client-IP: " + address, "X-Client-IP: " + address,
		"Forwarded: for=" + address + ";proto=https", "X-Original-Forwarded-For: " + address, "Via: 1.1 " + address, "X-Cluster-Client-IP: " + address,
	}
}

// TestForwardedByNobodyWeTrust: without trusted_proxies, a request's client is the other end of
// its connection.
func TestForwardedByNobodyWeTrust(t *testing.T) {
	hs := newHomeserver(t, true)
	s := newProxy(t, hs)
	const requests = 200
	got := flood{connections: 8, requests: requests, judge: unknownOrLimited, request: func(i int) []byte {
		fields := append(spoofs(i), bearer(fmt.Sprint("made-up-", i)), from(fmt.Sprintf("198.51.100.%d", i%256)))
		return wire.Request("GET", presencePath(alice), fields...)
	}}.run(s.URL)
	if got.wrong != nil || got.broken > 0 {
		t.Errorf("%+v", got)
	}
	for _, seen := range hs.takeSeen() {
		if value := seen.header.Values("X-Forwarded-For"); len(value) != 1 || value[0] != "127.0.0.1" {
			t.Fatalf("the homeserver was told X-Forwarded-For: %q", value)
		}
	}
}

// TestForwardedByAProxyThatAppends: the usual way of nginx and others is to append to
// what the client sent ($proxy_add_x_forwarded_for). Only the last part is the
// proxy's word; what stands before is the client's, and must get it no budget.
func TestForwardedByAProxyThatAppends(t *testing.T) {
	const requests = 600
	for _, tt := range []struct {
		name  string
		claim func(i int) string // what the client claims
	}{
		{"a new address each time", func(i int) string { return fmt.Sprintf("198.51.%d.%d", i>>8, i&0xff) }},
		{"a private address", func(i int) string { return fmt.Sprintf("10.0.%d.%d", i>>8, i&0xff) }},
		{"our own address", func(int) string { return "127.0.0.1" }},
		{"no address", func(i int) string { return fmt.Sprint("unknown", i) }},
		{"a new IPv6 address each time", func(i int) string { return fmt.Sprintf("2001:db8:%x::1", i) }},
		{"an IPv4 address as IPv6", func(i int) string { return fmt.Sprintf("::ffff:198.51.%d.%d", i>>8, i&0xff) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hs := newHomeserver(t, false)
			s := newProxy(t, hs, "--trusted-proxies", "127.0.0.1")
			hs.take()
			got := flood{connections: 8, requests: requests, judge: unknownOrLimited, request: func(i int) []byte {
				fields := append(spoofs(i), bearer(fmt.Sprint("made-up-", i)), from(tt.claim(i)+", 192.0.2.1"))
				return wire.Request("GET", presencePath(alice), fields...)
			}}.run(s.URL)
			if got.wrong != nil || got.broken > 0 {
				t.Errorf("%+v", got)
			}
			// The default is 10/1m burst 50, and the proxy is told in no file.
			const most = 50 + 20 + lookupsEach
			if n := hs.take().count[whoami]; n > most {
				t.Errorf("%d of %d tokens were looked up, at most %d were allowed", n, requests, most)
			}
		})
	}
}

// TestForwardedAddressesOfOneClient: the same address in other clothes is the same
// client.
func TestForwardedAddressesOfOneClient(t *testing.T) {
	const burst = 3
	for _, tt := range []struct {
		name      string
		addresses []string
	}{
		{"IPv4", []string{"192.0.2.1", "192.0.2.1:1234", " 192.0.2.1 ", "::ffff:192.0.2.1", "::ffff:c000:201"}},
		{"IPv6", []string{"2001:db8::1", "2001:DB8::2", "[2001:db8::3]:443", "2001:db8:0:0:ffff:ffff:ffff:ffff", "2001:db8::4%eth0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hs := newHomeserver(t, false)
			s := newSite(t, hs, options{identity: []string{fmt.Sprintf("rejected_limit 1/1h burst %d", burst)}})
			got := flood{connections: 1, requests: 10 * len(tt.addresses), judge: unknownOrLimited, request: func(i int) []byte {
				return wire.Request("GET", presencePath(alice), bearer(fmt.Sprint("made-up-", i)), from(tt.addresses[i%len(tt.addresses)]))
			}}.run(s.URL)
			if got.status[http.StatusUnauthorized] != burst {
				t.Errorf("%d of %d tokens were looked up, want %d for all of %s together",
					got.status[http.StatusUnauthorized], got.sent, burst, strings.Join(tt.addresses, ", "))
			}
			if got.wrong != nil {
				t.Error(got.wrong)
			}
		})
	}
}
