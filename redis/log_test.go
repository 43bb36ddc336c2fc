package redis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/cluster"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

const (
	secret = "0123456789abcdef0123456789abcdef"
	ann    = "@ann:hs.test"
)

func openLog(t *testing.T, server *miniredis.Miniredis, secret string) *log {
	t.Helper()
	l := newLog(redis.NewClient(&redis.Options{Addr: server.Addr(), Protocol: 2, DisableIdentity: true, MaxRetries: -1}), secret, "mp:", "test")
	t.Cleanup(func() { l.Close() })
	return l
}

func TestEntriesComeBackAsTheyWereAppended(t *testing.T) {
	l := openLog(t, miniredis.RunT(t), secret)
	begin, err := l.Pull(t.Context(), "n", cluster.Position{})
	if err != nil || begin.Head != begin.At.Seq || len(begin.Entries) != 0 || begin.Nodes != 1 {
		t.Fatalf("an empty log is %+v, %v", begin, err)
	}
	entries := []cluster.Entry{
		{Kind: cluster.Begins, Node: "a", Write: 1<<63 + 7, Subject: ann},
		{Kind: cluster.RollCall, Node: "b"},
		{Kind: cluster.Membership, Node: "a", Subject: "@ä \x00\r\n:hs"},
	}
	if err := l.Append(t.Context(), entries...); err != nil {
		t.Fatal(err)
	}
	pulled, err := l.Pull(t.Context(), "m", begin.At)
	if err != nil || pulled.Head != begin.Head+3 || pulled.Nodes != 2 || pulled.At.Seq != pulled.Head || len(pulled.Entries) != 3 {
		t.Fatalf("pulled %+v, %v", pulled, err)
	}
	for i, e := range pulled.Entries {
		entries[i].Seq = begin.Head + uint64(i+1)
		if e != entries[i] {
			t.Errorf("%+v came back as %+v", entries[i], e)
		}
	}
	// From the middle of it, and from its end.
	if err := l.Append(t.Context(), entries[0]); err != nil {
		t.Fatal(err)
	}
	rest, err := l.Pull(t.Context(), "m", pulled.At)
	if err != nil || len(rest.Entries) != 1 || rest.Entries[0].Seq != begin.Head+4 {
		t.Errorf("the rest is %+v, %v", rest, err)
	}
	end, err := l.Pull(t.Context(), "m", cluster.Position{})
	if err != nil || end.At != rest.At || len(end.Entries) != 0 {
		t.Errorf("the end is %+v, %v", end, err)
	}
}

// Whoever has come to the log's end is told so for as long as nothing is appended, and nothing else has become of
// the log. When in doubt a pull tells.
func TestEndOfTheLogIsKnownByItsNumber(t *testing.T) {
	server := miniredis.RunT(t)
	l, other := openLog(t, server, secret), openLog(t, server, secret)
	pull := func(after cluster.Position) cluster.Position {
		t.Helper()
		pulled, err := l.Pull(t.Context(), "n", after)
		if err != nil {
			t.Fatal(err)
		}
		return pulled.At
	}
	third := openLog(t, server, secret)
	for what, happens := range map[string]func(){
		"nothing":                  func() {},
		"an entry":                 func() { _ = other.Append(t.Context(), cluster.Entry{Kind: cluster.RollCall}) },
		"the server has lost all":  func() { server.FlushAll() },
		"another log of as many":   func() { server.FlushAll(); _ = third.Append(t.Context(), cluster.Entry{Kind: cluster.RollCall}) },
		"the connection was lost":  func() { l.hangUp(t.Context(), errUnreadable) },
		"it was another's pull":    func() { l.of.Server += "x" },
		"the server takes nothing": func() { server.SetError("READONLY You can't write against a read only replica.") },
	} {
		server.FlushAll()
		_ = other.Append(t.Context(), cluster.Entry{Kind: cluster.RollCall})
		at := pull(pull(cluster.Position{}))
		happens()
		ends, err := l.Ends(time.Now().Add(time.Minute), at)
		server.SetError("")
		if ends != (what == "nothing") || (err != nil) != (what == "the server takes nothing") {
			t.Errorf("%s: %v, %v", what, ends, err)
		}
	}
}

