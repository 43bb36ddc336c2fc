package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// nodes are proxies before one homeserver, as one cluster.
type nodes struct {
	all  []*proxy
	log  *testkit.SharedLog
	logs []*testkit.Logs
}

// newNodes returns so many that have joined and kept nothing yet, but may.
func newNodes(t *testing.T, n int, o *options, rules ClusterRules) *nodes {
	t.Helper()
	c := &nodes{log: testkit.NewSharedLog()}
	rules.Timeout = 50 * time.Millisecond
	for range n {
		p := newProxy(t, o)
		if len(c.all) > 0 {
			p.hs = c.all[0].hs
			p.Client = p.client()
		}
		logger, logs := testkit.NewLogs(slog.LevelInfo)
		c.all, c.logs = append(c.all, p), append(c.logs, logs)
		t.Cleanup(p.memory.Join(c.log.Client(), rules, logger))
	}
	time.Sleep(3 * time.Second) // all have settled
	return c
}

// saysStatus is a write, and says what a read shows then.
func saysStatus(status string) (write, shows string) {
	return fmt.Sprintf(`{"presence":"online","status_msg":%q}`, status), fmt.Sprintf(`{"presence":"online","status_msg":%q}`, status)
}

func TestWriteThroughOneNodeIsSeenThroughTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newNodes(t, 2, &options{Cache: &caching{Settle: ptr(0)}}, ClusterRules{})
		a, b := c.all[0], c.all[1]
		for i := range 5 {
			write, shows := saysStatus(fmt.Sprint(i))
			a.Want(a.Put("alice-token", alice, write), 200, "{}", "matrix_presence; fwd=method")
			b.Want(b.Get("bob-token", alice), 200, shows, "matrix_presence; fwd=miss")
			synctest.Wait() // the write's end is told a moment later
			b.Want(b.Get("bob-token", alice), 200, shows, "")
			b.Want(b.Get("bob-token", alice), 200, shows, "matrix_presence; hit")
		}
	})
}

func TestBudgetOfWritesIsOneOverAllNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newNodes(t, 3, &options{WriteLimit: &rate{Events: 6, Window: time.Minute, Burst: 5}}, ClusterRules{})
		passed := 0
		time.Sleep(100 * time.Millisecond) // no node pulls now: it would tell of writes that are being announced
		for i := range 12 {
			write, _ := saysStatus(fmt.Sprint(i))
			switch resp := c.all[i%3].Put("alice-token", alice, write); resp.StatusCode {
			case 200:
				passed++
			case 429:
				if wait := resp.Header.Get("Retry-After"); wait != "10" {
					t.Errorf("Retry-After is %q", wait)
				}
			default:
				t.Errorf("status %d", resp.StatusCode)
			}
		}
		if passed != 5 {
			t.Errorf("%d writes passed three nodes, of a burst of 5", passed)
		}
		if n := strings.Count(strings.Join(c.log.Entries(), " "), "b"+alice); n != passed {
			t.Errorf("%d writes were announced", n)
		}
	})
}

// However reads are spread over nodes, no more pass in any window than one process would let pass.
func TestBudgetOfReadsIsNeverExceeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := testkit.Rand(t)
		limit := &rate{Events: 100, Window: time.Second, Burst: 600}
		c := newNodes(t, 3, &options{ReadLimit: limit}, ClusterRules{})
		one, _ := policy.NewLimit(limit.Events, limit.Window, limit.Burst)
		judge := policy.NewLimiter(100, time.Now())
		passed, calls := 0, c.log.Calls()
		for range 8000 {
			if random.IntN(10) == 0 {
				time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond)
			}
			if random.IntN(2000) == 0 {
				time.Sleep(20 * time.Second)
			}
			p := c.all[random.IntN(3)]
			if _, ok := p.memory.take(limitRead, &one, bob, p.memory.now()); ok {
				passed++
				if _, ok := judge.Take(bob, one, time.Now()); !ok {
					t.Fatal("a read passed that one process would have refused")
				}
			}
		}
		if passed < 2000 || c.log.Calls()-calls > passed {
			t.Errorf("%d reads passed, for %d calls", passed, c.log.Calls()-calls)
		}
	})
}

