package caddymodule

import (
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// After a suspend of the machine the token of somebody who was logged out meanwhile still
// read what was in memory, as if no time had passed.
func TestLifetimesHoldAfterASuspend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &Handler{WriteLimit: &Limit{Events: 1, Window: 1e12}})
		var suspended time.Duration
		m := p.handler.gateway.memory
		m.clock = newClockOf(func() (time.Time, int64) {
			now := time.Now()
			return now, now.Add(suspended).UnixNano()
		})
		p.get("alice-token", bob)
		p.want(p.get("alice-token", bob), 200, "", "matrix_presence; hit")
		p.want(p.put("bob-token", bob, online), 200, "", "")
		p.wantError(p.put("bob-token", bob, online), 429, "M_LIMIT_EXCEEDED")
		p.get("alice-token", bob)

		suspended = time.Hour
		p.want(p.get("alice-token", bob), 200, "", "matrix_presence; fwd=miss; stored")
		p.want(p.put("bob-token", bob, online), 200, "", "") // its budget has refilled
		p.hs.mu.Lock()
		delete(p.hs.tokens, "alice-token")
		p.hs.mu.Unlock()
		suspended += time.Hour
		p.wantError(p.get("alice-token", bob), 401, "M_UNKNOWN_TOKEN")
	})
}

// A wall clock that had been ahead at first, and was set right, kept all faults out of the log
// until it was that late again: the log goes by the clock of memory, which never goes back.
func TestFaultsAreLoggedByTheClockOfMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, new(Handler))
		logs := logged(p.handler)
		var passed time.Duration
		p.handler.gateway.memory.clock = newClockOf(func() (time.Time, int64) {
			now := time.Now().Add(passed)
			return now, now.Add(-2 * passed).UnixNano() // set back, again and again
		})
		for i, now := range []fault{faultUnreachable, faultNone, faultUnreachable} {
			passed = time.Duration(i) * time.Hour
			p.handler.gateway.reportFault(now, io.ErrUnexpectedEOF)
			p.handler.gateway.reportLoss()
		}
		if n := len(logs.All()); n != 6 {
			t.Errorf("%d lines are in the log, want 6: %v", n, logs.All())
		}
	})
}
