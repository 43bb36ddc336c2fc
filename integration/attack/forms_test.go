package attack_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/wire"
)

// TestForeignWriteInEveryFormOfARequest: a request line may hold more than a path, and
// a Host may be anything. Bob's presence is not alice's to write in any of them.
func TestForeignWriteInEveryFormOfARequest(t *testing.T) {
	hs := newHomeserver(t, true)
	s := newProxy(t, hs, "--write-limit", "off")
	path := presencePath(bob)
	body := online(marker)
	length := fmt.Sprintf("Content-Length: %d", len(body))
	type form struct {
		line   string
		fields []string
	}
	var forms []form
	for _, target := range []string{
		path, "http://127.0.0.1" + path, "http://elsewhere.example" + path, "https://127.0.0.1:443" + path, "HTTP://h" + path,
		"ftp://h" + path, "x://h" + path, "x:" + path, "x:" + path[1:], "x:http://127.0.0.1" + path, "http:http://h" + path, "x:x:" + path, "x:%2f" + path[1:], "x:X" + path[1:], "http:" + path, "http:" + path[1:], "http://" + path, "//h" + path, "///" + path,
		"http://user:password@h" + path, "http://[::1]" + path, "http://[::1%25eth0]" + path, "http://h:99999" + path, "http://h:x" + path, "http://?" + path, "http://#" + path,
		"h:443", "127.0.0.1:80", "*", "", "?" + path, "#" + path, path + "#x", path + "#/../..", path + "?x", path + "?", path + ";x=y", path[1:],
		strings.Replace(path, "/status", "%2fstatus", 1), strings.Replace(path, "@", "%40", 1), strings.Replace(path, "@bob", "@bo%62", 1),
		strings.ReplaceAll(path, "/", "\\"), "/\\h" + path, "/." + path, "/x/.." + path, path + "/.", path + "/..", path + "/../status", path + "//", "/" + path,
		path + "%00", path + "%20", path + "%0d%0aX: y", path + "\x00", path + "\x7f", path + "é", path + " x", path + "\tx",
		strings.ToUpper(path), strings.Replace(path, "status", "%73tatus", 1), strings.Replace(path, "presence", "presenc%65", 1),
		strings.Replace(path, "/v3/", "/r0/", 1), strings.Replace(path, "/v3/", "/unstable/", 1), strings.Replace(path, "/v3/", "/api/v1/", 1),
	} {
		for _, method := range []string{"PUT", "CONNECT", "put", "Put", "PUT\t", "PUTX", "POST", "PATCH", "GET"} {
			override := []string{"X-HTTP-Method-Override: PUT", "X-HTTP-Method: PUT", "X-Method-Override: PUT"}
			forms = append(forms, form{method + " " + target, []string{"Host: 127.0.0.1"}})
			forms = append(forms, form{method + " " + target, append(override, "Host: 127.0.0.1")})
		}
	}
	for _, hosts := range [][]string{
		{}, {"Host:"}, {"Host: elsewhere.example"}, {"Host: 127.0.0.1", "Host: elsewhere.example"}, {"Host: 127.0.0.1", "host: 127.0.0.1"},
		{"Host: a b"}, {"Host: a/b"}, {"Host: a@b"}, {"Host: a\tb"}, {"Host: a\x00b"}, {"Host: [::1"}, {"Host: a:b:c"}, {"Host: ,"}, {"Host: a,b"},
		{"Host: " + strings.Repeat("a", 10_000)}, {"Host: é"}, {"Host: 127.0.0.1 "}, {" Host: 127.0.0.1"}, {"Host : 127.0.0.1"}, {"Host:\r\n 127.0.0.1"},
		{"Host: 127.0.0.1", "X-Forwarded-Host: elsewhere.example"}, {"Host: 127.0.0.1", "Forwarded: host=elsewhere.example;proto=https"},
		{"Host: {http.request.uri}"}, {"Host: {env.HOME}"},
	} {
		forms = append(forms, form{"PUT " + path, hosts}, form{"PUT http://h" + path, hosts})
	}

	passed, answers := 0, 0
	for _, f := range forms {
		hs.takeSeen()
		raw := f.line + " HTTP/1.1\r\n" + strings.Join(append(slices.Clone(f.fields), aliceHeader, length), "\r\n") + "\r\n\r\n" + body
		replies := converse(t, s.URL, raw)
		answers += len(replies)
		for _, seen := range hs.takeSeen() {
			if seen.body != "" {
				passed++
			}
			// On some homeserver, each of these is a write of bob's presence.
			if seen.method == "PUT" && strings.Contains(seen.target, "/presence/") &&
				policyWouldJudge(seen.target) && seen.body == body {
				t.Errorf("%q with %q: the homeserver was asked %s", f.line, f.fields, seen)
			}
			if strings.EqualFold(seen.method, "PUT") != strings.HasPrefix(strings.ToUpper(f.line), "PUT ") && seen.body == body {
				t.Errorf("%q with %q: the homeserver was asked %s, another method", f.line, f.fields, seen)
			}
		}
	}
	if status, ok := hs.wrote(bob); ok {
		t.Errorf("bob's status was written: %q", status)
	}
	expectPlain(t, hs)
	figures.note("forms of a request: %d request lines and hosts, %d answers, %d requests passed to the homeserver as other than a write of a presence", len(forms), answers, passed)
}