// Readers who come at once share what is held at their node: nothing of the budget is lost.
func TestReadsAtOnceLoseNothingOfTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newNodes(t, 2, &options{}, ClusterRules{})
		limit, _ := policy.NewLimit(1, time.Hour, 5000)
		var passed atomic.Int64
		for range 100 {
			for i := range 64 {
				p := c.all[i%2]
				go func() {
					if _, ok := p.memory.take(limitRead, &limit, bob, p.memory.now()); ok {
						passed.Add(1)
					}
				}()
			}
			synctest.Wait()
		}
		// Each node may hold a chunk of 50.
		if n := passed.Load(); n < 4800 || n > 5000 {
			t.Errorf("%d reads passed, of a burst of 5000", n)
		}
	})
}

// The others take a node that stands still for one that is gone, and give out what they kept back for what it holds.
// When it wakes it drops all that it remembers, and spends nothing of that.
func TestNodeThatHasStoodStillSpendsNothingThatItHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newNodes(t, 2, &options{}, ClusterRules{})
		limit, _ := policy.NewLimit(1, time.Hour, 5000)
		take := func() (calls int) {
			synctest.Wait() // for the nodes' pulls
			before := p.log.Calls()
			if _, ok := p.all[0].memory.take(limitRead, &limit, bob, p.all[0].memory.now()); !ok {
				t.Error("a read didn't pass")
			}
			return p.log.Calls() - before
		}
		if first, second := take(), take(); first != 1 || second != 0 {
			t.Fatalf("two reads asked for %d and %d budgets", first, second)
		}
		p.all[0].memory.clusters.current.Load().Flush(0, false)
		if calls := take(); calls != 1 {
			t.Errorf("it asked for %d budgets", calls)
		}
	})
}

// While the log can't be reached, each node has its share, and it is as used up as it was.
func TestBudgetsWithoutTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newNodes(t, 2, &options{WriteLimit: &rate{Events: 6, Window: time.Minute, Burst: 4}}, ClusterRules{Recent: 2 * time.Second})
		write, _ := saysStatus("x")
		for i := range 2 {
			c.all[i].Want(c.all[i].Put("alice-token", alice, write), 200, "{}", "")
		}
		c.log.Fail(errors.New("no connection"))
		time.Sleep(3 * time.Second)
		for _, p := range c.all {
			passed := 0
			for range 5 {
				if p.Put("alice-token", alice, write).StatusCode == 200 {
					passed++
				}
			}
			if passed != 1 {
				t.Errorf("%d writes passed a node with half of 4, of which one was used", passed)
			}
		}
	})
}

func TestReadsWithoutTheLog(t *testing.T) {
	for _, recent := range []time.Duration{2 * time.Second, 0} {
		synctest.Test(t, func(t *testing.T) {
			c := newNodes(t, 2, &options{Cache: &caching{Settle: ptr(0)}}, ClusterRules{Recent: recent})
			b := c.all[1]
			b.Get("bob-token", alice)
			b.Want(b.Get("bob-token", alice), 200, "", "matrix_presence; hit")
			resume := c.log.Pause()
			time.Sleep(time.Second) // it is noticed
			if recent > 0 {
				b.Want(b.Get("bob-token", alice), 200, "", "matrix_presence; hit; ttl=1")
				time.Sleep(time.Second)
				b.Want(b.Get("bob-token", alice), 200, "", "matrix_presence; fwd=miss; stored")
			} else {
				for range 2 {
					b.Want(b.Get("bob-token", alice), 200, "", "matrix_presence; fwd=miss")
				}
			}
			began := time.Now()
			write, shows := saysStatus("written without the log")
			c.all[0].Want(c.all[0].Put("alice-token", alice, write), 200, "{}", "")
			if time.Since(began) > time.Second {
				t.Errorf("a write without the log took %v", time.Since(began))
			}
			resume()
			time.Sleep(time.Second)
			b.Want(b.Get("bob-token", alice), 200, shows, "matrix_presence; fwd=miss")
			time.Sleep(3 * time.Second)
			b.Get("bob-token", alice)
			b.Want(b.Get("bob-token", alice), 200, shows, "matrix_presence; hit")
			for i, logs := range c.logs {
				if logs.Count("can't be reached") != 1 || logs.Count("can be reached") != 2 || logs.Count("dropped") != 1 {
					t.Errorf("node %d logged %v", i, logs.All())
				}
			}
		})
	}
}

