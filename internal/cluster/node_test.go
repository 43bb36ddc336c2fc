package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/cluster"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

const (
	timeout = 50 * time.Millisecond
	alice   = "@alice:hs"
)

// node is a node, with the memory that it tells.
type node struct {
	*cluster.Node
	memory
}

// record is what was told, in order.
type record struct {
	mu   sync.Mutex // guards all below
	told []string
}

func (r *record) tell(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = append(r.told, fmt.Sprintf(format, args...))
}

// take returns what was told since it was last called.
func (r *record) take() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	told := strings.Join(r.told, ", ")
	r.told = nil
	return told
}

// memory writes down what it is told, and apart from that how many nodes there are.
type memory struct {
	record
	counted record
}

type fence struct {
	n    *memory
	user string
}

func (f fence) End() { f.n.tell("end %s", f.user) }

// reporter is what a node calls.
type reporter struct{ *memory }

func (r reporter) Begin(userID string) cluster.Fence {
	r.tell("begin %s", userID)
	return fence{r.memory, userID}
}
func (r reporter) Active(userID string)            { r.tell("active %s", userID) }
func (r reporter) TokenEnded(token string)         { r.tell("token %s", token) }
func (r reporter) UserEnded(userID string)         { r.tell("user %s", userID) }
func (r reporter) MembershipChanged(userID string) { r.tell("member %s", userID) }
func (r reporter) Purged(userID string)            { r.tell("purge %s", userID) }
func (r reporter) Forgotten(userID string)         { r.tell("forget %s", userID) }
func (r reporter) Refilled(userID string)          { r.tell("refill %s", userID) }
func (r reporter) Flush(d time.Duration, missed bool) {
	r.tell("flush for %v missed %v", d, missed)
}
func (r reporter) Up(int)                    { r.tell("up") }
func (r reporter) Warn(message string)       { r.tell("%s", message) }
func (r reporter) Down(error)                { r.tell("down") }
func (r reporter) Nodes(were, are int)       { r.counted.tell("%d nodes, then %d", were, are) }
func (r reporter) Flushed(why cluster.Doubt) { r.tell("%s", cluster.DoubtNames[why]) }

// join returns a node of a log that has come to its end.
func join(t *testing.T, log *testkit.SharedLog) *node {
	t.Helper()
	n := new(node)
	n.Node = cluster.NewNode(log.Client(), cluster.Rules{Timeout: timeout}, reporter{&n.memory}, reporter{&n.memory}, time.Now)
	t.Cleanup(n.Close)
	synctest.Wait()
	n.take()
	return n
}

// pass fails the test if a barrier fails.
func (n *node) pass(t *testing.T) {
	t.Helper()
	if err := n.Barrier(); err != nil {
		t.Fatal(err)
	}
}

func begin(t *testing.T, n *node) *cluster.Write {
	t.Helper()
	w, _, err := n.Begin(t.Context(), alice, nil)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestReaderHearsOfAnothersWriteBeforeItIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := testkit.NewSharedLog()
		a, b := join(t, log), join(t, log)
		w := begin(t, a)
		b.pass(t)
		want(t, "a write that has begun", b.take(), "begin @alice:hs")
		w.End(t.Context())
		synctest.Wait()
		b.pass(t)
		want(t, "it has ended", b.take(), "end @alice:hs")
		a.pass(t)
		want(t, "the writer hears of its own", a.take(), "")
	})
}

func TestWhatElseIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := testkit.NewSharedLog()
		a, b := join(t, log), join(t, log)
		for kind, says := range map[cluster.Kind]string{
			cluster.Active: "active x", cluster.TokenEnded: "token x", cluster.UserEnded: "user x", cluster.Membership: "member x",
			cluster.Purged: "purge x", cluster.Forgotten: "forget x", cluster.Refilled: "refill x",
			cluster.Ends: "begin x, end x", cluster.Flush: "flush for 1s missed true, told", '?': "flush for 1s missed true, told",
		} {
			a.Tell(kind, "x")
			synctest.Wait()
			b.pass(t)
			want(t, string(rune(kind)), b.take(), says)
		}
	})
}

