package policy

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Limit is a budget of events: so many in a window, refilled evenly, with at
// most Burst at once.
type Limit struct {
	interval int64 // nanoseconds from one event to the next, rounded up
	burst    int64
}

// MaxDebt is how many events a user may be charged for beyond their budget.
const MaxDebt = 64

const (
	// maxSpan is how far from now an arrival time may be, 73 years: far from the end
	// of an int64, so that no sum with a clock overflows.
	maxSpan = int64(math.MaxInt64 / 4)

	// maxTimes is the largest n of [Limit.Times], of all calls in a row multiplied.
	maxTimes = 64
)

// NewLimit returns the budget of events per window with the given burst. A
// burst of 0 is as many as events. An error says which number is out of range, and
// the largest that can be computed with, for [Limit.Times] and with a debt too.
func NewLimit(events int, window time.Duration, burst int) (Limit, error) {
	if events <= 0 {
		return Limit{}, errors.New("a limit needs at least 1 event")
	}
	if window <= 0 {
		return Limit{}, errors.New("a limit's window must be longer than 0")
	}
	if burst < 0 {
		return Limit{}, errors.New("a limit's burst must be at least 1")
	}
	if burst == 0 {
		burst = events
	}
	l := Limit{interval: (int64(window)-1)/int64(events) + 1, burst: int64(burst)}
	// An interval that is too long has few events, so the product doesn't overflow either.
	if longest := maxSpan / (1 + MaxDebt); l.interval > longest {
		return Limit{}, fmt.Errorf("a window of %v is too long to refill %d events in: at most %v", window, events,
			time.Duration(longest*int64(events)))
	}
	if most := min(maxSpan/l.interval, maxSpan/maxTimes) - MaxDebt; l.burst > most {
		return Limit{}, fmt.Errorf("a burst of %d is too large to be refilled at %d events in %v: at most %d", burst, events, window, most)
	}
	return l, nil
}

// Interval is the time in which one event is refilled.
func (l Limit) Interval() time.Duration { return time.Duration(l.interval) }

// Burst is how many events may come at once.
func (l Limit) Burst() int { return int(l.burst) }

// Times returns the budget that n users of this one have together. In all calls in a
// row n is at most maxTimes.
func (l Limit) Times(n int) Limit {
	return Limit{interval: max(1, l.interval/int64(n)), burst: l.burst * int64(n)}
}

// Share returns the budget that one of n has who together have at most this one, but for the one
// event that each has at least. N is at most maxTimes.
func (l Limit) Share(n int) Limit {
	n = min(max(1, n), maxTimes)
	burst := max(1, l.burst/int64(n))
	longest := maxSpan / (burst + MaxDebt)
	interval := longest
	if l.interval <= longest/int64(n) {
		interval = l.interval * int64(n)
	}
	return Limit{interval: interval, burst: burst}
}

// ParseRate reads "<events>/<window>", such as "6/1m" or "50/s". Windows are
// read by duration; a unit alone means one of it.
func ParseRate(s string, duration func(string) (time.Duration, error)) (events int, window time.Duration, err error) {
	count, span, ok := strings.Cut(s, "/")
	if !ok {
		return 0, 0, fmt.Errorf("%q is no rate: expected <events>/<window>, such as 6/1m", s)
	}
	events, err = strconv.Atoi(count)
	if err != nil {
		return 0, 0, fmt.Errorf("%q is no rate: %q is not a whole number of events", s, count)
	}
	counted := span
	if span != "" && unicode.IsLetter(rune(span[0])) {
		counted = "1" + span
	}
	window, err = duration(counted)
	if err != nil {
		return 0, 0, fmt.Errorf("%q is no rate: %q is not a duration, such as 30s or 1m", s, span)
	}
	return events, window, nil
}