// Writes of a user that wait at several nodes are sent in their order, and of each device only the newest. The log in memory
// by which other tests go has the same rules.
func TestTurnsOfWritesThatWait(t *testing.T) {
	server := miniredis.RunT(t)
	passed := time.Now()
	server.SetTime(passed)
	testTurns(t, openLog(t, server, secret), func(d time.Duration) {
		passed = passed.Add(d)
		server.SetTime(passed)
	})
	synctest.Test(t, func(t *testing.T) { testTurns(t, testkit.NewSharedLog().Client(), time.Sleep) })
}

// turns asks a log whose turn it is among ann's writes.
type turns struct {
	*testing.T
	log  cluster.Log
	pass func(time.Duration)
}

// hear has the log hear of nodes.
func (l turns) hear(nodes ...string) {
	l.Helper()
	for _, node := range nodes {
		if _, err := l.log.Pull(l.Context(), node, cluster.Position{}); err != nil {
			l.Fatal(err)
		}
	}
}

func (l turns) append(e cluster.Entry) {
	l.Helper()
	e.Subject = ann
	if err := l.log.Append(l.Context(), e); err != nil {
		l.Fatal(err)
	}
}

func (l turns) waits(node string, write uint64, device string, merges bool) {
	l.Helper()
	l.append(cluster.Entry{Kind: cluster.Waits, Node: node, Write: write, Device: device, Merges: merges})
}

func (l turns) done(node string, write uint64) {
	l.Helper()
	l.append(cluster.Entry{Kind: cluster.Done, Node: node, Write: write})
}

// want asks for a turn of a write that has waited, or has just come. Its device's name goes on if it merges.
func (l turns) want(what, node string, waited uint64, device string, last bool, want cluster.Order) {
	l.Helper()
	turn := &cluster.Turn{Node: node, Device: device[:32], Waited: waited, Merges: len(device) > 32, Last: last}
	grant, err := l.log.Take(l.Context(), cluster.Charge{UserID: ann, Turn: turn}, cluster.Entry{Kind: cluster.Begins, Node: node, Write: 99, Subject: ann})
	if err != nil || grant.Turn != want {
		l.Errorf("%T, %s: %s's write %d: %v, %v, want %v", l.log, what, node, waited, grant.Turn, err, want)
	}
}

var phone, laptop = strings.Repeat("1", 32), strings.Repeat("2", 32)

func testTurns(t *testing.T, log cluster.Log, pass func(time.Duration)) {
	l := turns{t, log, pass}
	l.hear("aa", "bb")
	l.testOrder()
	l.testLate()
}

func (l turns) testOrder() {
	want := func(node string, waited uint64, device string, last bool, want cluster.Order) {
		l.Helper()
		l.want("in order", node, waited, device, last, want)
	}
	want("bb", 0, phone, false, cluster.InTurn)
	l.waits("aa", 1, phone, false)
	want("bb", 0, phone, false, cluster.Behind) // it may fail, and then the other must not be lost
	want("bb", 0, laptop, false, cluster.Behind)
	want("aa", 0, laptop, false, cluster.InTurn) // the node knows of its own by itself
	l.waits("bb", 2, laptop, false)
	want("bb", 2, laptop, false, cluster.Behind)
	l.done("bb", 2)
	l.waits("bb", 3, phone, true) // it needs what the older one leaves
	want("bb", 3, phone+"merges", false, cluster.Behind)
	l.waits("bb", 4, phone, false)
	want("aa", 1, phone, false, cluster.TakenOver)
	want("aa", 1, phone, true, cluster.TakenOver)
	l.done("aa", 1)
	l.waits("aa", 5, phone, false) // in the place of both
	want("bb", 3, phone, false, cluster.TakenOver)
	want("aa", 5, phone, false, cluster.InTurn)
	l.waits("bb", 6, phone, false) // that is on its way
	want("bb", 6, phone, false, cluster.Behind)
	l.done("aa", 5)
	want("bb", 6, phone, false, cluster.InTurn)
	l.done("bb", 6)
	want("aa", 7, phone, false, cluster.InTurn) // of which the server knows nothing
	l.done("aa", 8)
	l.waits("aa", 8, phone, false) // it was told before, by a connection on which something was lost
	want("bb", 0, laptop, false, cluster.InTurn)
}

