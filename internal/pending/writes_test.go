package pending

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/clock"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

const alice = "@alice:example.com"

// rules are those of the tests.
var rules = Rules{Pending: 100, MaxAge: time.Minute}

// kit is a homeserver that takes presence writes, and the writes that wait for it.
type kit struct {
	*Writes
	t *testing.T

	mu     sync.Mutex // guards all below
	sent   []string
	lost   int
	fences int // that have begun and not ended
	reply  func(body string) Answer
	hold   func(left time.Duration) (wait time.Duration) // nil: none has to wait
}

func newKit(t *testing.T) *kit {
	k := &kit{t: t, reply: func(string) Answer { return Answer{Reply: Taken} }}
	k.Writes = NewWrites(clock.New(), func(string) Fence { k.fence(1); return k }, nil)
	return k
}

func (k *kit) fence(n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fences += n
}

func (k *kit) End(time.Time, time.Duration)     { k.fence(-1) }
func (k *kit) Charge(bool) (wait time.Duration) { return 0 }
func (k *kit) Settle() time.Duration            { return 0 }

func (k *kit) Hold(left time.Duration) (wait time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.hold == nil {
		return 0
	}
	return k.hold(left)
}

func (k *kit) Send(body []byte, _ time.Duration, _ bool) Answer {
	k.mu.Lock()
	k.sent = append(k.sent, string(body))
	k.mu.Unlock()
	return k.reply(string(body))
}

// Ended looks at the writes, as a logger may: it must not be called with their lock.
func (k *kit) Ended(became Result) {
	k.Len()
	if became != Lost && became != Dropped {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lost++
}

// write has a device of alice's write a body, and reports whether that waits.
func (k *kit) write(s *Source, device byte, body string) bool {
	return s.Accept(&Write{
		UserID: alice, Device: [16]byte{device}, Credential: matrix.Credential{Token: fmt.Sprint("token", device)},
		Body: matrix.ReadWriteBody([]byte(body), matrix.Synapse), Accepted: k.clock.Now(), Sender: k,
	}, time.Second)
}

func (k *kit) want(what string, sent []string, counts map[Result]uint64) {
	k.t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	if !slices.Equal(k.sent, sent) {
		k.t.Errorf("%s: sent were %q, want %q", what, k.sent, sent)
	}
	for result := range Results {
		if n := k.Count(result); n != counts[result] {
			k.t.Errorf("%s: %d have become %d, want %d", what, n, result, counts[result])
		}
	}
	if k.Len() != 0 || k.fences != 0 {
		k.t.Errorf("%s: %d wait, and %d fences", what, k.Len(), k.fences)
	}
}

// fenced returns how many fences have begun and not ended.
func (k *kit) fenced() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.fences
}

// told returns how many lost writes were told of.
func (k *kit) told() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.lost
}

func message(n int) string { return fmt.Sprintf(`{"presence":"online","status_msg":"%d"}`, n) }

func TestTheNewestOfADeviceIsDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		s := k.NewSource(rules)
		for n := range 3 {
			k.write(s, 1, message(n))
		}
		k.write(s, 2, message(3))
		if queued, ok := k.Waits(alice); !ok || queued != 2 || k.Len() != 2 || k.fenced() != 1 {
			t.Errorf("%d and %d wait, and %d fences", queued, k.Len(), k.fenced())
		}
		time.Sleep(time.Minute)
		k.want("at the end", []string{message(2), message(3)}, map[Result]uint64{Superseded: 2, Delivered: 2})
	})
}

// A write that is lost was logged with the lock held, so a slow log held up all other writes.
func TestWhoseWriteIsLostIsToldWithoutTheLock(t *testing.T) {
	for name, reply := range map[string]Answer{"refused": {Reply: Refused}, "failed": {Reply: Failed}, "ended": {Reply: Ended}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newKit(t)
				k.reply = func(string) Answer { return reply }
				k.write(k.NewSource(rules), 1, message(0))
				time.Sleep(2 * time.Minute)
				if k.told() != 1 || k.Len() != 0 {
					t.Errorf("%d were told, and %d wait", k.told(), k.Len())
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		k.write(k.NewSource(rules), 1, message(0))
		k.DropToken(matrix.Credential{Token: "token1"}, "")
		k.want("a token that has ended", nil, map[Result]uint64{Dropped: 1})
		if k.told() != 1 {
			t.Errorf("%d were told", k.told())
		}
	})
}

