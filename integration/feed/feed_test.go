package feed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

// seenBy is how late a change may be seen. It is a tenth of the lifetimes, so that it takes the feed, and far above what it
// takes on a machine that has something else to do: the log says how long it took.
const (
	seenBy    = time.Minute
	lifetimes = "cache {\nttl 10m\n}\nidentity {\nttl 10m\n}\n"
)

// world is a busy Synapse, the sidecar before it, and people.
type world struct {
	*testing.T
	hs               *homeserver.Busy
	site             *sidecar.Sidecar
	alice, bob, root homeserver.User
	room             string
	channel          string // of the feed
	unfed            bool   // the sidecar has no feed
	lifetimes        string // of what is in memory
}

func newWorld(t *testing.T) *world {
	hs, err := homeserver.StartBusySynapse(t.Context(), homeserver.Options{Progress: os.Stderr})
	if errors.Is(err, homeserver.ErrUnavailable) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hs.Stop)
	w := &world{T: t, hs: hs, channel: hs.ServerName, lifetimes: lifetimes}
	w.alice, w.bob = w.register("alice"), w.register("bob")
	if w.root, err = hs.Client().RegisterAdmin(t.Context(), "root", "secret"); err != nil {
		t.Fatal(err)
	}
	var room struct {
		ID string `json:"room_id"`
	}
	w.do(http.MethodPost, "/_matrix/client/v3/createRoom", w.alice.AccessToken, map[string]any{"preset": "public_chat"}, &room)
	w.room = room.ID
	w.join(w.bob)
	return w
}

func (w *world) register(name string) homeserver.User {
	w.Helper()
	user, err := w.hs.Register(w.Context(), name, "secret")
	if err != nil {
		w.Fatal(err)
	}
	return user
}

// do sends a request to the main process, past the sidecar.
func (w *world) do(method, path, token string, body, result any) {
	w.Helper()
	if err := w.hs.Client().Do(w.Context(), method, path, token, body, result); err != nil {
		w.Fatal(err)
	}
}

func (w *world) join(user homeserver.User) {
	w.Helper()
	w.do(http.MethodPost, "/_matrix/client/v3/rooms/"+w.room+"/join", user.AccessToken, map[string]any{}, nil)
}

// at sends a request to a worker, past the sidecar.
func (w *world) at(url, method, path, token string, body any) {
	w.Helper()
	if err := (homeserver.Client{URL: url}).Do(w.Context(), method, path, token, body, nil); err != nil {
		w.Fatal(err)
	}
}

func statusPath(user homeserver.User) string {
	return "/_matrix/client/v3/presence/" + user.ID + "/status"
}

// write sets alice's presence past the sidecar.
func (w *world) write(presence, status string) {
	w.Helper()
	w.at(w.hs.PresenceURL, http.MethodPut, statusPath(w.alice), w.alice.AccessToken, map[string]any{"presence": presence, "status_msg": status})
}

// before starts the sidecar, with these options of the feed.
func (w *world) before(feed string) {
	w.Helper()
	site, err := sidecar.StartCaddyfile(w.Context(), w.caddyfile(feed))
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(site.Stop)
	w.site = site
}

func (w *world) caddyfile(feed string) string {
	if w.channel != "" {
		feed = "server_name " + w.channel + "\n" + feed
	}
	if feed = "feed redis {\n" + feed + "\n}"; w.unfed {
		feed = ""
	}
	return fmt.Sprintf(`{
	admin {$ADMIN}
}
http://{$LISTEN} {
	bind 127.0.0.1
	matrix_presence {
		homeserver synapse
		read_limit off
		%s
		%s
	}
	@presence path_regexp ^/_matrix/client/[^/]+/presence/
	@sync path_regexp ^/_matrix/client/[^/]+/sync$
	reverse_proxy @presence %s
	reverse_proxy @sync %s
	reverse_proxy %s
}
`, feed, w.lifetimes, w.hs.PresenceURL, w.hs.SyncURL, w.hs.URL)
}

// rights are the options of a feed that has the documented ACL.
func (w *world) rights() string {
	return fmt.Sprintf("address %s\nusername %s\npassword %s", w.hs.Redis, homeserver.FeedUser, homeserver.FeedPassword)
}