// TestOwnWriteInEveryFormIsLimited: whoever finds a form of request that a homeserver
// takes for a write and we don't has no limit, and what is in memory stays as it was.
//
// Go takes "x:http://h/_matrix/…" for a URL without a path, and reverse_proxy sends what
// is behind the "x:": to the homeserver, that is the whole URL of a presence.
func TestOwnWriteInEveryFormIsLimited(t *testing.T) {
	hs := newHomeserver(t, true)
	s := newProxy(t, hs, "--write-limit", "1/1h burst 1")
	path := presencePath(alice)
	read := wire.Request("GET", path, bearer(tokenOf("carol", 0)))
	w := mustDial(t, s.URL)
	if _, err := w.Ask(wire.RequestWith(online("first"), "PUT", path, aliceHeader)); err != nil {
		t.Fatal(err)
	}
	// Nothing is kept for a second after a write.
	suite.Eventually(t, "alice's status is kept", func() bool {
		r, err := w.Ask(read)
		return err == nil && r.Hit()
	})
	for i, target := range []string{
		path, path + "?x", strings.Replace(path, "@", "%40", 1), "http://elsewhere.example" + path, "x://h" + path, "x:" + path,
		"x:http://127.0.0.1" + path, "http:http://h" + path, "x:https://h" + path, "mailto:http://h" + path, "x:x:http://h" + path,
		"x:" + path[1:], "x:X" + path[1:], "x:%2f" + path[1:],
	} {
		hs.takeSeen()
		replies := converse(t, s.URL, string(wire.RequestWith(online(fmt.Sprint("form ", i)), "PUT", target, aliceHeader)))
		for _, seen := range hs.takeSeen() {
			if seen.method == "PUT" {
				t.Errorf("PUT %s: over the limit, the homeserver was asked %s (%s)", target, seen, replies)
			}
		}
		r, err := w.Ask(read)
		if err != nil {
			t.Fatal(err)
		}
		if want := presenceOf(hs.State(alice).Status); string(r.Body) != want {
			t.Errorf("PUT %s: a read gets %s, the homeserver has %s", target, r, want)
		}
	}
	expectPlain(t, hs)
}

