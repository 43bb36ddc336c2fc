package cluster

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// ownWrites are this node's writes that are in flight.
type ownWrites struct {
	// roll is how often it was asked for them, or another log has to be told.
	roll atomic.Uint64

	mu     sync.Mutex // guards all below
	last   uint64     // the number of the last one
	writes map[uint64]*Write
}

// Write is one of this node's writes. Its End must be called.
type Write struct {
	node   *Node
	number uint64
	userID string

	// The lock of the own writes guards these.
	announced bool
	roll      uint64    // the roll call that it was last announced for
	told      time.Time // when it was last announced
}

// patience is how long a write is held up that can't be announced, from the first call on that
// failed. See silence.
func (n *Node) patience() time.Duration { return silence + 2*n.rules.Timeout }

// Begin announces a write of a user's presence, and must be called before it is sent. If there is a
// charge it is taken in the same step, and nothing is announced, and the write nil, if there is
// no such event, or it isn't the write's turn. An error says that the budget isn't known; the write may be sent all the same.
func (n *Node) Begin(ctx context.Context, userID string, charge *Charge) (w *Write, grant Grant, err error) {
	w = n.newWrite(userID)
	if charge == nil {
		w.announce(ctx, nil)
		return w, Grant{}, nil
	}
	if charge.Turn != nil {
		charge.Turn.Node = n.id
	}
	if err = n.contact.lasting(); err == nil {
		roll := n.own.roll.Load()
		grant, err = w.take(*charge)
		switch {
		case err == nil && grant.Events == 0:
			n.discard(w)
			return nil, grant, nil
		case err == nil:
			n.own.announced(w, roll, n.now())
			return w, grant, nil
		}
	}
	// It isn't taken again, as it may have been taken.
	if grant = w.announce(ctx, charge.Turn); grant.Turn != InTurn {
		return nil, grant, nil
	}
	return w, Grant{}, err
}

// take takes a charge and, if that gives something, announces the write.
func (w *Write) take(charge Charge) (grant Grant, err error) {
	err = w.node.call(func(ctx context.Context) (err error) {
		grant, err = w.node.log.Take(ctx, charge, w.entry())
		return err
	})
	return grant, err
}

func (n *Node) newWrite(userID string) *Write {
	n.own.mu.Lock()
	defer n.own.mu.Unlock()
	n.own.last++
	w := &Write{node: n, number: n.own.last, userID: userID}
	n.own.writes[w.number] = w
	return w
}

func (w *Write) entry() Entry { return w.node.entry(Begins, w.number, w.userID) }

func (w *Write) end() Entry { return w.node.entry(Ends, w.number, w.userID) }

// announce appends the beginning of a write, and holds the write up for as long as others may
// believe what they remember. With a turn it asks for that, too: if it isn't the write's, that must not be sent. A write
// of which the log doesn't say so in that time is sent.
func (w *Write) announce(ctx context.Context, turn *Turn) (grant Grant) {
	n := w.node
	roll := n.own.roll.Load()
	asked := turn != nil && n.insist(ctx, func() (err error) {
		grant, err = w.take(Charge{UserID: w.userID, Turn: turn})
		return err
	})
	switch {
	case grant.Turn != InTurn:
		n.own.remove(w)
		n.tell(w.end()) // a call that failed may have announced it
	case asked || n.insist(ctx, func() error { return n.append(w.entry()) }):
		n.own.announced(w, roll, n.now())
	default:
		n.stats.Unannounced.Add(1)
	}
	return grant
}

// End must be called when a write is over, before its client is told. It waits for nothing if the
// write was announced and the others may be told of its end a moment later: until then they
// take it for in flight.
//
//	1 write at A: begins, which is appended; another server takes over, which doesn't have it
//	2 node B:     joins that server's log, and later remembers the old state
//	1 write at A: is acknowledged
//
// So where the log was asked for roll, or hasn't answered of late, the end is told first.
func (w *Write) End(ctx context.Context) {
	n := w.node
	_, sure := n.own.remove(w)
	e := w.end()
	if sure && n.contact.sincePull(n.now()) < silence/2 {
		n.tell(e)
		return
	}
	if !n.insist(ctx, func() error { return n.append(e) }) {
		n.tell(e)
	}
}

// discard ends a write that won't be sent. A roll call may have told of it.
func (n *Node) discard(w *Write) {
	if announced, _ := n.own.remove(w); announced {
		n.tell(w.end())
	}
}

// insist makes a call, again and again while the log hasn't been silent for long, and reports
// whether that succeeded. A log that takes other calls, and not this one, is none to wait for either.
func (n *Node) insist(ctx context.Context, call func() error) (ok bool) {
	began := n.now()
	for {
		if n.contact.lasting() == nil && call() == nil {
			return true
		}
		if now := n.now(); max(n.contact.failed(now), now.Sub(began)) >= n.patience() {
			return false
		}
		select {
		case <-time.After(tick / 10):
		case <-ctx.Done():
			return false
		case <-n.ctx.Done():
			return false
		}
	}
}

// announced notes that a write is announced, as of a roll call.
func (o *ownWrites) announced(w *Write, roll uint64, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	w.announced, w.roll, w.told = true, roll, now
}

// remove ends a write, and reports whether it was announced, and whether all know of it for sure.
func (o *ownWrites) remove(w *Write) (announced, sure bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.writes, w.number)
	return w.announced, w.announced && w.roll == o.roll.Load()
}

// answerRollCall announces the writes in flight that weren't since the last roll call.
func (n *Node) answerRollCall() error {
	roll := n.own.roll.Load()
	var entries []Entry
	var writes []*Write
	n.own.mu.Lock()
	for _, w := range n.own.writes {
		if w.roll != roll {
			entries, writes = append(entries, w.entry()), append(writes, w)
		}
	}
	n.own.mu.Unlock()
	if len(entries) == 0 {
		return nil
	}
	if err := n.append(entries...); err != nil {
		return err
	}
	for _, w := range writes {
		if n.own.announced(w, roll, n.now()); !n.own.has(w) {
			n.tell(w.end()) // it has ended meanwhile
		}
	}
	return nil
}

// has reports whether a write is in flight.
func (o *ownWrites) has(w *Write) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.writes[w.number] != nil
}

// renewOwn has the others told again of writes that are in flight for long.
func (n *Node) renewOwn() {
	now := n.now()
	n.own.mu.Lock()
	defer n.own.mu.Unlock()
	for _, w := range n.own.writes {
		if w.announced && now.Sub(w.told) >= renewal {
			w.told = now
			n.tell(w.entry())
		}
	}
}