// testLate: a write for which a newer one hasn't waited is not sent any more, as it would undo that one. So it is when
// its node isn't heard of, for which nobody waits, and when there was no other time.
func (l turns) testLate() {
	sleeps := func() {
		l.Helper()
		l.pass(4 * time.Second)
		l.hear("bb")
	}
	sent := func() {
		l.Helper()
		l.want("sent in vain", "aa", 9, phone, false, cluster.InTurn)
	}
	newer := func(device string) func() {
		return func() {
			l.Helper()
			l.want("it has come", "bb", 0, device, false, cluster.InTurn)
		}
	}
	waited := func(device string, last bool) func() {
		return func() {
			l.Helper()
			l.waits("bb", 20, device[:32], len(device) > 32)
			l.want("it has waited", "bb", 20, device, last, cluster.InTurn)
			l.done("bb", 20)
		}
	}
	for _, tt := range []struct {
		meanwhile string
		happens   []func()
		want      cluster.Order
	}{
		{"its node sleeps", []func(){sleeps}, cluster.InTurn},
		{"a write of the device", []func(){sleeps, newer(phone)}, cluster.Late},
		{"a write of another device", []func(){sleeps, newer(laptop)}, cluster.Late},
		{"one that needs it", []func(){sleeps, newer(phone + "merges")}, cluster.Late},
		{"another device's write waits", []func(){sleeps, func() { l.waits("bb", 20, laptop, false); l.done("bb", 20) }}, cluster.InTurn},
		{"one that has waited is sent", []func(){sleeps, waited(laptop, false)}, cluster.Late},
		{"it was sent in vain before", []func(){sent, sleeps, newer(laptop)}, cluster.Late},
		{"a node ends, with one of another device", []func(){waited(laptop, true)}, cluster.Late},
		{"a node ends, with one that needs it", []func(){waited(phone+"merges", true)}, cluster.Late},
		{"a node ends, and it was sent in vain before", []func(){sent, waited(laptop, true)}, cluster.Late},
		{"a node ends, with one of the same device", []func(){waited(phone, true)}, cluster.TakenOver},
	} {
		l.hear("aa", "bb")
		l.waits("aa", 9, phone, false)
		for _, happens := range tt.happens {
			happens()
		}
		l.want(tt.meanwhile, "aa", 9, phone, false, tt.want)
		if l.hear("aa"); tt.want != cluster.InTurn {
			l.want(tt.meanwhile+": nobody waits for it", "bb", 0, laptop, false, cluster.InTurn)
		}
		l.done("aa", 9)
	}
}

// A write may wait for long, and be tried for long, and keeps its place.
func TestPlacesOfWritesAreKeptForLong(t *testing.T) {
	server := miniredis.RunT(t)
	l := turns{t, openLog(t, server, secret), nil}
	l.hear("aa", "bb")
	l.waits("aa", 1, phone, false)
	for _, asks := range []func(){
		func() {}, func() { l.want("it has waited for long", "aa", 1, phone, false, cluster.InTurn) },
	} {
		asks()
		server.FastForward(20 * time.Hour)
		l.hear("aa", "bb")
		l.want("one that has come later", "bb", 0, laptop, false, cluster.Behind)
	}
}

// Full budgets are full at once, and nobody else's are.
func TestRefilledBudgetsAreFull(t *testing.T) {
	server := miniredis.RunT(t)
	l := openLog(t, server, secret)
	take := func(user string, budget cluster.Budget) int64 {
		t.Helper()
		grant, err := l.Take(t.Context(), cluster.Charge{Budget: budget, UserID: user, Interval: time.Hour, Burst: 1, Most: 1})
		if err != nil {
			t.Fatal(err)
		}
		return grant.Events
	}
	for _, budget := range []cluster.Budget{cluster.Writes, cluster.Reads, cluster.Syncs} {
		if take(ann, budget) != 1 || take(ann, budget) != 0 || take("@bob:hs.test", budget) != 1 {
			t.Fatal("a budget of one isn't one")
		}
	}
	if err := l.Append(t.Context(), cluster.Entry{Kind: cluster.Refilled, Node: "aa", Subject: ann}); err != nil {
		t.Fatal(err)
	}
	for _, budget := range []cluster.Budget{cluster.Writes, cluster.Reads, cluster.Syncs} {
		if take(ann, budget) != 1 || take("@bob:hs.test", budget) != 0 {
			t.Errorf("the budget %c isn't full, or another's is", budget)
		}
	}
}