// read returns the status and the body of a read through the sidecar, and whether it was a hit.
func (w *world) read(token string, user homeserver.User) (status int, body string, hit bool) {
	w.Helper()
	resp, text := w.get(w.site.URL, token, user)
	return resp.StatusCode, text, strings.Contains(resp.Header.Get("Cache-Status"), "; hit")
}

// direct returns what the presence writer answers to a read of alice's presence, past the sidecar.
func (w *world) direct(token string) string {
	w.Helper()
	resp, text := w.get(w.hs.PresenceURL, token, w.alice)
	return fmt.Sprint(resp.StatusCode, " ", text)
}

// get reads a user's presence at a server, and returns its answer, whose body has been read.
func (w *world) get(url, token string, user homeserver.User) (resp *http.Response, body string) {
	w.Helper()
	req, err := http.NewRequestWithContext(w.Context(), http.MethodGet, url+statusPath(user), nil)
	if err != nil {
		w.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if resp, err = http.DefaultClient.Do(req); err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		w.Fatal(err)
	}
	return resp, string(text)
}

// metric returns the sum of the samples of a metric that contain a text.
func (w *world) metric(name, label string) (sum float64) {
	w.Helper()
	text, err := w.site.AskAdmin(w.Context(), http.MethodGet, "/metrics", "")
	if err != nil {
		w.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var value float64
		if strings.HasPrefix(line, "caddy_matrix_presence_"+name+"{") && strings.Contains(line, label) {
			fmt.Sscan(line[strings.LastIndexByte(line, ' '):], &value)
			sum += value
		}
	}
	return sum
}

// until polls for a while, and fails if it never is so.
func (w *world) until(what string, by time.Duration, is func() bool) time.Duration {
	w.Helper()
	began := time.Now()
	for time.Since(began) < by {
		if is() {
			return time.Since(began)
		}
		time.Sleep(5 * time.Millisecond)
	}
	_, through, hit := w.read(w.bob.AccessToken, w.alice)
	w.Logf("through the module %q, a hit: %v; at Synapse %q", through, hit, w.direct(w.bob.AccessToken))
	w.Fatalf("%s: not within %v\n%s", what, by, w.site.Log())
	return 0
}

// live waits until the feed is believed, and what it covers has settled.
func (w *world) live() {
	w.Helper()
	n := 0
	w.until("the feed is live", time.Minute, func() bool {
		n++
		w.write("unavailable", fmt.Sprint("hello ", n)) // so that Synapse has something to say
		time.Sleep(100 * time.Millisecond)
		return w.metric("feeds", `state="live"`) == 1
	})
	w.settled(w.bob.AccessToken)
}

// settled waits until a read of alice's presence is answered from memory: nothing about her is under way.
func (w *world) settled(token string) {
	w.Helper()
	w.until("a hit", seenBy, func() bool { _, _, hit := w.read(token, w.alice); return hit })
}

var ttl = regexp.MustCompile(`; ttl=(\d+)`)

// kept waits until what is known of alice's presence has been in memory for longer than the time of settle.
func (w *world) kept(token string) {
	w.Helper()
	most := 0
	w.until("a state that has been kept for a second", seenBy, func() bool {
		resp, _ := w.get(w.site.URL, token, w.alice)
		left := 0
		if found := ttl.FindStringSubmatch(resp.Header.Get("Cache-Status")); found != nil {
			left, _ = strconv.Atoi(found[1])
		}
		most = max(most, left)
		return left > 0 && left <= most-2
	})
}