// The bug that the barrier must not have.
func TestWhoComesNeverJoinsThePullInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := testkit.NewSharedLog()
		b := join(t, log)
		resume := log.Pause()
		passed := make(chan string, 3)
		pass := func(name string) {
			go func() {
				if err := b.Barrier(); err == nil {
					passed <- name
				}
			}()
			synctest.Wait()
		}
		calls := log.Calls()
		pass("first")
		pass("second") // waits for the next one
		pass("third")  // with it
		if n := log.Calls() - calls; n != 1 {
			t.Errorf("%d pulls in flight", n)
		}
		resume()
		synctest.Wait()
		if n := log.Calls() - calls; n != 2 || len(passed) != 3 {
			t.Errorf("%d pulls let %d readers pass, want 2 and 3", n, len(passed))
		}
	})
}

func TestMemoryIsDroppedWhereEntriesMayBeMissing(t *testing.T) {
	for why, loses := range map[string]func(log *testkit.SharedLog, a *node, w *cluster.Write){
		"gap": func(log *testkit.SharedLog, a *node, _ *cluster.Write) {
			a.Tell(cluster.Active, "x")
			synctest.Wait()
			log.Trim()
		},
		"other_log": func(log *testkit.SharedLog, _ *node, _ *cluster.Write) { log.Lose() },
		"promotion": func(log *testkit.SharedLog, _ *node, _ *cluster.Write) { log.Promote(1) },
	} {
		t.Run(why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := testkit.NewSharedLog()
				a, b := join(t, log), join(t, log)
				w := begin(t, a) // of which the log keeps nothing
				loses(log, a, w)
				b.pass(t)
				if told := b.take(); !strings.HasSuffix(told, "flush for 1s missed true, "+why) {
					t.Errorf("told %q", told)
				}
				// By the end of that second the write in flight is told again.
				time.Sleep(time.Second)
				b.pass(t)
				if told := b.take(); !strings.Contains(told, "begin @alice:hs") {
					t.Errorf("nothing was told of the write in flight: %q", told)
				}
				// What was told again ends.
				w.End(t.Context())
				synctest.Wait()
				b.pass(t)
				if told := b.take(); !strings.Contains(told, "end @alice:hs") {
					t.Errorf("the write in flight doesn't end: %q", told)
				}
			})
		})
	}
}

// Until the roll is answered, nobody may be told that a write is over before the others are.
func TestEndIsToldFirstWhereOthersMayNotKnowOfTheWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := testkit.NewSharedLog()
		a, b := join(t, log), join(t, log)
		w := begin(t, a)
		log.Promote(1)
		b.pass(t)
		a.pass(t) // hears of the other server
		b.pass(t)
		b.take()
		late := begin(t, a)
		late.End(t.Context())
		w.End(t.Context())
		if entries := strings.Join(log.Entries(), " "); !strings.Contains(entries, "b@alice:hs") {
			t.Errorf("the log has %s", entries)
		}
	})
}

func TestNodeThatJoinsHearsOfWritesInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := testkit.NewSharedLog()
		a := join(t, log)
		w := begin(t, a)
		b := join(t, log)
		time.Sleep(time.Second) // nothing is kept until then
		b.pass(t)
		want(t, "the write in flight", b.take(), "begin @alice:hs")
		w.End(t.Context())
	})
}