func TestNodesThatArentHeardOfAreNotCounted(t *testing.T) {
	server := miniredis.RunT(t)
	l := openLog(t, server, secret)
	for after, want := range []int{1, 2, 2, 2, 1} {
		server.SetTime(time.UnixMilli(1_700_000_000_000).Add(time.Duration(after) * time.Second))
		node := "a"
		if after == 1 {
			node = "b"
		}
		if pulled, err := l.Pull(t.Context(), node, cluster.Position{}); err != nil || pulled.Nodes != want {
			t.Errorf("after %d s there are %d nodes, %v, want %d", after, pulled.Nodes, err, want)
		}
	}
}

func TestNodeOfAnotherSecretOrFormatTakesNoPart(t *testing.T) {
	server := miniredis.RunT(t)
	if err := openLog(t, server, secret).Append(t.Context(), cluster.Entry{Kind: cluster.RollCall}); err != nil {
		t.Fatal(err)
	}
	other := openLog(t, server, "x"+secret)
	_, pullErr := other.Pull(t.Context(), "n", cluster.Position{})
	_, takeErr := other.Take(t.Context(), cluster.Charge{Budget: cluster.Writes, UserID: ann, Interval: time.Second, Burst: 1, Most: 1})
	for _, err := range []error{other.Append(t.Context(), cluster.Entry{Kind: cluster.RollCall}), pullErr, takeErr} {
		if !errors.Is(err, cluster.ErrForeign) || !strings.Contains(err.Error(), "another secret") || strings.Contains(err.Error(), secret) {
			t.Errorf("another secret: %v", err)
		}
	}
	server.Set("{mp:test}:id", "2 something else")
	if err := other.Append(t.Context(), cluster.Entry{Kind: cluster.RollCall}); !errors.Is(err, cluster.ErrForeign) || !strings.Contains(err.Error(), "format 2") {
		t.Errorf("another format: %v", err)
	}
}

func TestLogThatIsBegunAnewHasAnotherName(t *testing.T) {
	server := miniredis.RunT(t)
	one, two := openLog(t, server, secret), openLog(t, server, secret)
	position := func(l *log) cluster.Position {
		t.Helper()
		pulled, err := l.Pull(t.Context(), "n", cluster.Position{})
		if err != nil {
			t.Fatal(err)
		}
		pulled.At.Server = "" // this one doesn't say
		return pulled.At
	}
	before := position(one)
	if position(two) != before {
		t.Error("two nodes have two logs")
	}
	server.FlushAll()
	if after := position(two); after.Log == before.Log || position(one) != after {
		t.Errorf("it was %v, and is %v", before, after)
	}
}

// A server that takes no writes closes no connection, but the library does. What it had said was lost, and the log of a node
// told of a connection that had ended.
func TestWhatAServerSaysAgainstAPullIsToldOf(t *testing.T) {
	server := miniredis.RunT(t)
	l := openLog(t, server, secret)
	if _, err := l.Pull(t.Context(), "n", cluster.Position{}); err != nil {
		t.Fatal(err)
	}
	server.SetError("READONLY You can't write against a read only replica.")
	if _, err := l.Pull(t.Context(), "n", cluster.Position{}); err == nil || !strings.Contains(err.Error(), "READONLY") {
		t.Errorf("it says %v", err)
	}
}

// By INFO a server says which one it is. Of one that doesn't, or may not be asked, nobody noticed that another had taken
// over.
func TestServerThatDoesntSayWhichItIsMayBeAnotherWithEachConnection(t *testing.T) {
	l := openLog(t, miniredis.RunT(t), secret) // which doesn't
	server := func() string {
		t.Helper()
		pulled, err := l.Pull(t.Context(), "n", cluster.Position{})
		if err != nil {
			t.Fatal(err)
		}
		return pulled.At.Server
	}
	first := server()
	if again := server(); first == "" || again != first {
		t.Errorf("over one connection the server is %q and then %q", first, again)
	}
	l.hangUp(t.Context(), errUnreadable)
	if another := server(); another == "" || another == first {
		t.Errorf("over another connection the server is %q, and was %q", another, first)
	}
}