// TestChangesElsewhereAreSeenLongBeforeTTL is about all that changes past the module.
func TestChangesElsewhereAreSeenLongBeforeTTL(t *testing.T) {
	w := newWorld(t)
	w.before(w.rights())
	w.live()
	token := w.bob.AccessToken
	shows := func(text string) func() bool {
		return func() bool { _, body, _ := w.read(token, w.alice); return strings.Contains(body, text) }
	}
	refused := func(as string, want int) func() bool {
		return func() bool { status, _, _ := w.read(as, w.alice); return status == want }
	}
	var session homeserver.User
	login := func() {
		var err error
		if session, err = w.hs.Login(t.Context(), w.bob.ID, "secret"); err != nil {
			t.Fatal(err)
		}
		w.settled(session.AccessToken)
	}
	n, syncs := 0, [2]string{"online", "unavailable"}
	for _, change := range []struct {
		name          string
		before, makes func()
		seen          func() func() bool
	}{
		{"another device's write", func() {}, func() { n++; w.write("unavailable", fmt.Sprint("write ", n)) },
			func() func() bool { return shows(fmt.Sprintf(`"write %d"`, n)) }},
		// Synapse takes no notice of a sync that says what the device's last one said.
		{"a sync", func() {}, func() {
			n++
			w.at(w.hs.SyncURL, http.MethodGet, "/_matrix/client/v3/sync?timeout=0&set_presence="+syncs[n%2], w.alice.AccessToken, nil)
		}, func() func() bool { return shows(`"` + syncs[n%2] + `"`) }},
		{"a leave", func() {}, func() {
			w.do(http.MethodPost, "/_matrix/client/v3/rooms/"+w.room+"/leave", token, map[string]any{}, nil)
		}, func() func() bool { return refused(token, 403) }},
		{"a join", func() {}, func() { w.join(w.bob) }, func() func() bool { return refused(token, 200) }},
		{"a kick", func() {}, func() {
			w.do(http.MethodPost, "/_matrix/client/v3/rooms/"+w.room+"/kick", w.alice.AccessToken, map[string]any{"user_id": w.bob.ID}, nil)
		}, func() func() bool { defer w.join(w.bob); return refused(token, 403) }},
		{"a logout", login, func() {
			w.do(http.MethodPost, "/_matrix/client/v3/logout", session.AccessToken, map[string]any{}, nil)
		}, func() func() bool { return refused(session.AccessToken, 401) }},
		{"a deactivation", func() {
			name := fmt.Sprint("gone", n)
			n++
			session = w.register(name)
			w.join(session)
			w.settled(session.AccessToken)
		}, func() {
			w.do(http.MethodPost, "/_synapse/admin/v1/deactivate/"+session.ID, w.root.AccessToken, map[string]any{}, nil)
		}, func() func() bool { return refused(session.AccessToken, 401) }},
	} {
		var took []time.Duration
		for range suite.BySize(3, 30) {
			change.before()
			w.settled(token)
			change.makes()
			if change.name == "a kick" {
				took = append(took, w.until(change.name, seenBy, refused(token, 403)))
				w.join(w.bob)
				w.until("a join", seenBy, refused(token, 200))
				continue
			}
			took = append(took, w.until(change.name, seenBy, change.seen()))
			if change.name == "a leave" {
				w.join(w.bob)
				w.until("a join", seenBy, refused(token, 200))
			}
			if change.name == "a join" {
				w.do(http.MethodPost, "/_matrix/client/v3/rooms/"+w.room+"/leave", token, map[string]any{}, nil)
				w.until("a leave", seenBy, refused(token, 403))
				w.join(w.bob)
				w.until("a join", seenBy, refused(token, 200))
			}
		}
		slices.Sort(took)
		t.Logf("%-24s seen after %v, at most %v, in %d rounds", change.name, took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond), len(took))
	}
	if lost := w.metric("feed_losses_total", `reason="unreadable"`); lost > 0 {
		t.Errorf("%v lines could not be read", lost)
	}
	if strings.Contains(w.site.Log(), "RDATA") || strings.Contains(w.site.Log(), session.AccessToken) {
		t.Error("a line of the feed is in the log")
	}

	t.Run("what the feed says is what Synapse answers", w.sameAsSynapse)
	t.Run("Redis is killed", w.redisIsKilled)
}

var ago = regexp.MustCompile(`"last_active_ago":\d+`)

// sameAsSynapse compares what is served from a row with what Synapse answers.
func (w *world) sameAsSynapse(t *testing.T) {
	for _, tt := range [][2]string{{"unavailable", "tea \u2615 & \"cake\" <b>"}, {"offline", ""}, {"unavailable", ""}, {"online", "\u00e4"}} {
		w.kept(w.bob.AccessToken)
		w.write(tt[0], tt[1])
		direct := ""
		w.until("a hit that shows it", seenBy, func() bool {
			direct = ago.ReplaceAllString(w.direct(w.bob.AccessToken), "")
			_, body, hit := w.read(w.bob.AccessToken, w.alice)
			return hit && "200 "+ago.ReplaceAllString(body, "") == direct
		})
	}
	if w.metric("feed_presence_total", `result="updated"`) == 0 {
		t.Error("no row was served")
	}
}