func TestWhatWasRefusedGivesWayToWhatItReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		k.reply = func(body string) Answer {
			if body == message(1) {
				return Answer{Reply: Refused}
			}
			return Answer{Reply: Taken}
		}
		s := k.NewSource(rules)
		k.write(s, 1, message(0))
		k.write(s, 1, message(1))
		time.Sleep(time.Minute)
		k.want("at the end", []string{message(1), message(0)}, map[Result]uint64{Superseded: 1, Lost: 1})
	})
}

// A configuration that ends has its own writes sent at once, and no more wait.
// Whoever charges for a write that waits may panic, and so may who is told what became of it. The lock was
// given back twice then, which ends a process, or nobody came to the queue any more.
func TestPanicsOfSendersLoseNothing(t *testing.T) {
	for name, flushed := range map[string]bool{"in turn": false, "flushed": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newKit(t)
				s := k.NewSource(rules)
				for n := range 2 {
					s.Accept(&Write{
						UserID: alice, Device: [16]byte{byte(n)}, Credential: matrix.Credential{Token: fmt.Sprint("token", n)},
						Body: matrix.ReadWriteBody([]byte(message(n)), matrix.Synapse), Accepted: k.clock.Now(), Sender: panics{k},
					}, time.Second)
				}
				if flushed {
					s.Flush()
				}
				time.Sleep(2 * time.Second)
				k.want(name, []string{message(0), message(1)}, map[Result]uint64{Delivered: 2})
			})
		})
	}
}

// panics is a sender that only sends.
type panics struct{ *kit }

func (panics) Charge(bool) time.Duration        { panic("while charging") }
func (panics) Hold(time.Duration) time.Duration { panic("while holding back") }
func (panics) Ended(Result)                     { panic("while being told") }

func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		ends, stays := k.NewSource(rules), k.NewSource(rules)
		k.write(ends, 1, message(0))
		if !ends.Flush() || ends.Flush() {
			t.Error("the first flush finds nothing, or the second something")
		}
		k.want("at the end", []string{message(0)}, map[Result]uint64{Delivered: 1})
		if k.write(ends, 1, message(1)) {
			t.Error("something waits that nobody will flush")
		}
		if !k.write(stays, 1, message(2)) || stays.Flush() && ends.Flush() {
			t.Error("another configuration has ended too")
		}
	})
}

func TestNoMoreThanTheRulesAllowWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		few := k.NewSource(Rules{Pending: 2, MaxAge: time.Minute})
		for device := range byte(4) {
			if ok := k.write(few, device, message(0)); ok != (device < 2) {
				t.Errorf("device %d waits: %v", device, ok)
			}
		}
		if k.write(k.NewSource(Rules{Pending: 100, MaxAge: time.Second / 2}), 9, message(0)) {
			t.Error("something waits that will be too old")
		}
		if k.write(few, 0, `{"presence":"no such"}`) {
			t.Error("something waits that the homeserver may refuse")
		}
		time.Sleep(time.Minute)
	})
}

// However large the bodies are, a write that waits has so many bytes, with all that it
// falls back on.
func TestFallbacksAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		s := k.NewSource(rules)
		large := func(n int) string { return fmt.Sprintf(`{"presence":"online","status_msg":"%*d"}`, n, n) }
		for n := range 200 {
			k.write(s, byte(n%3), large(100+40*n))
			u := k.users[alice]
			k.Writes.mu.Lock()
			for _, w := range u.queue {
				size := len(w.Body.Text)
				for _, f := range w.fallbacks {
					size += len(f.body.Text)
				}
				if size > maxBytes || len(w.fallbacks) > maxFallbacks {
					t.Fatalf("%d bytes, %d fallbacks", size, len(w.fallbacks))
				}
			}
			if len(u.queue) > maxDevices {
				t.Fatalf("%d writes wait", len(u.queue))
			}
			k.Writes.mu.Unlock()
		}
		time.Sleep(time.Minute)
	})
}