func TestScriptsAreSentAgainToAServerThatDoesntKnowThem(t *testing.T) {
	server := miniredis.RunT(t)
	l := openLog(t, server, secret)
	for range 2 {
		if err := l.Append(t.Context(), cluster.Entry{Kind: cluster.RollCall}); err != nil {
			t.Fatal(err)
		}
		if err := l.client.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhoReadsInRedisFindsNoBudgetsUser(t *testing.T) {
	server := miniredis.RunT(t)
	charge := cluster.Charge{Budget: cluster.Reads, UserID: ann, Interval: time.Second, Burst: 9, Most: 1}
	if _, err := openLog(t, server, secret).Take(t.Context(), charge); err != nil {
		t.Fatal(err)
	}
	keys := strings.Join(server.Keys(), " ")
	if strings.Contains(keys, "ann") || !strings.Contains(keys, "{mp:test}:r:") {
		t.Errorf("the keys are %s", keys)
	}
	for _, key := range server.Keys() {
		if strings.Contains(key, ":r:") && (server.TTL(key) <= 0 || server.TTL(key) > 2*time.Second) {
			t.Errorf("a budget that is full in a second is kept for %v", server.TTL(key))
		}
	}
}

// The script and the limiter give the same answers at the same times, to any nodes together.
func TestScriptAndLimiterAgree(t *testing.T) {
	server := miniredis.RunT(t)
	random := testkit.Rand(t)
	nodes := []*log{openLog(t, server, secret), openLog(t, server, secret), openLog(t, server, secret)}
	now := time.UnixMicro(1_700_000_000_000_000)
	agreed := 0
	for round := range 60 {
		limit := anyLimit(t, random)
		limiter, user := policy.NewLimiter(100, now), fmt.Sprint("@", round, ":hs.test")
		for range 50 {
			if random.IntN(10) == 0 { // a reload, or another class
				limit = anyLimit(t, random)
			}
			now = now.Add(time.Duration(random.Int64N(int64(2*limit.Interval()/time.Microsecond)+1)) * time.Microsecond)
			server.SetTime(now)
			charge := cluster.Charge{Budget: cluster.Writes, UserID: user, Interval: limit.Interval(), Burst: int64(limit.Burst()), Most: 1}
			var wait time.Duration
			ok := true
			if random.IntN(8) == 0 {
				charge.Debt = policy.MaxDebt
				limiter.Charge(user, limit, now)
			} else {
				wait, ok = limiter.Take(user, limit, now)
			}
			grant, err := nodes[random.IntN(len(nodes))].Take(t.Context(), charge)
			// What is moved to another limit is rounded, there to a microsecond.
			off := max(grant.Wait-wait, wait-grant.Wait)
			if err != nil || off > 5*time.Microsecond || (grant.Events == 1) != ok && max(grant.Wait, wait) > 5*time.Microsecond {
				t.Fatalf("of %+v the script gives %+v, %v; the limiter %v, %v", limit, grant, err, ok, wait)
			}
			if (grant.Events == 1) != ok {
				break // on the edge, and from now on they have another history
			}
			agreed++
		}
	}
	if agreed < 2500 {
		t.Errorf("they agreed %d times", agreed)
	}
}

// anyLimit returns one of whole microseconds, as the script counts.
func anyLimit(t *testing.T, random *rand.Rand) policy.Limit {
	t.Helper()
	events := []int{1, 2, 5, 10, 100}[random.IntN(5)]
	window := time.Duration(1+random.IntN(3_000_000)) * time.Microsecond * time.Duration(events)
	limit, err := policy.NewLimit(events, window, 1+random.IntN(20))
	if err != nil {
		t.Fatal(err)
	}
	return limit
}

// A raised limit takes effect at once: a budget that is used up under a slow one is full again as soon as under the other.
func TestRaisedLimitTakesEffectAtOnce(t *testing.T) {
	server := miniredis.RunT(t)
	l := openLog(t, server, secret)
	now := time.UnixMilli(1_700_000_000_000)
	take := func(interval time.Duration, burst int64) cluster.Grant {
		t.Helper()
		server.SetTime(now)
		grant, err := l.Take(t.Context(), cluster.Charge{Budget: cluster.Writes, UserID: ann, Interval: interval, Burst: burst, Most: 1})
		if err != nil {
			t.Fatal(err)
		}
		return grant
	}
	for range 5 {
		take(10*time.Second, 5)
	}
	if grant := take(10*time.Second, 5); grant.Wait != 10*time.Second {
		t.Fatalf("used up: %+v", grant)
	}
	if grant := take(5*time.Second, 5); grant.Wait != 5*time.Second {
		t.Errorf("twice as many: %+v", grant)
	}
	now = now.Add(5 * time.Second)
	if grant := take(5*time.Second, 5); grant.Events != 1 {
		t.Errorf("after the wait that was announced: %+v", grant)
	}
	if grant := take(5*time.Second, 8); grant.Events != 1 {
		t.Errorf("three more at once: %+v", grant)
	}
}

// A clock that is behind by much, after another server has taken over, is at worst a used-up budget.
func TestClockThatIsSetBackMakesNobodyWaitForIt(t *testing.T) {
	server := miniredis.RunT(t)
	l := openLog(t, server, secret)
	charge := cluster.Charge{Budget: cluster.Writes, UserID: ann, Interval: time.Minute, Burst: 3, Most: 1}
	now := time.UnixMilli(1_700_000_000_000)
	server.SetTime(now)
	if _, err := l.Take(t.Context(), charge); err != nil {
		t.Fatal(err)
	}
	server.SetTime(now.Add(-24 * time.Hour))
	grant, err := l.Take(t.Context(), charge)
	if err != nil || grant.Events != 0 || grant.Wait != time.Minute {
		t.Errorf("right after it: %+v, %v", grant, err)
	}
	server.SetTime(now.Add(-24*time.Hour + time.Minute))
	if grant, err := l.Take(t.Context(), charge); err != nil || grant.Events != 1 {
		t.Errorf("a minute later: %+v, %v", grant, err)
	}
}

func TestCallsEndByTheirDeadline(t *testing.T) {
	server := miniredis.RunT(t)
	address := server.Addr()
	server.Close()
	c := &Cluster{Addresses: []string{address}, Secret: secret}
	if err := c.Provision(caddyContext()); err != nil {
		t.Fatal(err)
	}
	l := c.Open("test")
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := l.Append(ctx, cluster.Entry{Kind: cluster.RollCall}); err == nil {
		t.Error("a server that isn't there has answered")
	}
}

func TestServerThatDropsBudgetsIsWarnedOf(t *testing.T) {
	const info = "# Memory\r\nmaxmemory:%s\r\nmaxmemory_policy:%s\r\n"
	for _, tt := range []struct {
		maxmemory, policy string
		warns             bool
	}{
		{"0", "allkeys-lru", false}, {"100", "noeviction", false}, {"100", "volatile-ttl", false}, {"100", "allkeys-lru", true}, {"100", "volatile-lru", true},
	} {
		if warning := warningOf(fmt.Sprintf(info, tt.maxmemory, tt.policy)); (warning != "") != tt.warns {
			t.Errorf("%+v: %q", tt, warning)
		}
	}
	if warning := warningOf(""); warning != "" {
		t.Errorf("of a server that says nothing: %q", warning)
	}
}

// What a server answers isn't ours.
func FuzzReadPulled(f *testing.F) {
	f.Add("id", "server", "1", "1-0", "s", "1", int64(1))
	f.Fuzz(func(_ *testing.T, id, server, seq, last, name, value string, nodes int64) {
		entry := []any{last, []any{name, value, "k", value}}
		for _, answer := range [][]any{
			{id, server, seq, nodes, last, []any{entry}}, {id, server, seq, nodes, last, []any{name}}, {id}, {nodes, nodes, nodes, id, nodes, id},
			{id, server, seq, nodes, last, []any{[]any{last, []any{name}}}},
		} {
			readPulled(answer, cluster.Position{})
		}
	})
}