// redisIsKilled: everything goes on as without a feed, and the feed comes again.
func (w *world) redisIsKilled(t *testing.T) {
	start := w.hs.StopRedis(context.WithoutCancel(t.Context()))
	w.until("the feed is lost", seenBy, func() bool { return w.metric("feeds", `state="connecting"`) == 1 })
	if status, body, _ := w.read(w.bob.AccessToken, w.alice); status != 200 {
		t.Errorf("a read without Redis is %d %s", status, body)
	}
	if n := strings.Count(w.site.Log(), "there is no connection"); n != 1 {
		t.Errorf("%d log lines about the loss", n)
	}
	if err := start(); err != nil {
		t.Fatal(err)
	}
	w.live()
}

// TestFeedsThatAreWrong: each is one clear line, however often it is tried again, and everything else
// goes on.
func TestFeedsThatAreWrong(t *testing.T) {
	w := newWorld(t)
	access := func(password string) string {
		return fmt.Sprintf("username %s\npassword %s", homeserver.FeedUser, password)
	}
	for name, tt := range map[string]struct{ to, channel, options, says, loss string }{
		"the ACL refuses the password": {w.hs.Redis, w.hs.ServerName, access("wrong"), "the server refuses it", "refused"},
		"the ACL refuses the channel":  {w.hs.Redis, "another.test", access(homeserver.FeedPassword), "the server refuses it", "refused"},
		"nobody is there":              {"", w.hs.ServerName, "", "there is no connection", "connection"},
	} {
		t.Run(name, func(t *testing.T) {
			w.T, w.channel = t, tt.channel
			address, tried := relay(t, tt.to)
			w.before("address " + address + "\n" + tt.options)
			w.until("it is said", seenBy, func() bool { return strings.Contains(w.site.Log(), tt.says) })
			w.write("unavailable", name)
			if status, body, _ := w.read(w.bob.AccessToken, w.alice); status != 200 || !strings.Contains(body, name) {
				t.Errorf("a read is %d %s", status, body)
			}
			w.until("it is tried again", seenBy, func() bool { return tried.Load() >= 3 })
			if w.metric("feeds", `state="connecting"`) != 1 || w.metric("feed_losses_total", `reason="`+tt.loss+`"`) == 0 {
				t.Error("the metrics don't say so")
			}
			if n := strings.Count(w.site.Log(), tt.says); n != 1 {
				t.Errorf("it is said %d times:\n%s", n, w.site.Log())
			}
		})
	}
}