// Nobody believes what they remember after a silence for which writes are held up.
func TestWriteIsHeldUpForAsLongAsOthersMayBelieveTheirMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := testkit.NewSharedLog()
		a, b := join(t, log), join(t, log)
		time.Sleep(time.Second)
		resume := log.Pause()
		began := time.Now()
		w := begin(t, a)
		if held := time.Since(began); held < time.Second+2*timeout || held > 2*time.Second {
			t.Errorf("held up for %v", held)
		}
		began = time.Now()
		w.End(t.Context())
		begin(t, a).End(t.Context())
		if time.Since(began) > 0 {
			t.Error("the next write is held up too")
		}
		if n := a.Stats().Unannounced.Load(); n != 2 {
			t.Errorf("%d writes count as unannounced", n)
		}
		want(t, "the loss of the log", a.take(), "down")
		resume()
		b.take()
		time.Sleep(time.Second)
		if told := b.take(); !strings.Contains(told, "up, flush for 1s missed false, silence") || !strings.Contains(told, "begin @alice:hs, end @alice:hs") {
			t.Errorf("afterwards: %q", told)
		}
	})
}

func TestShortTroubleCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := testkit.NewSharedLog()
		a, b := join(t, log), join(t, log)
		resume := log.Pause()
		time.AfterFunc(300*time.Millisecond, resume)
		w := begin(t, a)
		b.pass(t)
		if told := b.take(); strings.Contains(told, "flush") || !strings.Contains(told, "begin @alice:hs") {
			t.Errorf("told %q", told)
		}
		w.End(t.Context())
	})
}

// A node that comes, and one that isn't heard of any more, is one line at each other node. That the log was away is none.
func TestNodesThatComeAndGoAreToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := testkit.NewSharedLog()
		a := join(t, log)
		time.Sleep(10 * time.Second)
		want(t, "a node is alone", a.counted.take(), "")
		b := join(t, log)
		time.Sleep(10 * time.Second)
		want(t, "another has come", a.counted.take(), "1 nodes, then 2")
		resume := log.Pause()
		time.Sleep(10 * time.Second)
		resume()
		time.Sleep(10 * time.Second)
		if counted := a.counted.take(); counted != "" && counted != "1 nodes, then 2" { // if it was the first that came back
			t.Errorf("the log was away: %q", counted)
		}
		b.counted.take()
		b.Close()
		time.Sleep(10 * time.Second)
		want(t, "it has gone", a.counted.take(), "2 nodes, then 1")
		want(t, "the one that has gone", b.counted.take(), "")
	})
}

func TestBarrierDoesntWaitWhileTheLogCantBeReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := testkit.NewSharedLog()
		a := join(t, log)
		log.Fail(errors.New("no connection"))
		for range 3 {
			if a.Barrier() == nil {
				t.Error("passed without a log")
			}
		}
		want(t, "three calls failed", a.take(), "down")
		calls := log.Calls()
		if err := a.Barrier(); !errors.Is(err, cluster.ErrDown) || log.Calls() != calls {
			t.Errorf("%v after %d calls more", err, log.Calls()-calls)
		}
		if _, err := a.Take(cluster.Charge{}); !errors.Is(err, cluster.ErrDown) {
			t.Error(err)
		}
		log.Fail(nil)
		time.Sleep(time.Second)
		a.pass(t)
	})
}

func TestNodeStartsWithoutALog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := testkit.NewSharedLog()
		log.Fail(fmt.Errorf("%w: another secret", cluster.ErrForeign))
		a := join(t, log)
		began := time.Now()
		begin(t, a).End(t.Context())
		if time.Since(began) > 2*time.Second || a.Up() {
			t.Errorf("a write took %v; up: %v", time.Since(began), a.Up())
		}
		log.Fail(nil)
		time.Sleep(time.Second)
		want(t, "the log is there", a.take(), "up, flush for 1s missed true, joined")
	})
}

// The node of a write is gone, or is cut off.
func TestWriteOfWhichNothingMoreIsSaidEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := testkit.NewSharedLog()
		b := join(t, log)
		if err := log.Client().Append(t.Context(), cluster.Entry{Kind: cluster.Begins, Node: "gone", Write: 1, Subject: alice}); err != nil {
			t.Fatal(err)
		}
		a := join(t, log)
		w := begin(t, a)
		time.Sleep(61 * time.Second)
		want(t, "after a minute", b.take(), "begin @alice:hs, begin @alice:hs, end @alice:hs")
		w.End(t.Context()) // which its node has said again and again
		time.Sleep(time.Second)
		want(t, "the other one", b.take(), "end @alice:hs")
	})
}

