package testkit

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/cluster"
)

// SharedLog is a log of a cluster in memory, as a Redis keeps one, and what can become of it. Each
// node needs a [SharedLog.Client] of its own.
type SharedLog struct {
	mu      sync.Mutex // guards all below
	id      int
	server  int
	first   uint64 // the number of the first entry that is kept
	entries []cluster.Entry
	nodes   map[string]time.Time // when they last pulled
	budgets map[string]sharedBudget
	turns   map[string][]turn // of a user's writes that wait, in their order
	done    map[turnKey]bool  // which wait no more, though nothing was known of them
	fails   error
	paused  chan struct{} // closed when it ends, or nil
	calls   int
}

// sharedBudget is by when a budget is full again, if one event is refilled in each interval.
type sharedBudget struct {
	full     time.Time
	interval time.Duration
}

// NewSharedLog returns an empty one.
func NewSharedLog() *SharedLog {
	return &SharedLog{first: 1, nodes: make(map[string]time.Time), budgets: make(map[string]sharedBudget), turns: make(map[string][]turn), done: make(map[turnKey]bool)}
}

// Client returns a node's way to the log.
func (l *SharedLog) Client() cluster.Log { return logClient{l} }

// Lose has the log lose what it has, and begin anew.
func (l *SharedLog) Lose() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.id++
	l.first, l.entries = 1, nil
}

// Promote has another server take over that lacks the last entries.
func (l *SharedLog) Promote(lacks int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.server++
	l.entries = l.entries[:max(0, len(l.entries)-lacks)]
}

// Trim has the log forget all entries but their number.
func (l *SharedLog) Trim() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.first += uint64(len(l.entries))
	l.entries = nil
}

// Fail has all calls fail, until it is called with nil.
func (l *SharedLog) Fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fails = err
}

// Pause has all calls wait, until resume is called.
func (l *SharedLog) Pause() (resume func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	paused := make(chan struct{})
	l.paused = paused
	return sync.OnceFunc(func() {
		l.mu.Lock()
		l.paused = nil
		l.mu.Unlock()
		close(paused)
	})
}

// Entries returns the kinds and subjects of what is kept, such as "b@alice:hs".
func (l *SharedLog) Entries() (all []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.entries {
		all = append(all, string(rune(e.Kind))+e.Subject)
	}
	return all
}

// Calls returns how many calls there were.
func (l *SharedLog) Calls() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls
}

// enter waits for a pause to end, and returns with the lock unless the call fails.
func (l *SharedLog) enter(ctx context.Context) error {
	l.mu.Lock()
	l.calls++
	for l.paused != nil {
		paused := l.paused
		l.mu.Unlock()
		select {
		case <-paused:
		case <-ctx.Done():
			return ctx.Err()
		}
		l.mu.Lock()
	}
	err := l.fails
	if err != nil {
		l.mu.Unlock()
	}
	return err
}

func (l *SharedLog) head() uint64 { return l.first + uint64(len(l.entries)) - 1 }

func (l *SharedLog) append(entries []cluster.Entry) {
	for _, e := range entries {
		switch e.Kind {
		case cluster.Waits:
			if !l.done[turnKey{e.Subject, e.Node, e.Write}] {
				l.wait(&e)
			}
			e.Kind = cluster.Active
		case cluster.Refilled:
			for _, budget := range []cluster.Budget{cluster.Writes, cluster.Reads, cluster.Syncs} {
				delete(l.budgets, string(rune(budget))+e.Subject)
			}
		case cluster.Done:
			known := len(l.turns[e.Subject])
			l.turns[e.Subject] = slices.DeleteFunc(l.turns[e.Subject], func(t turn) bool { return t.node == e.Node && t.number == e.Write })
			if len(l.turns[e.Subject]) == known {
				l.done[turnKey{e.Subject, e.Node, e.Write}] = true
			}
			continue
		}
		e.Seq = l.head() + 1
		l.entries = append(l.entries, e)
	}
}

// turn is a write that waits.
type turn struct {
	node, device string
	number       uint64
	state        turnState
}

type turnKey struct {
	userID, node string
	number       uint64
}

type turnState int

const (
	turnWaits turnState = iota
	turnSent
	turnTaken // a newer one of the device has its place
	turnLate  // a newer one was sent without it
)

// ahead returns which of a user's older writes a write is behind, whose places it takes, and for which it doesn't wait
// because their node wasn't heard of for three seconds.
func (l *SharedLog) ahead(older []turn, node, device string, merges bool) (behind, places, late []*turn) {
	for i := range older {
		switch t := &older[i]; {
		case t.node == node || t.state == turnTaken || t.state == turnLate:
		case time.Since(l.nodes[t.node]) > 3*time.Second:
			late = append(late, t)
		case t.state == turnWaits && t.device == device && !merges:
			places = append(places, t)
		default:
			behind = append(behind, t)
		}
	}
	return behind, places, late
}

func become(turns []*turn, state turnState) {
	for _, t := range turns {
		t.state = state
	}
}