// TestFeedsThatSayNothingOrNonsense is likewise about a Redis that takes us.
func TestFeedsThatSayNothingOrNonsense(t *testing.T) {
	w := newWorld(t)
	is := func(state string) func() bool {
		return func() bool { return w.metric("feeds", `state="`+state+`"`) == 1 }
	}
	goesOn := func(t *testing.T, what string) {
		t.Helper()
		w.write("unavailable", what)
		w.until(what, seenBy, func() bool {
			status, body, _ := w.read(w.bob.AccessToken, w.alice)
			return status == 200 && strings.Contains(body, what)
		})
	}
	t.Run("rows of another shape", func(t *testing.T) {
		w.T = t
		w.before(w.rights())
		w.live()
		for _, line := range []string{
			"RDATA presence presence1 batch [1,2]", "RDATA presence presence1 batch {", `RDATA presence presence1 batch ["@alice:hs.test","online",1]`,
			`RDATA events master batch ["state",7]`, "RDATA caches master batch null", "POSITION presence presence1 x y", "NO SUCH COMMAND", "",
		} {
			w.publish(line)
		}
		w.until("it is counted", seenBy, func() bool { return w.metric("feed_losses_total", `reason="unreadable"`) >= 6 })
		if n := strings.Count(w.site.Log(), "a line has another shape"); n != 1 {
			t.Errorf("it is said %d times:\n%s", n, w.site.Log())
		}
		goesOn(t, "after nonsense")
		if !is("live")() {
			t.Error("the feed isn't live")
		}
	})
	t.Run("without a name", func(t *testing.T) {
		w.T, w.channel = t, ""
		site, err := sidecar.StartCaddyfile(t.Context(), w.caddyfile(w.rights()))
		if err == nil {
			site.Stop()
			t.Fatal("it starts")
		}
		if !strings.Contains(err.Error(), "needs a server_name: the one in homeserver.yaml") {
			t.Error(err)
		}
	})
	if !suite.Full() {
		return // the next one takes more than a minute
	}
	t.Run("a channel that never speaks", func(t *testing.T) {
		w.T, w.channel = t, "another.test"
		w.before(fmt.Sprintf("address %s\npassword %s", w.hs.Redis, homeserver.RedisPassword))
		took := w.until("it is said", 3*time.Minute, func() bool {
			w.write("online", "here")
			time.Sleep(time.Second)
			w.read(w.bob.AccessToken, w.alice)
			return strings.Contains(w.site.Log(), "it has said nothing for a minute although users are online")
		})
		t.Logf("it is said after %v", took.Round(time.Second))
		if !is("waiting")() || w.metric("feed_losses_total", `reason="silent"`) != 1 {
			t.Error("the metrics don't say so")
		}
		if n := strings.Count(w.site.Log(), "it has said nothing"); n != 1 {
			t.Errorf("it is said %d times", n)
		}
		if status, _, _ := w.read(w.bob.AccessToken, w.alice); status != 200 {
			t.Errorf("a read is %d", status)
		}
	})
}

// TestLiveIsNotAskedAgain is a short run on a real server of what is longer in virtual time: a pair that is read
// again and again is asked about once, where it is asked about each ttl without a feed.
func TestLiveIsNotAskedAgain(t *testing.T) {
	if !suite.Full() {
		t.Skip("it takes two minutes")
	}
	w := newWorld(t)
	w.lifetimes = "" // the defaults
	w.before(w.rights())
	w.live()
	w.write("offline", "") // no timer of Synapse's is running for her
	w.settled(w.bob.AccessToken)
	w.kept(w.bob.AccessToken)
	fetched := func() float64 { return w.metric("upstream_requests_total", `reason="fetch"`) }
	before, reads := fetched(), 0
	for began := time.Now(); time.Since(began) < 2*time.Minute; reads++ {
		if status, body, _ := w.read(w.bob.AccessToken, w.alice); status != 200 || !strings.Contains(body, "offline") {
			t.Fatalf("a read is %d %s", status, body)
		}
		time.Sleep(5 * time.Second)
	}
	asked := fetched() - before
	t.Logf("%v of %d reads in two minutes reached Synapse", asked, reads)
	if asked > 1 {
		t.Errorf("%v of %d reads reached Synapse", asked, reads)
	}
}

// publish says something on the channel, as Synapse does.
func (w *world) publish(line string) {
	w.Helper()
	connection, err := net.Dial("tcp", w.hs.Redis)
	if err != nil {
		w.Fatal(err)
	}
	defer connection.Close()
	command := func(words ...string) {
		fmt.Fprintf(connection, "*%d\r\n", len(words))
		for _, word := range words {
			fmt.Fprintf(connection, "$%d\r\n%s\r\n", len(word), word)
		}
		answer := make([]byte, 100)
		if n, err := connection.Read(answer); err != nil || answer[0] == '-' {
			w.Fatalf("%s: %q, %v", words[0], answer[:n], err)
		}
	}
	command("AUTH", homeserver.RedisPassword)
	command("PUBLISH", w.hs.ServerName, line)
}

// relay stands before a server, or before none, and counts connections.
func relay(t *testing.T, to string) (address string, connections *atomic.Int64) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	connections = new(atomic.Int64)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			server, err := net.Dial("tcp", to)
			if to == "" || err != nil {
				client.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
				all.Go(func() {
					_, _ = io.Copy(way[0], way[1])
					way[0].Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		listener.Close()
		all.Wait()
	})
	return listener.Addr().String(), connections
}