// Without the log and without the homeserver nothing is shown either that is older than outage says: others may have written
// meanwhile.
func TestNothingStaleIsShownWithoutTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newNodes(t, 2, &options{Cache: &caching{Settle: ptr(0), StaleIfError: time.Hour}}, ClusterRules{Recent: 2 * time.Second})
		a, b := c.all[0], c.all[1]
		b.Get("bob-token", alice)
		down := func() {
			a.hs.AnswerBy(func(http.ResponseWriter, *http.Request) (bool, error) {
				return true, failed(502, errors.New("no homeserver"))
			})
		}
		down()
		time.Sleep(40 * time.Second)
		if resp := b.Get("bob-token", alice); resp.StatusCode != 200 {
			t.Fatalf("with the log a stale answer is %d", resp.StatusCode)
		}
		a.hs.AnswerBy(nil)
		c.log.Fail(errors.New("no connection"))
		write, shows := saysStatus("written without the log")
		a.Want(a.Put("alice-token", alice, write), 200, "{}", "")
		down()
		if resp := b.Get("bob-token", alice); resp.StatusCode == 200 {
			t.Errorf("%s is shown after a write of %s", bodyOf(resp), shows)
		}
	})
}

// Nor is what another reader has waited for since before a write.
func TestReaderWithoutTheLogSharesNothingFromBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newNodes(t, 2, &options{Cache: &caching{Settle: ptr(0)}}, ClusterRules{Recent: 2 * time.Second})
		a, b := c.all[0], c.all[1]
		b.knows("bob-token")
		c.log.Fail(errors.New("no connection"))
		time.Sleep(2 * time.Second)
		first, release := true, make(chan struct{})
		a.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
			if r.Method != http.MethodGet || !first {
				return false, nil
			}
			first = false
			answer(w, 200, `{"presence":"offline","status_msg":"before"}`)
			<-release
			return true, nil
		})
		var reads sync.WaitGroup
		reads.Go(func() { b.Get("bob-token", alice) })
		synctest.Wait()
		write, shows := saysStatus("written meanwhile")
		a.Want(a.Put("alice-token", alice, write), 200, "{}", "")
		reads.Go(func() { b.Want(b.Get("bob-token", alice), 200, shows, "") })
		time.Sleep(5 * time.Second)
		close(release)
		reads.Wait()
	})
}

// A write whose client leaves before the other nodes know that it waits doesn't wait: it would come after newer ones.
func TestWriteWhoseClientLeavesBeforeItWaitsIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := coalescing()
		o.Homeserver = "synapse"
		c := newNodes(t, 2, o, ClusterRules{})
		a := c.all[0]
		a.Get("alice-phone", bob)
		a.Want(a.Put("alice-token", alice, message(0)), 200, "{}", "matrix_presence; fwd=method")
		a.Want(a.Put("alice-token", alice, message(1)), 200, "{}", "matrix_presence; detail=coalesced")
		resume := c.log.Pause()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		_ = a.gateway.Serve(httptest.NewRecorder(), prepared(request("PUT", statusPath(alice), "alice-phone", message(2)).WithContext(ctx)), a.hs)
		resume()
		if queued, _ := a.memory.pendings.Waits(alice); queued != 1 {
			t.Errorf("%d writes wait, want 1", queued)
		}
	})
}

func TestNodesStartWithoutTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{})
		log := testkit.NewSharedLog()
		log.Fail(errors.New("no connection"))
		logger, _ := testkit.NewLogs(slog.LevelInfo)
		leave := p.memory.Join(log.Client(), ClusterRules{Timeout: 50 * time.Millisecond}, logger)
		write, shows := saysStatus("x")
		p.Want(p.Put("alice-token", alice, write), 200, "{}", "")
		p.Want(p.Get("bob-token", alice), 200, shows, "matrix_presence; fwd=miss")
		if up, ok := p.samples()["cluster_up"]; up != 0 || !ok {
			t.Errorf("cluster_up is %v, %v", up, ok)
		}
		log.Fail(nil)
		time.Sleep(3 * time.Second)
		if s := p.samples(); s["cluster_up"] != 1 || s["cluster_nodes"] != 1 || s["cluster_flushes_total joined"] != 1 || s["cluster_unannounced_writes_total"] != 1 {
			t.Errorf("the samples are %v", s)
		}
		leave()
		p.Want(p.Get("bob-token", alice), 200, shows, "")
		for name := range p.samples() {
			if strings.HasPrefix(name, "cluster_") {
				t.Errorf("a node that has left shows %s", name)
			}
		}
	})
}