// wait has a write wait, in the place of those of the same device of other nodes.
func (l *SharedLog) wait(e *cluster.Entry) {
	all := l.turns[e.Subject]
	_, places, _ := l.ahead(all, e.Node, e.Device, e.Merges)
	become(places, turnTaken)
	l.turns[e.Subject] = append(all, turn{node: e.Node, device: e.Device, number: e.Write})
}

// order says whether it is a write's turn. If so, begun notes that it is sent.
func (l *SharedLog) order(charge *cluster.Charge) (order cluster.Order, begun func()) {
	asks, all := charge.Turn, l.turns[charge.UserID]
	isNew := asks.Waited == 0
	own := slices.IndexFunc(all, func(t turn) bool { return !isNew && t.node == asks.Node && t.number == asks.Waited })
	older := all
	if !isNew {
		older = all[:max(0, own)] // one of which nothing is known is the oldest
	}
	behind, places, late := l.ahead(older, asks.Node, asks.Device, asks.Merges)
	switch {
	case own >= 0 && all[own].state == turnTaken:
		return cluster.TakenOver, nil
	case own >= 0 && all[own].state == turnLate:
		return cluster.Late, nil
	case !asks.Last && (len(behind) > 0 || isNew && len(places) > 0):
		return cluster.Behind, nil
	}
	return cluster.InTurn, func() {
		if own >= 0 {
			all[own].state = turnSent
		}
		become(places, turnTaken)
		become(append(late, behind...), turnLate)
	}
}

type logClient struct{ l *SharedLog }

// Append implements [cluster.Log].
func (c logClient) Append(ctx context.Context, entries ...cluster.Entry) error {
	if err := c.l.enter(ctx); err != nil {
		return err
	}
	defer c.l.mu.Unlock()
	c.l.append(entries)
	return nil
}

// Take implements [cluster.Log].
func (c logClient) Take(ctx context.Context, charge cluster.Charge, entries ...cluster.Entry) (cluster.Grant, error) {
	if err := c.l.enter(ctx); err != nil {
		return cluster.Grant{}, err
	}
	defer c.l.mu.Unlock()
	begun := func() {}
	if charge.Turn != nil {
		var order cluster.Order
		if order, begun = c.l.order(&charge); order != cluster.InTurn {
			return cluster.Grant{Turn: order, Wait: time.Second}, nil
		}
	}
	if charge.Budget == 0 {
		begun()
		c.l.append(entries)
		return cluster.Grant{}, nil
	}
	key, now := string(rune(charge.Budget))+charge.UserID, time.Now()
	known, was := c.l.budgets[key]
	if used := known.full.Sub(now); !was || used <= 0 {
		known.full = now
	} else if known.interval != charge.Interval { // by another limit
		known.full = now.Add(time.Duration(min(used/known.interval, time.Duration(charge.Burst))) * charge.Interval)
	}
	left := int64((time.Duration(charge.Burst)*charge.Interval - known.full.Sub(now)) / charge.Interval)
	events := min(left, charge.Most)
	if charge.Debt > 0 {
		events = charge.Most
	}
	if events < 1 {
		return cluster.Grant{Wait: known.full.Sub(now) - time.Duration(charge.Burst-1)*charge.Interval}, nil
	}
	c.l.budgets[key] = sharedBudget{known.full.Add(time.Duration(events) * charge.Interval), charge.Interval}
	begun()
	c.l.append(entries)
	return cluster.Grant{Events: events}, nil
}

// Pull implements [cluster.Log].
func (c logClient) Pull(ctx context.Context, node string, after cluster.Position) (cluster.Pulled, error) {
	if err := c.l.enter(ctx); err != nil {
		return cluster.Pulled{}, err
	}
	defer c.l.mu.Unlock()
	c.l.nodes[node] = time.Now()
	p := cluster.Pulled{Head: c.l.head()}
	for _, heard := range c.l.nodes {
		if time.Since(heard) <= 3*time.Second {
			p.Nodes++
		}
	}
	p.At = cluster.Position{Log: fmt.Sprint("log", c.l.id), Server: fmt.Sprint("server", c.l.server), Seq: after.Seq, ID: after.ID}
	if after == (cluster.Position{}) {
		p.At.Seq, p.At.ID = p.Head, fmt.Sprint("#", p.Head)
		return p, nil
	}
	for _, e := range c.l.entries {
		if e.Seq > after.Seq {
			p.Entries = append(p.Entries, e)
			p.At.Seq, p.At.ID = e.Seq, fmt.Sprint("#", e.Seq)
		}
	}
	return p, nil
}

// Ends implements [cluster.Log].
func (c logClient) Ends(by time.Time, at cluster.Position) (ends bool, err error) {
	ctx, cancel := context.WithDeadline(context.Background(), by)
	defer cancel()
	if err := c.l.enter(ctx); err != nil {
		return false, err
	}
	defer c.l.mu.Unlock()
	here := cluster.Position{Log: fmt.Sprint("log", c.l.id), Server: fmt.Sprint("server", c.l.server), Seq: c.l.head(), ID: at.ID}
	return here == at, nil
}

// Close implements [cluster.Log].
func (c logClient) Close() error { return nil }
