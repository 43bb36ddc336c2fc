package gateway

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// sizeOf returns the size of a request's head in bytes and how many fields it has, as
// HTTP/1.1 writes them.
func sizeOf(r *http.Request) (size, lines int) {
	size = len(r.Method+"  HTTP/1.1\r\nHost: \r\n") + len(r.URL.RequestURI()) + len(r.Host)
	lines = 1
	for name, values := range r.Header {
		for _, value := range values {
			size += len(name) + len(": \r\n") + len(value)
			lines++
		}
	}
	return size, lines
}

// A field of 16.5 KB, or 200 fields, went along with the requests that we make ourselves.
// Caddy takes them, Synapse drops the connection: any client could make them fail. Whatever
// a client sends and the site names, they stay below what each homeserver takes.
func TestRequestsOfOursAreBounded(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	p := newProxy(t, new(options))
	names := []string{"Cookie", "X-Evil", "User-Agent", "Origin", "X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "X-Real-Ip", "Cf-Connecting-Ip",
		"Connection", "Traceparent", "Tracestate", "Content-Type", "Accept-Encoding", "Te", "Transfer-Encoding", "If-None-Match", "Range"}
	for n := range 80 {
		names = append(names, fmt.Sprintf("X-Site-%d", n))
	}
	fields := []string{"X-Forwarded-For", "cf-connecting-ip", "X-Real-Ip", "A", "B", "C", "D", "E"}
	text := func() string {
		return strings.Repeat(string("abc,; é\xff"[random.IntN(9)]), random.IntN(1<<random.IntN(15)))
	}
	for range 3000 {
		p.gateway.site = new(SiteFields)
		for range random.IntN(100) {
			name := names[random.IntN(len(names))]
			if fields := []*[]string{&p.gateway.site.Set, &p.gateway.site.Read}[random.IntN(2)]; !IsOurs(name) {
				*fields = append(*fields, name)
			}
		}
		p.gateway.siteNames = p.gateway.site.Names()

		c := matrix.Credential{Token: strings.Repeat("t", 1+random.IntN(4096))}
		if random.IntN(2) == 0 {
			c.UserID, c.DeviceID, c.DeviceParameter = strings.Repeat("@", random.IntN(256)), strings.Repeat("é", random.IntN(257)), "org.matrix.msc3202.device_id"
		}
		target := "@" + strings.Repeat("/é"[:1+random.IntN(2)], random.IntN(120)) + ":x"
		r := request("GET", "/_matrix/client/v3/presence/"+url.PathEscape(target)+strings.Repeat("x", random.IntN(2)*random.IntN(6000)), "", "")
		r.Host = strings.Repeat("h", random.IntN(300))
		for range random.IntN(1 << random.IntN(9)) {
			name := names[random.IntN(len(names))]
			r.Header[name] = append(r.Header[name], text())
		}
		r = prepared(r)
		stateOf(r).fields = fields
		requests := append(p.gateway.newVersionQuestions(r, p.hs), p.gateway.newWhoAmIRequest(r, p.hs, c),
			p.gateway.newFetch(r, p.hs, reader{viewer: alice, target: target, credential: c}),
			p.gateway.newDelivery(r, p.hs, &presenceWrite{credential: c, class: p.gateway.cfg.Everybody}).request)
		for i, sub := range requests {
			if sub.err != nil {
				if len(r.Host) <= maxHost && i < len(requests)-1 {
					t.Fatalf("request %d can't be sent: %v", i, sub.err)
				}
				continue
			}
			size, lines := sizeOf(sub.request)
			if size > maxHead || lines > maxLines {
				t.Fatalf("request %d has %d bytes and %d fields: %v", i, size, lines, sub.request.Header)
			}
			want := []string{"Bearer " + c.Token}
			if i < 2 {
				want = nil
			}
			if got := sub.request.Header["Authorization"]; !slices.Equal(got, want) {
				t.Fatalf("request %d has Authorization %q", i, got)
			}
			for _, name := range []string{"X-Evil", "Cookie"} {
				if !slices.Contains(p.gateway.siteNames, name) && sub.request.Header[name] != nil {
					t.Fatalf("request %d has the client's %s", i, name)
				}
			}
			for _, name := range withoutCopy {
				if values := sub.request.Header[name]; values != nil && name != "Authorization" && name != "Origin" && name != "Content-Type" {
					t.Fatalf("request %d has %s %q", i, name, values)
				}
			}
			if plain := sub.plain(); len(plain.request.Header) > len(p.gateway.site.Set)+1 {
				t.Fatalf("without what the client chose there is %v", plain.request.Header)
			}
		}
	}
}