func TestTokenThatEndedThroughOneNodeIsRefusedByTheOther(t *testing.T) {
	for _, path := range []string{"logout", "logout/all"} {
		synctest.Test(t, func(t *testing.T) {
			c := newNodes(t, 2, &options{}, ClusterRules{})
			a, b := c.all[0], c.all[1]
			b.Get("bob-token", alice)
			b.Want(b.Get("bob-token", alice), 200, "", "matrix_presence; hit")
			if path == "logout/all" {
				a.Get("bob-token", alice) // it is known whose
			}
			a.Want(a.Do(request("POST", "/_matrix/client/v3/"+path, "bob-token", "{}")), 200, "", "")
			synctest.Wait()
			b.WantError(b.Get("bob-token", alice), 401, "M_UNKNOWN_TOKEN")
		})
	}
}

// Anybody can make tokens up: what they do with them is told nobody.
func TestTokensThatAreMadeUpAreNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newNodes(t, 2, &options{}, ClusterRules{})
		a, before := c.all[0], len(c.log.Entries())
		a.hs.Intercept = func(w http.ResponseWriter, _ *http.Request) (bool, error) {
			answer(w, 500, `{"errcode":"M_UNKNOWN","error":"broken"}`)
			return true, nil
		}
		for i := range 100 {
			for _, path := range []string{"logout", "logout/all", "refresh", "account/password"} {
				a.Do(request("POST", "/_matrix/client/v3/"+path, fmt.Sprint("made-up-", i), `{"refresh_token":"made-up"}`))
			}
		}
		synctest.Wait()
		if entries := c.log.Entries(); len(entries) != before {
			t.Errorf("told: %q", entries[before:])
		}
	})
}

// Nor when the homeserver says that it doesn't know them, as it does each time.
func TestTokensThatTheHomeserverDoesNotKnowAreNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newNodes(t, 2, &options{RepeatWrites: "absorb"}, ClusterRules{})
		a := c.all[0]
		a.Want(a.Get("alice-token", alice), 200, "", "matrix_presence; fwd=miss; stored")
		synctest.Wait()
		before := len(c.log.Entries())
		a.hs.Intercept = func(w http.ResponseWriter, _ *http.Request) (bool, error) {
			answer(w, 401, `{"errcode":"M_UNKNOWN_TOKEN","error":"unknown"}`)
			return true, nil
		}
		send := func(token string) {
			a.Do(request("POST", "/_matrix/client/v3/logout", token, "{}"))
			a.Do(request("PUT", "/_matrix/client/v3/rooms/!r:hs/send/m.room.message/1", token, "{}"))
		}
		for i := range 100 {
			send(fmt.Sprint("made-up-", i))
		}
		synctest.Wait()
		if entries := c.log.Entries(); len(entries) != before {
			t.Errorf("told: %q", entries[before:])
		}
		// Of one that was good the others hear.
		send("alice-token")
		synctest.Wait()
		if told := c.log.Entries()[before:]; !slices.ContainsFunc(told, func(entry string) bool { return strings.HasPrefix(entry, "t") }) {
			t.Errorf("told of a token that has ended elsewhere: %q", told)
		}
	})
}