func TestBudgetIsTakenInTheStepOfTheAnnouncement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := testkit.NewSharedLog()
		a, b := join(t, log), join(t, log)
		charge := cluster.Charge{Budget: cluster.Writes, UserID: alice, Interval: time.Minute, Burst: 1, Most: 1}
		calls := log.Calls()
		w, grant, err := a.Begin(t.Context(), alice, &charge)
		if w == nil || err != nil || grant.Events != 1 || log.Calls() != calls+1 {
			t.Fatalf("%v %+v %v, %d calls", w, grant, err, log.Calls()-calls)
		}
		w.End(t.Context())
		w, grant, err = b.Begin(t.Context(), alice, &charge)
		if w != nil || err != nil || grant.Wait != time.Minute {
			t.Errorf("the second: %v %+v %v", w, grant, err)
		}
		synctest.Wait()
		if entries := log.Entries(); slices.Contains(entries[len(entries)-1:], "b"+alice) {
			t.Errorf("what was refused is announced: %q", entries)
		}
	})
}

// A write that has waited is not sent in doubt whether it is its turn: another may have taken its place.
func TestWriteThatWaitedIsntBegunInDoubt(t *testing.T) {
	device := strings.Repeat("1", 32)
	for name, tt := range map[string]struct {
		last    bool
		trouble time.Duration // that has lasted
		want    cluster.Order
		begun   bool
	}{
		"a call takes too long":                {want: cluster.Behind},
		"calls fail":                           {trouble: 700 * time.Millisecond, want: cluster.Behind},
		"the log is gone":                      {trouble: 3 * time.Second, want: cluster.InTurn, begun: true},
		"a call takes too long, the last time": {last: true, want: cluster.TakenOver},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := testkit.NewSharedLog()
				a, b := join(t, log), join(t, log)
				waiting := a.Wait(t.Context(), alice, device, false)
				newer := b.Wait(t.Context(), alice, device, false) // in its place
				if waiting == nil || newer == nil {
					t.Fatal("the log doesn't know of a write that waits")
				}
				resume := log.Pause()
				time.Sleep(tt.trouble)
				if tt.trouble < time.Second {
					time.AfterFunc(timeout+timeout/2, resume)
				}
				write, order := waiting.Begin(t.Context(), tt.last)
				if order != tt.want || (write != nil) != tt.begun {
					t.Errorf("%v, %v", order, write)
				}
				resume()
				if write != nil {
					write.End(t.Context())
				}
				time.Sleep(time.Second)
				if entries := log.Entries(); !slices.Contains(entries, "e"+alice) {
					t.Errorf("nobody is told that it is over, as it may have been announced: %q", entries)
				}
				if write, order := waiting.Begin(t.Context(), false); write != nil || order != cluster.TakenOver {
					t.Errorf("asked again: %v, %v", order, write)
				}
			})
		})
	}
}

// One that has just come isn't either: an older one that waits elsewhere would come after it, and undo it.
func TestWriteThatHasJustComeIsntBegunInDoubt(t *testing.T) {
	phone, laptop := strings.Repeat("1", 32), strings.Repeat("2", 32)
	for name, tt := range map[string]struct {
		trouble time.Duration // that has lasted
		nobody  bool          // waits elsewhere
		begun   bool
	}{
		"a call takes too long":                   {},
		"calls fail":                              {trouble: 700 * time.Millisecond},
		"the log is gone":                         {trouble: 3 * time.Second, begun: true},
		"a call takes too long, and nobody waits": {nobody: true, begun: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := testkit.NewSharedLog()
				a, b := join(t, log), join(t, log)
				if older := a.Wait(t.Context(), alice, phone, false); tt.nobody {
					older.Done()
					synctest.Wait()
				}
				resume := log.Pause()
				time.Sleep(tt.trouble)
				if tt.trouble < time.Second {
					time.AfterFunc(timeout+timeout/2, resume)
				}
				charge := cluster.Charge{
					Budget: cluster.Writes, UserID: alice, Interval: time.Minute, Burst: 9, Most: 1, Turn: &cluster.Turn{Device: laptop},
				}
				write, grant, err := b.Begin(t.Context(), alice, &charge)
				if (write != nil) != tt.begun || (err != nil) != tt.begun || (grant.Turn == cluster.Behind) == tt.begun || !tt.begun && grant.Wait == 0 {
					t.Errorf("%v, %+v, %v", write, grant, err)
				}
				resume()
				if write != nil {
					write.End(t.Context())
				}
				time.Sleep(time.Second)
				if entries := log.Entries(); !slices.Contains(entries, "e"+alice) {
					t.Errorf("nobody is told that it is over, as it may have been announced: %q", entries)
				}
			})
		})
	}
}