// The addresses that proxies add come last, and a cut one is nobody's.
func TestListOfAddressesKeepsItsEnd(t *testing.T) {
	for _, tc := range []struct {
		list string
		size int
		want string
	}{
		{"", 9, ""},
		{"192.0.2.1", 9, "192.0.2.1"},
		{"192.0.2.10", 9, ""},
		{"evil, 192.0.2.1", 11, "192.0.2.1"},
		{"evil,192.0.2.1", 9, "192.0.2.1"},
		{"198.51.100.1, 192.0.2.1", 22, "192.0.2.1"},
		{"a, b, c", 5, "b, c"},
		{strings.Repeat("x", 20_000) + ", 192.0.2.1", 512, "192.0.2.1"},
	} {
		if got := tail(tc.list, tc.size); got != tc.want {
			t.Errorf("%.40q of %d bytes: %q, want %q", tc.list, tc.size, got, tc.want)
		}
	}
}

// A client that repeats a field that the site looks at took the place of its own address, behind a
// proxy that passes it on: the homeserver recorded another.
func TestFieldsThatTheSiteLooksAtLeaveRoomForTheAddress(t *testing.T) {
	p := newProxy(t, new(options))
	p.gateway.site = &SiteFields{Set: []string{"X-Tenant"}, Read: []string{"Cookie", "X-Beta"}}
	p.gateway.siteNames = p.gateway.site.Names()
	r := request("GET", statusPath(alice), "bob-token", "")
	r.Header.Set("X-Tenant", "one")
	r.Header.Set("X-Forwarded-For", "192.0.2.1")
	r.Header.Set("User-Agent", "a client")
	for range 200 {
		r.Header.Add("Cookie", "session=1")
		r.Header.Add("X-Beta", strings.Repeat("x", 500))
	}
	p.Want(p.Do(r), 200, "", "")
	for _, got := range p.hs.Seen {
		for name, want := range map[string]string{"X-Tenant": "one", "X-Forwarded-For": "192.0.2.1", "User-Agent": "a client", "Cookie": "session=1"} {
			if got.Header.Get(name) != want {
				t.Errorf("%s has the %s %q", got.URL, name, got.Header.Get(name))
			}
		}
	}
}

// Synapse answers 500 to an address that isn't ASCII, behind a proxy that passes it on. A
// client must not bring that about for a request of ours.
func TestFieldsOfTheClientAreVisibleASCII(t *testing.T) {
	p := newProxy(t, new(options))
	r := request("GET", statusPath(alice), "bob-token", "")
	r.Header["X-Forwarded-For"] = []string{"\xff", "é", "192.0.2.1"}
	r.Header["User-Agent"] = []string{"Björn's phone\x01", "another"}
	r.Header["X-Real-Ip"] = []string{"192.0.2.1", "192.0.2.2"}
	p.Want(p.Do(r), 200, "", "")
	for _, got := range p.hs.Seen {
		if got := got.Header["X-Forwarded-For"]; !slices.Equal(got, []string{"?, ??, 192.0.2.1"}) {
			t.Errorf("X-Forwarded-For %q", got)
		}
		if got := got.Header["User-Agent"]; !slices.Equal(got, []string{"Bj??rn's phone?"}) {
			t.Errorf("User-Agent %q", got)
		}
		if got := got.Header["X-Real-Ip"]; got != nil {
			t.Errorf("X-Real-Ip %q", got)
		}
	}
}

// The path and the query of a fetch are ours: a reader's own spelling, and what else is in
// its query, would decide what all who share it get. A token moves to the header. Parameters
// stay that say for whom an appservice acts.
func TestFetchHasItsOwnTarget(t *testing.T) {
	p := newProxy(t, &options{Cache: &caching{TTL: 1}}) // nothing is fresh for longer than a nanosecond
	p.hs.Tokens["as-bridge"] = "@bridge:x"
	for target, want := range map[string]string{
		statusPath(alice): statusPath(alice),
		"/_matrix/client/r0/presence/%40alic%65%3Aexample.com/status?x=" + strings.Repeat("x", 20_000): statusPath(alice),
		"/_matrix/client/v3/presence/@a%2Fb%3Fc%25:x/status?access_token=bob-token&user_id=@bob:x":     "/_matrix/client/v3/presence/@a%2Fb%3Fc%25:x/status",
		"/_matrix/client/v3/presence/@a%2Fb%3Fc%25:x/status?access_token=as-bridge&user_id=@bob:x":     "/_matrix/client/v3/presence/@a%2Fb%3Fc%25:x/status?user_id=%40bob%3Ax",
	} {
		inHeader, token := "bob-token", "bob-token"
		if _, query, ok := strings.Cut(target, "access_token="); ok {
			inHeader, token = "", query[:len("bob-token")]
		}
		p.Want(p.Do(request("GET", target, inHeader, "")), 200, "", "matrix_presence; fwd=miss; stored")
		if got := p.hs.Last(); got.URL.String() != want || got.RequestURI != want || got.Header.Get("Authorization") != "Bearer "+token {
			t.Errorf("%.80s: the homeserver got %.100s with %q", target, got.URL, got.Header.Get("Authorization"))
		}
	}
}