// What A has taken no node may answer for as if B had not written since.
func TestRepeatIsNoneAfterAWriteThroughAnotherNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newNodes(t, 2, &options{RepeatWrites: "absorb", WriteLimit: &rate{Off: true}}, ClusterRules{})
		a, b := c.all[0], c.all[1]
		busy, _ := saysStatus("busy")
		away, _ := saysStatus("away")
		b.Want(b.Put("alice-token", alice, busy), 200, "{}", "matrix_presence; fwd=method")
		b.Want(b.Put("alice-token", alice, busy), 200, "{}", "matrix_presence; detail=absorbed")
		a.Want(a.Put("alice-token", alice, away), 200, "{}", "matrix_presence; fwd=method")
		b.Want(b.Put("alice-token", alice, busy), 200, "{}", "matrix_presence; fwd=method")
		// A message is an activity, and ends it too.
		synctest.Wait()
		a.Do(request("PUT", "/_matrix/client/v3/"+"rooms/!r:hs/send/m.room.message/1", "alice-token", "{}"))
		synctest.Wait()
		b.Want(b.Put("alice-token", alice, busy), 200, "{}", "matrix_presence; fwd=method")
		// Without the log nobody can tell.
		c.log.Fail(errors.New("no connection"))
		time.Sleep(2 * time.Second)
		b.Put("alice-token", alice, busy)
		b.Want(b.Put("alice-token", alice, busy), 200, "{}", "matrix_presence; fwd=method")
	})
}

func TestMembershipThatChangesThroughOneNodeEndsPermissionsAtTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newNodes(t, 2, &options{}, ClusterRules{})
		a, b := c.all[0], c.all[1]
		b.Get("bob-token", alice)
		b.Want(b.Get("bob-token", alice), 200, "", "matrix_presence; hit")
		a.hs.Mu.Lock()
		a.hs.Hidden[bob+" "+alice] = true
		a.hs.Mu.Unlock()
		a.Do(request("POST", "/_matrix/client/v3/"+"rooms/!r:hs/kick", "alice-token", `{"user_id":"`+bob+`"}`))
		synctest.Wait()
		b.WantError(b.Get("bob-token", alice), 403, "M_FORBIDDEN")
	})
}

// What waits at one node and what waits at another comes in the order in which it was acknowledged, and of a device only
// the newest.
func TestWritesThatWaitAtSeveralNodesComeInTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := coalescing()
		o.Homeserver = "synapse"
		c := newNodes(t, 2, o, ClusterRules{})
		a, b := c.all[0], c.all[1]
		sent := a.hs.bodies()
		a.Want(a.Put("alice-token", alice, message(0)), 200, "{}", "matrix_presence; fwd=method")
		a.Want(a.Put("alice-token", alice, message(1)), 200, "{}", "matrix_presence; detail=coalesced")
		b.Want(b.Put("alice-token", alice, message(2)), 200, "{}", "matrix_presence; detail=coalesced")
		a.Want(a.Put("alice-phone", alice, message(3)), 200, "{}", "matrix_presence; detail=coalesced")
		b.Want(b.Put("alice-phone", alice, message(4)), 200, "{}", "matrix_presence; detail=coalesced")
		time.Sleep(40 * time.Second)
		if got, want := fmt.Sprint(sent()), fmt.Sprint([]string{message(0), message(2), message(4)}); got != want {
			t.Errorf("the homeserver got %s, want %s", got, want)
		}
		a.wantDeliveries(map[string]float64{"superseded": 2})
		b.wantDeliveries(map[string]float64{"delivered": 2})
	})
}

// A node that ends has no time to wait for what waits before its own elsewhere. That one would undo its own, and so is lost: it is
// counted as that, and told of in the log.
func TestWriteForWhichANodeThatEndsHasntWaitedIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := coalescing()
		o.Homeserver = "synapse"
		c := newNodes(t, 2, o, ClusterRules{})
		a, b := c.all[0], c.all[1]
		logs := a.logged()
		sent := a.hs.bodies()
		a.Want(a.Put("alice-token", alice, message(0)), 200, "{}", "matrix_presence; fwd=method")
		a.Want(a.Put("alice-token", alice, message(1)), 200, "{}", "matrix_presence; detail=coalesced")
		b.Want(b.Put("alice-phone", alice, message(2)), 200, "{}", "matrix_presence; detail=coalesced")
		b.reload(o)
		time.Sleep(40 * time.Second)
		if got, want := fmt.Sprint(sent()), fmt.Sprint([]string{message(0), message(2)}); got != want {
			t.Errorf("the homeserver got %s, want %s", got, want)
		}
		a.wantDeliveries(map[string]float64{"lost": 1})
		b.wantDeliveries(map[string]float64{"delivered": 1})
		if n := logs.Count("could not be delivered"); n != 1 {
			t.Errorf("the log tells of it %d times", n)
		}
	})
}

