package plan

import "time"

// start is when virtual time begins. Only differences matter.
var start = time.Unix(1_700_000_000, 0)

// agenda is what is going to happen, in virtual time. What is due at the same time happens in the
// order in which it was planned.
type agenda struct {
	now     time.Time
	planned []appointment // a heap
	n       uint64
}

type appointment struct {
	at int64 // in nanoseconds since the start
	n  uint64
	do func()
}

func (a appointment) before(b appointment) bool { return a.at < b.at || a.at == b.at && a.n < b.n }

// in plans something for some time from now.
func (a *agenda) in(wait time.Duration, do func()) { a.at(a.now.Add(wait).Sub(start), do) }

// at plans something for a time since the start, or for now if that is over.
func (a *agenda) at(at time.Duration, do func()) {
	a.n++
	a.planned = append(a.planned, appointment{max(int64(at), int64(a.now.Sub(start))), a.n, do})
	i := len(a.planned) - 1
	for parent := (i - 1) / 2; i > 0 && a.planned[i].before(a.planned[parent]); parent = (i - 1) / 2 {
		a.planned[i], a.planned[parent] = a.planned[parent], a.planned[i]
		i = parent
	}
}

// runUntil lets happen what is due by a time since the start, and goes on to that time.
func (a *agenda) runUntil(end time.Duration) {
	for len(a.planned) > 0 && a.planned[0].at <= int64(end) {
		next := a.take()
		a.now = start.Add(time.Duration(next.at))
		next.do()
	}
	a.now = start.Add(end)
}

// take takes the next appointment off the heap.
func (a *agenda) take() appointment {
	next, last := a.planned[0], len(a.planned)-1
	a.planned[0], a.planned[last] = a.planned[last], appointment{}
	a.planned = a.planned[:last]
	for i := 0; ; {
		least := i
		for _, child := range [...]int{2*i + 1, 2*i + 2} {
			if child < last && a.planned[child].before(a.planned[least]) {
				least = child
			}
		}
		if least == i {
			return next
		}
		a.planned[i], a.planned[least] = a.planned[least], a.planned[i]
		i = least
	}
}
