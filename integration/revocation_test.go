package integration_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// TestLogoutsOfMadeUpTokensLeaveReadersAlone: a client without an account begins logouts
// whose bodies never come, and leaves. Once each of them had everybody who was being
// looked up be looked up again.
func TestLogoutsOfMadeUpTokensLeaveReadersAlone(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		c := newCast(t, hs)
		up := newUpstream(t, hs.URL, nil)
		s := proxy(t, up.URL, unlimited...)
		var attackers sync.WaitGroup
		over := make(chan struct{})
		for attacker := range 4 {
			attackers.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-over:
						return
					default:
						beginLogout(s.URL, fmt.Sprintf("made-up-%d-%d", attacker, i))
					}
				}
			})
		}
		defer attackers.Wait()
		defer close(over)
		for range 20 {
			device, err := hs.Login(t.Context(), c.alice.ID, c.alice.Password)
			if err != nil {
				t.Fatal(err)
			}
			before := up.Counts().Whoami
			for range 5 {
				if a := get(c.path(ofAlice), device.AccessToken).to(t, s.URL); a.status != http.StatusOK {
					t.Fatalf("a read: %s", a)
				}
			}
			if got := up.Counts().Whoami - before; got != 1 {
				t.Errorf("five reads by one token cost %d lookups, want 1", got)
			}
		}
	})
}

// beginLogout sends all of a logout but its body, and leaves.
func beginLogout(base, token string) {
	u, _ := url.Parse(base)
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = fmt.Fprintf(conn, "POST /_matrix/client/v3/logout HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Length: 100\r\n\r\n{", u.Host, token)
	_ = conn.(*net.TCPConn).CloseWrite()
	_, _ = io.Copy(io.Discard, conn)
}

// TestLockedAccountBehindANAT: Synapse says 401 to a locked account, too. Once its reads
// cost two requests each, and its neighbours behind the same address were refused.
func TestLockedAccountBehindANAT(t *testing.T) {
	hs := suite.Homeserver(t, "synapse", homeserver.Options{})
	c := newCast(t, hs)
	admin, err := hs.Client().RegisterAdmin(t.Context(), c.path("admin-{alice.local}"), "the admin's password")
	if err != nil {
		t.Fatal(err)
	}
	up := newUpstream(t, hs.URL, nil)
	s := proxy(t, up.URL, append([]string{"--trusted-proxies", "127.0.0.1"}, unlimited...)...)
	const nat = "203.0.113.7"
	read := func(token string) answer {
		r := get(c.path(ofAlice), token)
		r.from = nat
		return r.to(t, s.URL)
	}
	if a := read(c.bob.AccessToken); a.status != http.StatusOK {
		t.Fatalf("before: %s", a)
	}
	lock := request{method: http.MethodPut, path: c.path("/_synapse/admin/v2/users/{bob}"), token: admin.AccessToken, body: `{"locked":true}`}
	if a := lock.to(t, s.URL); a.status != http.StatusOK {
		t.Fatalf("locking: %s", a)
	}
	direct := get(c.path(ofAlice), c.bob.AccessToken).to(t, hs.URL)
	if direct.status != http.StatusUnauthorized || direct.field("errcode") != "M_USER_LOCKED" {
		t.Fatalf("the homeserver says %s of a locked account", direct)
	}
	whoami, reads := up.Counts().Whoami, up.Counts().Reads
	const tries = 200
	began := time.Now()
	for range tries {
		expectSame(t, direct, read(c.bob.AccessToken))
	}
	most := 10 + int64(time.Since(began).Seconds()) // on a slow machine some more
	if whoami, reads = up.Counts().Whoami-whoami, up.Counts().Reads-reads; reads > tries || whoami > most {
		t.Errorf("%d reads of a locked account cost %d lookups and %d reads", tries, whoami, reads)
	}
	if a := read(c.stranger.AccessToken); a.status == http.StatusTooManyRequests {
		t.Errorf("a neighbour's new token: %s", a)
	}

	// Nor does it matter to those who were known how many tokens somebody makes up there.
	for i := range 100 {
		read(fmt.Sprint("made-up-", i))
	}
	more := 0
	suite.Eventually(t, "one of too many made-up tokens is refused", func() bool { // each six seconds one isn't
		more++
		return read(fmt.Sprint("made-up-too-", more)).status == http.StatusTooManyRequests
	})
	if a := read(c.bob.AccessToken); a.status != http.StatusUnauthorized {
		t.Errorf("the locked account: %s", a)
	}
	lock.body = `{"locked":false}`
	if a := lock.to(t, s.URL); a.status != http.StatusOK {
		t.Fatalf("unlocking: %s", a)
	}
	if a := read(c.bob.AccessToken); a.status != http.StatusOK {
		t.Errorf("after it was unlocked: %s", a)
	}
}

