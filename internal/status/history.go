package status

import (
	"math"
	"sync"
	"time"
)

const (
	// Step is the time from one document of a history to the next.
	Step = 2 * time.Second

	// kept is for how long a history goes back.
	kept = 10 * time.Minute

	// recently is the time that what happens now is an average of.
	recently = 10 * time.Second
)

// History is what was counted in the last ten minutes, as far as curves are drawn by it, and all
// that was in the last ten seconds. A cache takes about 12 kB. It is safe for use by several
// goroutines.
type History struct {
	mu     sync.Mutex  // guards all below
	recent []*Document // of the last ten seconds, and the one before these
	points map[string][]point
}

// point is what happened in a cache at a time, by figure. What isn't known is NaN.
type point struct {
	at     time.Time
	values [figureCount]float32
}

// figure is one that has a curve.
type figure int

const (
	figureSaved figure = iota
	figureHitRatio
	figureReads
	figureWrites
	figureSyncs
	figureUpstream
	figureP50
	figureP99
	figurePending
	figureOldest
	figureCount
)

// Add adds a document that is later than those before it.
func (h *History) Add(d *Document) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.recent) > 0 && !d.Time.After(h.recent[len(h.recent)-1].Time) {
		return
	}
	if len(h.recent) > 0 && d.Time.Sub(h.recent[len(h.recent)-1].Time) > 2*recently {
		h.recent = nil // nobody has looked for a while
	}
	h.recent = append(h.recent, d)
	for len(h.recent) > 2 && d.Time.Sub(h.recent[1].Time) >= recently {
		h.recent[0] = nil
		h.recent = h.recent[1:]
	}
	h.addPoints(d)
}

// addPoints needs the lock.
func (h *History) addPoints(d *Document) {
	points := make(map[string][]point, len(d.Caches))
	for _, c := range d.Caches {
		known := h.points[c.Name]
		for len(known) > 0 && d.Time.Sub(known[0].at) > kept {
			known = known[1:]
		}
		if before := h.before(d, c.Name); before != nil {
			known = append(known, point{d.Time, measure(between{before, &c, d.Time.Sub(h.recent[0].Time)})})
		}
		points[c.Name] = known
	}
	h.points = points
}

// before returns a cache as it was ten seconds before d, or later, or nil if it has begun since, or
// nobody looked then. It needs the lock.
func (h *History) before(d *Document, name string) *Cache {
	oldest := h.recent[0]
	if oldest == d {
		return nil
	}
	now, before := find(d, name), find(oldest, name)
	if now == nil || before == nil || !now.Since.Equal(before.Since) {
		return nil
	}
	return before
}

func find(d *Document, name string) *Cache {
	for i := range d.Caches {
		if d.Caches[i].Name == name {
			return &d.Caches[i]
		}
	}
	return nil
}

// between is what happened in a cache from one document to another.
type between struct {
	before, now *Cache // before may be nil: then nothing is known
	took        time.Duration
}

// rate returns how many a second there were, or NaN.
func (b between) rate(name string, labels ...string) float64 {
	if b.before == nil {
		return math.NaN()
	}
	return (b.now.Metrics.Value(name, labels...) - b.before.Metrics.Value(name, labels...)) / b.took.Seconds()
}

// hitRatio returns which part of the reads was answered without a request of their own, or NaN.
func (b between) hitRatio() float64 {
	return (b.rate("outcomes_total", "read", "hit") + b.rate("outcomes_total", "read", "collapsed")) / b.rate("requests_total", "read")
}

// buckets returns those of the homeserver's answers to some reasons, or nil.
func (b between) buckets(reasons ...string) []bucket {
	if b.before == nil {
		return nil
	}
	return less(b.now.Metrics.buckets(reasons...), b.before.Metrics.buckets(reasons...))
}

// quantile returns that of the homeserver's answers to some reasons, or NaN.
func (b between) quantile(part float64, reasons ...string) float64 {
	return quantile(b.buckets(reasons...), part)
}

// measure returns the figures that have curves.
func measure(b between) (values [figureCount]float32) {
	reasons := b.now.Metrics.Labels(secondsMetric + "_bucket")
	for f, value := range [figureCount]float64{
		figureSaved:    b.rate("saved_total"),
		figureHitRatio: b.hitRatio(),
		figureReads:    b.rate("requests_total", "read"),
		figureWrites:   b.rate("requests_total", "write"),
		figureSyncs:    b.rate("requests_total", "sync"),
		figureUpstream: b.rate("upstream_requests_total"),
		figureP50:      b.quantile(.5, reasons...),
		figureP99:      b.quantile(.99, reasons...),
		figurePending:  b.now.Metrics.Value("pending"),
		figureOldest:   b.now.Metrics.Value(oldestMetric),
	} {
		values[f] = float32(value)
	}
	return values
}

// snapshot returns the last document, what happened in each of its caches of late, and their points.
func (h *History) snapshot() (d *Document, late map[string]between, points map[string][]point) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.recent) == 0 {
		return &Document{}, nil, nil
	}
	d, late = h.recent[len(h.recent)-1], make(map[string]between)
	for i := range d.Caches {
		c := &d.Caches[i]
		late[c.Name] = between{h.before(d, c.Name), c, d.Time.Sub(h.recent[0].Time)}
	}
	return d, late, h.points
}