// policyWouldJudge tells of a target at the homeserver that it is the status of bob's
// presence to one that decodes the ID, and may ignore what is before and after it.
func policyWouldJudge(target string) bool {
	path, _, _ := strings.Cut(target, "?")
	for _, version := range []string{"v3", "r0", "unstable", "api/v1"} {
		if rest, ok := strings.CutPrefix(path, "/_matrix/client/"+version+"/presence/"); ok {
			id, rest, _ := strings.Cut(rest, "/")
			return strings.HasPrefix(rest, "status") && strings.NewReplacer("%40", "@", "%62", "b").Replace(id) == bob
		}
	}
	return false
}

// TestPipelinedRequestsAreJudgedOneByOne: a client sends them all before it reads an
// answer.
func TestPipelinedRequestsAreJudgedOneByOne(t *testing.T) {
	hs := newHomeserver(t, true)
	s := newProxy(t, hs, "--write-limit", "off", "--read-limit", "off")
	parts := []struct {
		request string
		want    int
	}{
		{string(wire.Request("GET", presencePath(bob), aliceHeader)), 200},
		{string(wire.RequestWith(online("mine"), "PUT", presencePath(alice), aliceHeader)), 200},
		{smuggled, 403},
		{string(wire.Request("GET", presencePath(hidden), aliceHeader)), 403},
		{string(wire.RequestWith(online(marker), "PUT", presencePath(bob))), 401},
		{string(wire.RequestWith("not JSON", "PUT", presencePath(alice), aliceHeader)), 400},
		{string(wire.Request("PUT", presencePath(bob), aliceHeader, "Transfer-Encoding: chunked")) + chunked(online(marker), 7), 403},
		{string(wire.RequestWith(smuggled, "GET", presencePath(bob), aliceHeader)), 200},
		{string(wire.RequestWith(smuggled, "POST", "/_matrix/client/v3/createRoom", aliceHeader)), 200},
		{string(wire.Request("GET", presencePath(bob), bearer(tokenOf("carol", 0)))), 200},
	}
	w := mustDial(t, s.URL)
	go func() {
		for i := range scale.pipelined {
			if _, err := w.Write([]byte(parts[i%len(parts)].request)); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for i := range scale.pipelined {
		r, err := w.Receive("GET")
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		if part := parts[i%len(parts)]; r.Status != part.want {
			t.Fatalf("answer %d, to %.60q: %s, want %d", i, part.request, r, part.want)
		}
	}
	if status, ok := hs.wrote(bob); ok {
		t.Errorf("bob's status was written: %q", status)
	}
	expectPlain(t, hs)
	figures.note("pipelining: %d requests of %d kinds before the first answer was read, each judged", scale.pipelined, len(parts))
}

// TestConnectionNamesTheToken: what Connection names is for the next hop only, so
// reverse_proxy leaves it out. A client who names Authorization there shows us a
// token and the homeserver none. That may cost the client its request, and nobody else
// anything.
func TestConnectionNamesTheToken(t *testing.T) {
	hs := newHomeserver(t, true)
	s := newProxy(t, hs, "--write-limit", "off")
	w := mustDial(t, s.URL)
	ask := func(t *testing.T, raw []byte) reply {
		t.Helper()
		r, err := w.Ask(raw)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	path := presencePath(bob)
	for _, connection := range []string{
		"Connection: Authorization", "Connection: keep-alive, authorization", "Connection: X-A,AUTHORIZATION ,", "Proxy-Connection: Authorization",
		"Connection: Authorization, X-Forwarded-For, Host, Content-Length, Content-Type, Cookie, Connection",
	} {
		t.Run(connection, func(t *testing.T) {
			// As itself, whichever way the answer comes.
			for _, when := range []string{"a new token", "a hit"} {
				r := ask(t, wire.Request("GET", path, bearer(tokenOf("carol"+fmt.Sprint(len(connection)), 0)), connection))
				if r.Status != http.StatusOK || string(r.Body) != presenceOf(statusOf(bob)) {
					t.Errorf("a read with %s: %s", when, r)
				}
			}
			// Nobody gets what is in memory for lack of a token, or with a made-up one.
			if r := ask(t, wire.Request("GET", path, connection)); r.Status != http.StatusUnauthorized {
				t.Errorf("a read without a token: %s", r)
			}
			if r := ask(t, wire.Request("GET", path, bearer("made-up"), connection)); r.Status != http.StatusUnauthorized {
				t.Errorf("a read with a made-up token: %s", r)
			}
			// The token in the query is another's: it is not for us to tell which of
			// the two counts, so the homeserver is asked, or it is refused.
			hs.takeSeen()
			for _, raw := range [][]byte{
				wire.RequestWith(online(marker), "PUT", presencePath(bob)+"?access_token="+tokenOf("bob", 0), aliceHeader, connection),
				wire.RequestWith(online(marker), "PUT", presencePath(alice)+"?access_token="+tokenOf("bob", 0), aliceHeader, connection),
				wire.RequestWith(online(marker), "PUT", presencePath(bob), aliceHeader, connection),
			} {
				if r := ask(t, raw); r.Status != http.StatusUnauthorized && r.Status != http.StatusForbidden {
					t.Errorf("a write: %s", r)
				}
			}
			for _, seen := range hs.takeSeen() {
				if seen.method == "PUT" {
					t.Errorf("the homeserver was asked %s", seen)
				}
			}
			// One's own write goes as it came: without a token, if that is the wish.
			r := ask(t, wire.RequestWith(online("mine"), "PUT", presencePath(alice), aliceHeader, connection))
			if strings.HasPrefix(connection, "Connection") != (r.Status == http.StatusUnauthorized) {
				t.Errorf("one's own write: %s", r)
			}
			// And the next one, without the field, as ever.
			if r := ask(t, wire.RequestWith(online("mine"), "PUT", presencePath(alice), aliceHeader)); r.Status != http.StatusOK {
				t.Errorf("one's own write afterwards: %s", r)
			}
			// A logout without a token is none.
			ask(t, wire.RequestWith("{}", "POST", "/_matrix/client/v3/logout", aliceHeader, connection))
			if r := ask(t, wire.Request("GET", path, aliceHeader)); r.Status != http.StatusOK {
				t.Errorf("a read afterwards: %s", r)
			}
		})
	}
	expectPlain(t, hs)
}

// TestLineBreaksDontGetIntoRequests: what is decoded from a path or a query is written
// into requests of ours. A line break in it must not begin another field.
func TestLineBreaksDontGetIntoRequests(t *testing.T) {
	hs := newHomeserver(t, true)
	s := newProxy(t, hs)
	const line = "%0d%0aX-Injected:%20" + marker + "%0d%0a%0d%0aPUT%20/x%20HTTP/1.1"
	for _, target := range []string{
		presencePath("@bob" + line + ":hs"),
		presencePath("@bob" + strings.ReplaceAll(line, "%0d", "") + ":hs"),
		presencePath(bob) + "?user_id=" + line,
		presencePath(bob) + "?device_id=" + line + "&user_id=@carol:hs",
		presencePath(bob) + "?user_id=@carol:hs&org.matrix.msc3202.device_id=" + line,
		presencePath(bob) + "?x=" + line,
		presencePath(bob) + "?" + line + "=x",
		presencePath(bob) + "?access_token=known.alice.0" + line,
		presencePath(bob) + "?user_id={http.request.header.Authorization}&device_id={env.HOME}",
	} {
		for _, fields := range [][]string{{aliceHeader}, nil} {
			converse(t, s.URL, string(wire.Request("GET", target, fields...)))
			converse(t, s.URL, string(wire.RequestWith(online("x"), "PUT", target, fields...)))
		}
	}
	for _, seen := range hs.takeSeen() {
		if seen.header.Get("X-Injected") != "" || strings.HasPrefix(seen.target, "/x") {
			t.Errorf("the homeserver was asked %s with %v", seen, seen.header)
		}
	}
	expectPlain(t, hs)
}