// TestSessionsEndedByANewDevice: whose a device is that has never asked for a presence is
// asked while its request goes on. The sessions that it ends do so as soon as that is
// known. (Of a logout of all the homeserver may not say it afterwards.)
func TestSessionsEndedByANewDevice(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		c := newCast(t, hs)
		c.settle(t, "fishing")
		s := proxy(t, hs.URL, unlimited...)
		second, err := hs.Login(t.Context(), c.alice.ID, c.alice.Password)
		if err != nil {
			t.Fatal(err)
		}
		read := get(c.path(ofAlice), second.AccessToken)
		if a := read.to(t, s.URL); a.status != http.StatusOK {
			t.Fatalf("before: %s", a)
		}
		end := request{method: http.MethodPost, path: "/_matrix/client/v3/delete_devices", token: c.alice.AccessToken,
			body: `{"devices":["` + second.DeviceID + `"],"auth":` + passwordAuth(second) + `}`}
		if a := end.to(t, s.URL); a.status != http.StatusOK {
			t.Fatalf("deleting the device: %s", a)
		}
		suite.Eventually(t, "the deleted device is refused", func() bool { return read.to(t, s.URL).status == http.StatusUnauthorized })
	})
}

// TestLoginWithADeviceThatIsThere: Dendrite ends the token that the device had, Synapse
// lets it live, until the device is logged out by the new one, which has done nothing else. The
// sidecar says what the homeserver says.
func TestLoginWithADeviceThatIsThere(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		c := newCast(t, hs)
		c.settle(t, "fishing")
		s := proxy(t, hs.URL, unlimited...)
		login := request{method: http.MethodPost, path: "/_matrix/client/v3/login", body: c.path(
			`{"type":"m.login.password","identifier":{"type":"m.id.user","user":"{alice.bare}"},"password":"`) +
			c.alice.Password + `","device_id":"THE_DEVICE"}`}
		old := login.to(t, s.URL).field("access_token")
		read := get(c.path(ofAlice), old)
		read.to(t, s.URL)
		if a := read.to(t, s.URL); !a.hit() {
			t.Fatalf("before: %s (%s), want a hit", a, a.cacheStatus())
		}
		again := login.to(t, s.URL)
		if again.status != http.StatusOK || again.field("access_token") == old {
			t.Fatalf("logging in again: %s", again)
		}
		direct, through := read.to(t, hs.URL), read.to(t, s.URL)
		expectSame(t, direct, through)
		if want := map[string]int{"dendrite": 401, "synapse": 200}[hs.Name]; direct.status != want {
			t.Errorf("the homeserver says %s, want %d", direct, want)
		}
		logout := request{method: http.MethodPost, path: "/_matrix/client/v3/logout", token: again.field("access_token"), body: "{}"}
		if a := logout.to(t, s.URL); a.status != http.StatusOK {
			t.Fatalf("logging out: %s", a)
		}
		direct, through = read.to(t, hs.URL), read.to(t, s.URL)
		expectSame(t, direct, through)
		if direct.status != http.StatusUnauthorized {
			t.Errorf("after the logout the homeserver says %s, want 401", direct)
		}
	})
}