// A write has its place though the first call that was to tell of it has failed.
func TestWriteWaitsInItsPlaceThoughACallHasFailed(t *testing.T) {
	phone, laptop := strings.Repeat("1", 32), strings.Repeat("2", 32)
	synctest.Test(t, func(t *testing.T) {
		log := testkit.NewSharedLog()
		a, b := join(t, log), join(t, log)
		time.AfterFunc(timeout+timeout/2, log.Pause())
		waiting := a.Wait(t.Context(), alice, phone, false)
		if waiting == nil {
			t.Fatal("the log doesn't know of it")
		}
		newer := b.Wait(t.Context(), alice, laptop, false)
		if _, order := newer.Begin(t.Context(), false); order != cluster.Behind {
			t.Errorf("the one that came later: %v", order)
		}
		waiting.Done()
		time.Sleep(time.Second)
		if write, order := newer.Begin(t.Context(), false); order != cluster.InTurn {
			t.Errorf("once the other is done: %v", order)
		} else {
			write.End(t.Context())
		}
		log.Fail(errors.New("no connection"))
		time.Sleep(3 * time.Second)
		began := time.Now()
		if a.Wait(t.Context(), alice, phone, false) != nil || time.Since(began) != 0 {
			t.Errorf("while the log is gone it took %v", time.Since(began))
		}
	})
}

// lateLog is a log to which what is to be told of writes that wait comes late: the caller has been told that it failed.
type lateLog struct {
	cluster.Log
	late []func()
}

func (l *lateLog) Append(ctx context.Context, entries ...cluster.Entry) error {
	if entries[0].Kind != cluster.Waits || len(l.late) > 0 {
		return l.Log.Append(ctx, entries...)
	}
	l.late = append(l.late, func() { _ = l.Log.Append(context.Background(), entries...) })
	return errors.New("it took too long")
}

// What a call says that has failed may come after all, also after what was told since. Nobody waits for a write then
// that waits no more.
func TestWriteThatWaitsNoMoreDoesntWaitAgain(t *testing.T) {
	phone, laptop := strings.Repeat("1", 32), strings.Repeat("2", 32)
	synctest.Test(t, func(t *testing.T) {
		log := testkit.NewSharedLog()
		late := &lateLog{Log: log.Client()}
		a := cluster.NewNode(late, cluster.Rules{Timeout: timeout}, reporter{new(memory)}, reporter{new(memory)}, time.Now)
		t.Cleanup(a.Close)
		b := join(t, log)
		waiting := a.Wait(t.Context(), alice, phone, false)
		waiting.Done()
		synctest.Wait()
		late.late[0]()
		charge := cluster.Charge{UserID: alice, Budget: cluster.Writes, Interval: time.Minute, Burst: 9, Most: 1, Turn: &cluster.Turn{Device: laptop}}
		write, grant, err := b.Begin(t.Context(), alice, &charge)
		if write == nil || grant.Turn != cluster.InTurn || err != nil {
			t.Fatalf("%v, %+v, %v", write, grant, err)
		}
		write.End(t.Context())
	})
}