// An admin's purge and forget are of all nodes, and so are full budgets.
func TestWhatAnAdminDropsIsDroppedAtAllNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newNodes(t, 2, &options{WriteLimit: &rate{Events: 1, Window: time.Hour}, Cache: &caching{Settle: ptr(0)}}, ClusterRules{})
		a, b := c.all[0], c.all[1]
		for what, drop := range map[string]func(){
			"purge": func() { a.memory.Purge(alice) }, "purge of all": a.memory.PurgeAll, "forget": func() { a.memory.Forget(alice) },
		} {
			b.Want(b.Get("bob-token", alice), 200, "", "")
			b.Want(b.Get("bob-token", alice), 200, "", "matrix_presence; hit")
			drop()
			synctest.Wait()
			if cacheStatus := b.Get("bob-token", alice).Header.Get("Cache-Status"); !strings.HasPrefix(cacheStatus, "matrix_presence; fwd=miss") {
				t.Errorf("after a %s at the other node: %s", what, cacheStatus)
			}
			time.Sleep(time.Millisecond) // what departs in the same moment isn't kept
		}
		write, _ := saysStatus("x")
		for range 2 {
			b.Want(b.Put("alice-token", alice, write), 200, "{}", "")
			if status := a.Put("alice-token", alice, write).StatusCode; status != 429 {
				t.Errorf("status %d", status)
			}
			a.memory.Reset(alice)
			synctest.Wait()
		}
	})
}

// A site without a cluster pays nothing for it.
func TestReadWithoutAClusterMakesNoCall(t *testing.T) {
	p := newProxy(t, &options{})
	p.Get("bob-token", alice)
	if n := testing.AllocsPerRun(100, func() {
		if p.memory.trusts() != trustAll {
			t.Fatal("it is not trusted")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// During a reload a memory is part of two clusters, and after one that failed of the first again.
func TestMemoryIsPartOfTheClusterThatItJoinedLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{})
		logger, _ := testkit.NewLogs(slog.LevelInfo)
		rules := ClusterRules{Timeout: 50 * time.Millisecond}
		first, second := testkit.NewSharedLog(), testkit.NewSharedLog()
		leaveFirst := p.memory.Join(first.Client(), rules, logger)
		leaveSecond := p.memory.Join(second.Client(), rules, logger)
		write, _ := saysStatus("x")
		tells := func(log *testkit.SharedLog) bool {
			before := len(log.Entries())
			p.Put("alice-token", alice, write)
			synctest.Wait()
			return len(log.Entries()) > before
		}
		if !tells(second) {
			t.Error("a write isn't announced to the second")
		}
		leaveSecond()
		if !tells(first) {
			t.Error("a write isn't announced to the first again")
		}
		leaveFirst()
		if tells(first) {
			t.Error("a write is announced to a cluster that the memory has left")
		}
	})
}

// Reads and writes through any node, one after the other: each read shows the last write.
func TestRandomNodesShowTheLastWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := testkit.Rand(t)
		c := newNodes(t, 3, &options{WriteLimit: &rate{Off: true}, Cache: &caching{Settle: ptr(0)}}, ClusterRules{})
		hits, last := 0, ""
		trouble := []func(){
			func() { c.log.Lose() }, func() { c.log.Promote(random.IntN(3)) }, func() { c.log.Trim() },
			func() { defer c.log.Pause()(); time.Sleep(time.Duration(random.IntN(3000)) * time.Millisecond) },
		}
		for i := range 3000 {
			p := c.all[random.IntN(3)]
			switch n := random.IntN(100); {
			case n < 10 || last == "":
				var write string
				write, last = saysStatus(fmt.Sprint(i))
				p.Want(p.Put("alice-token", alice, write), 200, "{}", "")
			case n == 10:
				testkit.Pick(random, trouble...)()
			case n < 20:
				time.Sleep(time.Duration(random.IntN(400)) * time.Millisecond)
			default:
				resp := p.Get("bob-token", alice)
				if strings.Contains(resp.Header.Get("Cache-Status"), "hit") {
					hits++
				}
				if body := bodyOf(resp); body != last {
					t.Fatalf("read %d (%s) shows %s, want %s", i, resp.Header.Get("Cache-Status"), body, last)
				}
			}
		}
		if hits < 30 {
			t.Errorf("only %d hits", hits)
		}
	})
}