// TestRefreshedTokenIsAskedAboutAgain: Synapse may end the access token before when the
// new one is used.
func TestRefreshedTokenIsAskedAboutAgain(t *testing.T) {
	hs := suite.Homeserver(t, "synapse", homeserver.Options{})
	c := newCast(t, hs)
	c.settle(t, "fishing")
	up := newUpstream(t, hs.URL, nil)
	s := proxy(t, up.URL, unlimited...)
	post := func(path, body string) answer {
		a := request{method: http.MethodPost, path: path, body: body}.to(t, s.URL)
		if a.status != http.StatusOK || a.field("refresh_token") == "" {
			t.Fatalf("%s: %s", path, a)
		}
		return a
	}
	issued := post("/_matrix/client/v3/login", c.path(`{"type":"m.login.password","identifier":{"type":"m.id.user","user":"{alice.bare}"},"password":"`)+
		c.alice.Password+`","refresh_token":true}`)
	read := get(c.path(ofAlice), issued.field("access_token"))
	read.to(t, s.URL)
	if a := read.to(t, s.URL); !a.hit() {
		t.Fatalf("before: %s (%s), want a hit", a, a.cacheStatus())
	}
	refreshed := post("/_matrix/client/v3/refresh", `{"refresh_token":"`+issued.field("refresh_token")+`"}`)
	if a := get("/_matrix/client/v3/account/whoami", refreshed.field("access_token")).to(t, hs.URL); a.status != http.StatusOK {
		t.Fatalf("the new token: %s", a)
	}
	before := up.Counts().Whoami
	expectSame(t, read.to(t, hs.URL), read.to(t, s.URL))
	if got := up.Counts().Whoami - before; got != 1 {
		t.Errorf("the token before was looked up %d times, want once", got)
	}
}

// TestRefusedGhostLeavesTheOthersAlone: a bridge is refused for one of its users, for whom
// Dendrite says that it doesn't know the token. Once that dropped what waited of all its
// users.
func TestRefusedGhostLeavesTheOthersAlone(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		c := newCast(t, hs)
		s := site(t, "write_limit 1/3s\nover_limit coalesce", hs.URL)
		localpart := "ghost_" + c.path("{alice.local}")
		if err := hs.Client().RegisterGhost(t.Context(), homeserver.ASToken, localpart); err != nil {
			t.Fatal(err)
		}
		as := func(localpart string) string {
			id := url.QueryEscape(hs.UserID(localpart))
			return "/_matrix/client/v3/presence/" + id + "/status?user_id=" + id
		}
		for _, status := range []string{"first", "second"} {
			if a := put(as(localpart), homeserver.ASToken, stateWith(status)).to(t, s.URL); a.status != http.StatusOK {
				t.Fatalf("the %s write: %s", status, a)
			}
		}
		nobody := "ghost_nobody_" + c.path("{alice.local}")
		for range 3 {
			read, write := get(as(nobody), homeserver.ASToken), put(as(nobody), homeserver.ASToken, online)
			expectSame(t, read.to(t, hs.URL), read.to(t, s.URL))
			expectSame(t, write.to(t, hs.URL), write.to(t, s.URL))
		}
		suite.Eventually(t, "the write that waited is delivered", func() bool {
			return get(as(localpart), homeserver.ASToken).to(t, hs.URL).field("status_msg") == "second"
		})
	})
}

// TestEscapedMessageIsActivity: an event type may come escaped, and Synapse takes its user
// for active all the same. Once a repeat of what they had written before was absorbed then.
func TestEscapedMessageIsActivity(t *testing.T) {
	hs := suite.Homeserver(t, "synapse", homeserver.Options{})
	c := newCast(t, hs)
	up := newUpstream(t, hs.URL, nil)
	s := site(t, "write_limit off\nrepeat_writes absorb", up.URL)
	write := c.request(put(ofAlice, "alice", `{"presence":"unavailable"}`))
	n := 0
	for _, step := range []struct {
		send string // before the write
		want int64  // writes of it
	}{
		{"", 1}, {"", 0},
		{"send/m.room.message", 1}, {"", 0},
		{"send/m%2Eroom.message", 1}, {"", 0},
		{"send/%6D.room%2emessage", 1}, {"", 0},
		{"state/m.room.message", 1}, {"", 0},
		{"send/m.reaction", 0},
	} {
		if step.send != "" {
			n++
			path := strings.Join([]string{"/_matrix/client/v3/rooms", url.PathEscape(c.room), step.send, fmt.Sprint(n)}, "/")
			message := request{method: http.MethodPut, path: path, token: c.alice.AccessToken, body: `{"msgtype":"m.text","body":"hi"}`}
			if a := message.to(t, s.URL); a.status != http.StatusOK {
				t.Fatalf("%s: %s", step.send, a)
			}
		}
		before := up.Counts().Writes
		if a := write.to(t, s.URL); a.status != http.StatusOK {
			t.Fatalf("a write: %s", a)
		}
		if got := up.Counts().Writes - before; got != step.want {
			t.Errorf("after %q %d writes reached the homeserver, want %d", step.send, got, step.want)
		}
	}
}