// refusingLog is a log that takes nothing but pulls, as an ACL may have it.
type refusingLog struct{ cluster.Log }

func (refusingLog) Append(context.Context, ...cluster.Entry) error { return errors.New("NOPERM") }

// A log that takes nothing, and can be reached, holds no write up for longer than one that can't.
func TestLogThatTakesNothingHoldsNoWriteUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := testkit.NewSharedLog()
		n := cluster.NewNode(refusingLog{log.Client()}, cluster.Rules{Timeout: timeout}, reporter{new(memory)}, reporter{new(memory)}, time.Now)
		t.Cleanup(n.Close)
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		write, _, err := n.Begin(ctx, alice, nil)
		if took := time.Since(began); write == nil || err != nil || took > 2*time.Second {
			t.Errorf("%v, %v, after %v", write, err, took)
		}
		began = time.Now()
		write.End(ctx)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("its end took %v", took)
		}
	})
}

// A configuration without the cluster takes over the writes that wait. Once none of them was sent any more.
func TestWriteThatWaitedIsBegunByWhoHasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := testkit.NewSharedLog()
		a := join(t, log)
		waiting := a.Wait(t.Context(), alice, strings.Repeat("1", 32), false)
		a.Close()
		resume := log.Pause() // its connections are closed
		defer resume()
		write, order := waiting.Begin(t.Context(), false)
		if order != cluster.InTurn || write == nil {
			t.Fatalf("%v, %v", order, write)
		}
		write.End(t.Context())
	})
}

// What can't be told while the log is away becomes one thing: drop everything.
func TestOutboxIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := testkit.NewSharedLog()
		a, b := join(t, log), join(t, log)
		log.Fail(errors.New("no connection"))
		for i := range 25_000 {
			a.Tell(cluster.UserEnded, fmt.Sprint("@", i, ":hs"))
		}
		time.Sleep(time.Second)
		b.take()
		log.Fail(nil)
		time.Sleep(time.Second)
		b.pass(t)
		told := b.take()
		if n := strings.Count(told, "user "); n != 5000 || !strings.Contains(told, "flush for 1s missed true, told") || strings.Contains(told, "@19999:hs") {
			t.Errorf("%d users, beginning with %.200q", n, told)
		}
	})
}

// What is told before the log goes away, and 10,000 things after it, is dropped. The others believed on whose a token is
// and who may see whom, as if nothing of that could have been among it.
func TestFullOutboxHasOthersDoubtAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := testkit.NewSharedLog()
		a, b := join(t, log), join(t, log)
		phone, laptop := strings.Repeat("1", 32), strings.Repeat("2", 32)
		waiting := a.Wait(t.Context(), alice, phone, false)
		log.Fail(errors.New("no connection"))
		a.Tell(cluster.TokenEnded, "x")
		a.Tell(cluster.Refilled, "@refilled:hs")
		waiting.Done()
		for i := range 10_000 {
			a.Tell(cluster.Active, fmt.Sprint("@", i, ":hs"))
		}
		time.Sleep(time.Second)
		b.take()
		log.Fail(nil)
		time.Sleep(time.Second)
		b.pass(t)
		told := b.take()
		if strings.Contains(told, "token x") || !strings.Contains(told, "flush for 1s missed true, told") {
			t.Errorf("of a token that has ended the others hear %.300q", told)
		}
		// What no flush makes up for is still told.
		if !strings.Contains(told, "refill @refilled:hs") {
			t.Errorf("of budgets that an admin has filled the others hear %.300q", told)
		}
		if _, order := b.Wait(t.Context(), alice, laptop, false).Begin(t.Context(), false); order != cluster.InTurn {
			t.Errorf("the user's other device waits for a write that was sent long ago: %v", order)
		}
	})
}

