package gateway

import (
	"sync/atomic"
	"time"
)

// fault says why the homeserver can't be asked whose an access token is.
type fault int32

const (
	faultNone fault = iota
	faultUnreachable
	faultNotAHomeserver
)

// faultMessages tell an admin what follows from a fault and what to do.
var faultMessages = [...]string{
	faultNone: "token lookups (whoami) recovered",
	faultUnreachable: "the homeserver doesn't tell whose access token it is: " +
		"presence writes are refused and new readers not cached until it does",
	faultNotAHomeserver: "the upstream is no Matrix homeserver: presence writes are refused and reads are not cached; " +
		"check the address after reverse_proxy, and that /_matrix/client/v3/account/whoami is routed there",
}

// faultLogInterval is for how long a change is not logged after the last one that
// was: a homeserver that answers every other question would fill the log.
const faultLogInterval = time.Minute

// faultLog makes one line in the log of a fault, not one of each request.
type faultLog struct {
	state  atomic.Int32 // the fault as last logged
	logged logInterval
}

// logInterval lets one line of a kind into the log in an interval.
type logInterval struct{ last atomic.Int64 } // when that was, see [clock.Clock.Stamp]

// due tells that a line may be logged at a time. Of several at once one is told so.
func (l *logInterval) due(at int64, interval time.Duration) bool {
	last := l.last.Load()
	return at-last >= int64(interval) && l.last.CompareAndSwap(last, at)
}

// Trouble returns why the homeserver can't be asked whose an access token is, as last logged, or
// "" if it can.
func (m *Store) Trouble() string {
	if now := fault(m.faults.state.Load()); now != faultNone {
		return faultMessages[now]
	}
	return ""
}

// reportFault logs a fault, or its end, if it is news.
func (t tenant) reportFault(now fault, err error) {
	log := &t.store.faults
	before := log.state.Load()
	if before == int32(now) {
		return
	}
	if !log.logged.due(t.store.clock.Stamp(), faultLogInterval) || !log.state.CompareAndSwap(before, int32(now)) {
		return
	}
	if now == faultNone {
		t.logger.Info(faultMessages[now])
	} else {
		t.logger.Error(faultMessages[now], "error", err)
	}
}
