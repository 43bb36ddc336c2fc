package gateway

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/clock"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/pending"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/wallclock"
)

// After a suspend of the machine the token of somebody who was logged out meanwhile still
// read what was in memory, as if no time had passed.
func TestLifetimesHoldAfterASuspend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{WriteLimit: &rate{Events: 1, Window: 1e12}})
		var suspended time.Duration
		m := p.memory
		m.clock = clock.NewOf(func() (time.Time, int64) {
			now := time.Now()
			return now, now.Add(suspended).UnixNano()
		})
		p.Get("alice-token", bob)
		p.Want(p.Get("alice-token", bob), 200, "", "matrix_presence; hit")
		p.Want(p.Put("bob-token", bob, online), 200, "", "")
		p.WantError(p.Put("bob-token", bob, online), 429, "M_LIMIT_EXCEEDED")
		p.Get("alice-token", bob)

		suspended = time.Hour
		p.Want(p.Get("alice-token", bob), 200, "", "matrix_presence; fwd=miss; stored")
		p.Want(p.Put("bob-token", bob, online), 200, "", "") // its budget has refilled
		p.hs.Mu.Lock()
		delete(p.hs.Tokens, "alice-token")
		p.hs.Mu.Unlock()
		suspended += time.Hour
		p.WantError(p.Get("alice-token", bob), 401, "M_UNKNOWN_TOKEN")
	})
}

// A wall clock that had been ahead at first, and was set right, kept all faults out of the log
// until it was that late again: the log goes by the clock of memory, which never goes back.
func TestFaultsAreLoggedByTheClockOfMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, new(options))
		logs := p.logged()
		var passed time.Duration
		p.memory.clock = clock.NewOf(func() (time.Time, int64) {
			now := time.Now().Add(passed)
			return now, now.Add(-2 * passed).UnixNano() // set back, again and again
		})
		for i, now := range []fault{faultUnreachable, faultNone, faultUnreachable} {
			passed = time.Duration(i) * time.Hour
			p.gateway.reportFault(now, io.ErrUnexpectedEOF)
			(&delivery{tenant: p.gateway.tenant}).Ended(pending.Lost)
		}
		if n := len(logs.All()); n != 6 {
			t.Errorf("%d lines are in the log, want 6: %v", n, logs.All())
		}
	})
}

// A write that waits while the machine is suspended is sent after that, unless it is too old by then. Either way
// its user is not kept waiting, and its token is not kept for longer.
func TestWriteThatWaitsThroughASuspend(t *testing.T) {
	for asleep, became := range map[time.Duration]string{30 * time.Second: "delivered", 2 * time.Minute: "lost"} {
		t.Run(became, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				defer wallclock.Shift(0)
				p := newProxy(t, coalescing())
				p.Put("alice-token", alice, message(0))
				p.Want(p.Put("alice-token", alice, message(1)), 200, "{}", "matrix_presence; detail=coalesced")
				wallclock.Shift(asleep)
				time.Sleep(10 * time.Second)
				synctest.Wait()
				p.wantDeliveries(map[string]float64{became: 1})
				time.Sleep(10 * time.Second)
				p.Want(p.Put("alice-token", alice, message(2)), 200, "{}", "matrix_presence; fwd=method")
			})
		})
	}
}