func TestOutboxIsBoundedAlsoOfWhatNoFlushMakesUpFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := testkit.NewSharedLog()
		a, b := join(t, log), join(t, log)
		log.Fail(errors.New("no connection"))
		for i := range 25_000 {
			a.Tell(cluster.Refilled, fmt.Sprint("@", i, ":hs"))
		}
		time.Sleep(time.Second)
		log.Fail(nil)
		time.Sleep(time.Second)
		b.pass(t)
		if told := b.take(); strings.Count(told, "refill ") > 10_000 || !strings.Contains(told, "refill @24999:hs") {
			t.Errorf("%d users", strings.Count(told, "refill "))
		}
	})
}

// brokenLog panics when it is pulled, or asked whether it has to be, so often; or when something is appended.
type brokenLog struct {
	cluster.Log
	times, appends atomic.Int64
}

func (b *brokenLog) Append(ctx context.Context, entries ...cluster.Entry) error {
	if b.appends.Add(-1) >= 0 {
		panic("broken")
	}
	return b.Log.Append(ctx, entries...)
}

func (b *brokenLog) Pull(ctx context.Context, node string, after cluster.Position) (cluster.Pulled, error) {
	if b.times.Add(-1) >= 0 {
		panic("broken")
	}
	return b.Log.Pull(ctx, node, after)
}

func (b *brokenLog) Ends(by time.Time, at cluster.Position) (ends bool, err error) {
	if b.times.Add(-1) >= 0 {
		panic("broken")
	}
	return b.Log.Ends(by, at)
}

// A pull that panicked left the barrier closed: no reader passed any more. In the node's own goroutine it was the end
// of the process.
func TestPullThatPanicsBlocksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &brokenLog{Log: testkit.NewSharedLog().Client()}
		panics := atomic.Int64{}
		n := new(node)
		rules := cluster.Rules{Timeout: timeout, Panicked: func(any) { panics.Add(1) }}
		n.Node = cluster.NewNode(log, rules, reporter{&n.memory}, reporter{&n.memory}, time.Now)
		t.Cleanup(n.Close)
		synctest.Wait()
		log.times.Store(4)
		var readers sync.WaitGroup
		for range 3 {
			readers.Go(func() {
				defer func() { _ = recover() }() // as a web server does
				_ = n.Barrier()
			})
		}
		readers.Wait()
		time.Sleep(time.Second)
		n.pass(t)
		if panics.Load() == 0 {
			t.Error("nobody was told")
		}
	})
}

// In the goroutine that tells what can be told later it was the end of the process.
func TestTellingThatPanicsIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := testkit.NewSharedLog()
		log, b := &brokenLog{Log: shared.Client()}, join(t, shared)
		panics := atomic.Int64{}
		rules := cluster.Rules{Timeout: timeout, Panicked: func(any) { panics.Add(1) }}
		told := memory{}
		a := cluster.NewNode(log, rules, reporter{&told}, reporter{&told}, time.Now)
		t.Cleanup(a.Close)
		time.Sleep(time.Second)
		log.appends.Store(2)
		a.Tell(cluster.UserEnded, alice)
		time.Sleep(time.Second)
		b.pass(t)
		want(t, "what was told", b.take(), "user @alice:hs")
		if n := panics.Load(); n != 2 {
			t.Errorf("%d panics were told of, want 2", n)
		}
	})
}

// One user who sent messages all the time filled the log, also by those that the homeserver refuses; and while it was away,
// the outbox, for which all nodes dropped everything.
func TestWhatIsSaidAgainAndAgainIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := testkit.NewSharedLog()
		a, b := join(t, log), join(t, log)
		resume := log.Pause()
		for range 20_000 {
			a.Tell(cluster.Active, alice)
			a.Tell(cluster.Ends, alice)
		}
		a.Tell(cluster.UserEnded, alice)
		resume()
		time.Sleep(time.Second)
		b.pass(t)
		told := b.take()
		if n := strings.Count(told, "active"); n < 1 || n > 2 || strings.Contains(told, "flush") || !strings.HasSuffix(told, "user @alice:hs") {
			t.Errorf("told %d times: %.300q", n, told)
		}
	})
}