// A write is in flight when a reload has its node join a cluster, or another one. Nobody in there knew of it: another
// node remembered the old state, and showed it after the write was acknowledged.
func TestWriteInFlightWhenANodeJoinsIsAnnounced(t *testing.T) {
	for name, first := range map[string]bool{"of none": false, "of another": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newNodes(t, 1, &options{Cache: &caching{Settle: ptr(0)}}, ClusterRules{})
				b := c.all[0]
				a := newProxy(t, &options{Cache: &caching{Settle: ptr(0)}})
				a.hs = b.hs
				a.Client = a.client()
				join := func(log *testkit.SharedLog) {
					logger, _ := testkit.NewLogs(slog.LevelInfo)
					t.Cleanup(a.memory.Join(log.Client(), ClusterRules{Timeout: 50 * time.Millisecond}, logger))
				}
				if first {
					join(testkit.NewSharedLog())
				}
				a.Get("alice-token", alice) // whose the token is, is known
				arrived, hold, over := make(chan struct{}), make(chan struct{}), make(chan struct{})
				a.hs.AnswerBy(func(_ http.ResponseWriter, r *http.Request) (bool, error) {
					if r.Method == http.MethodPut {
						close(arrived)
						<-hold
					}
					return false, nil
				})
				write, shows := saysStatus("new")
				go func() {
					defer close(over)
					a.Want(a.Put("alice-token", alice, write), 200, "{}", "")
				}()
				<-arrived
				join(c.log)
				time.Sleep(3 * time.Second)
				b.Get("bob-token", alice)
				b.Want(b.Get("bob-token", alice), 200, "", "matrix_presence; hit")
				close(hold)
				<-over
				b.Want(b.Get("bob-token", alice), 200, shows, "matrix_presence; fwd=miss")
			})
		})
	}
}

// A write was announced before its body had come. Whoever sent bodies that never came, of a few writes a minute, had all
// nodes count ever more of them as in flight, and say so again and again in the log that all share.
func TestWriteIsAnnouncedOnceItsBodyIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newNodes(t, 2, new(options), ClusterRules{})
		p := c.all[0]
		p.Get("alice-token", alice)
		announced := func() int { return strings.Count(strings.Join(c.log.Entries(), " "), "b"+alice) }
		body, send := io.Pipe()
		r := request("PUT", statusPath(alice), "alice-token", "")
		r.Body, r.ContentLength = body, -1
		over := make(chan struct{})
		go func() {
			defer close(over)
			p.Want(p.Do(r), 200, "{}", "matrix_presence; fwd=method")
		}()
		time.Sleep(time.Minute)
		if n := announced(); n != 0 {
			t.Errorf("%d entries of a write whose body hasn't come", n)
		}
		_, _ = io.WriteString(send, `{"presence":"online"}`)
		_ = send.Close()
		<-over
		if n := announced(); n != 1 {
			t.Errorf("%d writes were announced, want 1", n)
		}
	})
}

// Each node remembers for a while that a shared budget of reads is used up, or what is left of a part of it. After a
// reload to another limit, or in another class, that was the old limit's: for up to an hour.
func TestAnotherLimitOfReadsTakesEffectAtOnceInACluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scarce, ample := &rate{Events: 1, Window: time.Hour, Burst: 1}, &rate{Events: 100, Window: time.Second, Burst: 5000}
		p := newNodes(t, 2, &options{ReadLimit: scarce}, ClusterRules{}).all[0]
		p.Want(p.Get("bob-token", alice), 200, "", "")
		p.WantError(p.Get("bob-token", alice), 429, "M_LIMIT_EXCEEDED")
		p.reload(&options{ReadLimit: ample})
		p.Want(p.Get("bob-token", alice), 200, "", "")
		for range 20 {
			p.Want(p.Get("alice-token", alice), 200, "", "")
		}
		p.reload(&options{ReadLimit: scarce})
		p.Get("alice-token", alice)
		p.WantError(p.Get("alice-token", alice), 429, "M_LIMIT_EXCEEDED")
	})
}