// What is held back to spare the homeserver waits for as long as it may, and is not lost for that: also one
// that was tried in vain. A configuration that ends doesn't wait.
func TestWritesThatAreHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		var failing atomic.Bool
		failing.Store(true)
		k.hold = func(left time.Duration) time.Duration {
			if left < rules.MaxAge/4 {
				return 0
			}
			return 5 * time.Second
		}
		k.reply = func(string) Answer {
			if failing.Load() {
				return Answer{Reply: Failed}
			}
			return Answer{Reply: Taken}
		}
		s := k.NewSource(rules)
		k.write(s, 1, message(0))
		time.Sleep(30 * time.Second)
		k.write(s, 1, message(1))
		if queued, _ := k.Waits(alice); queued != 1 {
			t.Errorf("%d writes wait, want the newest", queued)
		}
		time.Sleep(20 * time.Second)
		failing.Store(false)
		time.Sleep(time.Minute)
		k.want("at the end", []string{message(1)}, map[Result]uint64{Superseded: 1, Delivered: 1})

		k.mu.Lock()
		k.sent = nil
		k.mu.Unlock()
		k.write(s, 1, message(2))
		s.Flush()
		k.want("after the flush", []string{message(2)}, map[Result]uint64{Superseded: 1, Delivered: 2})
	})
	synctest.Test(t, func(t *testing.T) { // one that was sent in vain is held back as well
		k := newKit(t)
		k.reply = func(string) Answer { return Answer{Reply: Failed} }
		k.write(k.NewSource(rules), 1, message(0))
		time.Sleep(3 * time.Second)
		k.mu.Lock()
		tried := len(k.sent)
		k.hold = func(time.Duration) time.Duration { return 5 * time.Second }
		k.mu.Unlock()
		time.Sleep(20 * time.Second)
		k.mu.Lock()
		if len(k.sent) != tried || tried == 0 {
			t.Errorf("it was sent %d times, and then %d times", tried, len(k.sent))
		}
		k.mu.Unlock()
		time.Sleep(time.Minute)
	})
}

// A write whose place another has taken, where nobody here knows of it, is not sent; one that is behind another is, when
// its turn has come, and isn't charged for twice.
func TestWriteThatWaitsForItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		s := k.NewSource(rules)
		behind := 3
		k.reply = func(body string) Answer {
			switch {
			case body == message(2):
				return Answer{Reply: TakenOver}
			case behind > 0:
				behind--
				return Answer{Reply: Early, After: time.Second}
			}
			return Answer{Reply: Taken}
		}
		k.write(s, 1, message(1))
		k.write(s, 2, message(2))
		time.Sleep(30 * time.Second)
		k.want("at the end", []string{message(1), message(1), message(1), message(1), message(2)}, map[Result]uint64{Delivered: 1, Superseded: 1})
	})
}

// A write that is late by the order of all nodes is lost, and not in another's place: that one may be refused.
func TestWriteThatIsLateIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		s := k.NewSource(rules)
		k.reply = func(string) Answer { return Answer{Reply: Late} }
		k.write(s, 1, message(1))
		time.Sleep(30 * time.Second)
		k.want("at the end", []string{message(1)}, map[Result]uint64{Lost: 1})
	})
}

// Dendrite keeps a status message that a write leaves out. Where another may wait elsewhere, between the two, both are
// sent.
func TestWritesApartTakeNothingOver(t *testing.T) {
	for apart, want := range map[bool][]string{
		false: {`{"presence":"offline","status_msg":"1"}`}, true: {`{"presence":"online","status_msg":"1"}`, `{"presence":"offline"}`},
	} {
		synctest.Test(t, func(t *testing.T) {
			k := newKit(t)
			s := k.NewSource(rules)
			for _, body := range []string{message(1), `{"presence":"offline"}`} {
				s.Accept(&Write{
					UserID: alice, Body: matrix.ReadWriteBody([]byte(body), matrix.Dendrite), Accepted: k.clock.Now(), Sender: k, Apart: apart,
				}, time.Second)
			}
			time.Sleep(10 * time.Second)
			if k.mu.Lock(); !slices.Equal(k.sent, want) {
				t.Errorf("apart %v: %q were sent, want %q", apart, k.sent, want)
			}
			k.mu.Unlock()
		})
	}
}

// How long the oldest has waited is that of its own 200: one that takes its place begins anew.
func TestOldestIsTheOneThatWaitsLongest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		s := k.NewSource(rules)
		if got := k.Oldest(); got != 0 {
			t.Errorf("nothing waits, for %v", got)
		}
		k.write(s, 1, message(1))
		time.Sleep(300 * time.Millisecond)
		k.write(s, 2, message(2))
		time.Sleep(300 * time.Millisecond)
		if got := k.Oldest(); got != 600*time.Millisecond {
			t.Errorf("the oldest has waited for %v", got)
		}
		k.write(s, 1, message(3))
		if got := k.Oldest(); got != 300*time.Millisecond {
			t.Errorf("when it is replaced, the oldest has waited for %v", got)
		}
		time.Sleep(time.Minute)
		if got := k.Oldest(); got != 0 {
			t.Errorf("at the end nothing waits, for %v", got)
		}
	})
}