// A reload to a cluster with another secret fails, and tokens have their names of before: what another node says of
// one that ended is understood. And what ended meanwhile has.
func TestTokensHaveTheirNamesAgainAfterAReloadThatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newNodes(t, 2, &options{}, ClusterRules{Secret: [32]byte{1}})
		a, b := c.all[0], c.all[1]
		logger, _ := testkit.NewLogs(slog.LevelInfo)
		b.Get("bob-token", alice)
		b.Get("alice-token", bob)
		other := testkit.NewSharedLog()
		other.Fail(errors.New("no connection"))
		leave := b.memory.Join(other.Client(), ClusterRules{Timeout: 50 * time.Millisecond, Secret: [32]byte{2}}, logger)
		b.Want(b.Do(request("POST", "/_matrix/client/v3/logout", "alice-token", "{}")), 200, "", "")
		leave()
		time.Sleep(2 * time.Second)
		b.Want(b.Get("alice-phone", bob), 200, "", "") // another token of hers
		b.WantError(b.Get("alice-token", bob), 401, "M_UNKNOWN_TOKEN")
		b.Get("bob-token", alice)
		b.Want(b.Get("bob-token", alice), 200, "", "matrix_presence; hit")
		a.Get("bob-token", alice)
		a.Want(a.Do(request("POST", "/_matrix/client/v3/logout", "bob-token", "{}")), 200, "", "")
		synctest.Wait()
		b.WantError(b.Get("bob-token", alice), 401, "M_UNKNOWN_TOKEN")
	})
}

// An access token ends by the use of its refresh token (tuwunel), or by the revocation of that, and who refreshes
// need not show it. Only the node that had seen both given out knew which one that is, and told nobody.
func TestTokenThatIsRefreshedThroughOneNodeIsRefusedByTheOther(t *testing.T) {
	for name, tc := range map[string]struct {
		login           int // the node through which it was given out
		path, body      string
		readsAtTheOther bool // it isn't known which token was named
	}{
		"refreshed where it was given out":     {0, clientAPI + "refresh", `{"refresh_token":"r1"}`, false},
		"refreshed elsewhere":                  {1, clientAPI + "refresh", `{"refresh_token":"r1"}`, false},
		"revoked where it was given out":       {0, "/oauth2/revoke", "token=r1", false},
		"a refresh token of somebody else's":   {0, clientAPI + "refresh", `{"refresh_token":"r2"}`, true},
		"revoked where nobody knows of either": {1, "/oauth2/revoke", "token=r1", true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newNodes(t, 2, new(options), ClusterRules{})
				a, b := c.all[0], c.all[1]
				a.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if strings.Contains(r.URL.Path, "/presence/") || strings.HasSuffix(r.URL.Path, "/whoami") {
						return false, nil
					}
					_, _ = io.Copy(io.Discard, r.Body)
					if strings.HasSuffix(r.URL.Path, "/login") {
						answer(w, 200, `{"user_id":"@alice:example.com","access_token":"alice-token","refresh_token":"r1"}`)
						return true, nil
					}
					a.hs.Mu.Lock()
					delete(a.hs.Tokens, "alice-token")
					a.hs.Mu.Unlock()
					answer(w, 200, `{"access_token":"alice-phone","refresh_token":"r3"}`)
					return true, nil
				})
				c.all[tc.login].Do(request("POST", clientAPI+"login", "", "{}"))
				time.Sleep(2 * time.Second) // the other node is told of the login, which settles
				b.Get("alice-token", bob)
				if n := b.lookupsOf("alice-token"); n != 0 {
					t.Errorf("%d lookups, want 0", n)
				}
				a.Do(request("POST", tc.path, "", tc.body))
				synctest.Wait()
				want := 401
				if tc.readsAtTheOther {
					want = 200
				}
				if resp := b.Get("alice-token", bob); resp.StatusCode != want {
					t.Errorf("at the other node: %d, want %d", resp.StatusCode, want)
				}
			})
		})
	}
}
