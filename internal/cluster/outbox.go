package cluster

import (
	"errors"
	"slices"
	"sync"
	"time"
)

// outbox has entries that may be told a moment later, in their order.
type outbox struct {
	wake chan struct{}

	mu      sync.Mutex // guards all below
	entries []Entry
	full    bool // some were dropped, and all are to drop everything and doubt whose tokens are
}

const (
	// maxOutbox is how many entries wait while the log can't be reached, some 150 bytes each.
	maxOutbox = 10_000
	// maxAlike is among how many of the last entries none is twice. Whoever sends messages all the time has
	// the same told again and again: that mustn't fill the log, nor have all drop everything once it is back.
	maxAlike = 8
	// maxTold is how many are told in one step.
	maxTold = 500
	// retry is after what time they are tried again.
	retry = 100 * time.Millisecond
)

// Tell has the others told that something has changed, or has ended. It waits for nothing.
func (n *Node) Tell(kind Kind, subject string) { n.tell(n.entry(kind, 0, subject)) }

func (n *Node) tell(e Entry) {
	o := &n.outbox
	o.mu.Lock()
	if !slices.Contains(o.entries[max(0, len(o.entries)-maxAlike):], e) { // what waits says it as well
		if len(o.entries) >= maxOutbox {
			o.overflow()
		}
		o.entries = append(o.entries, e)
	}
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// deliver tells what is in the outbox until the node is closed.
func (n *Node) deliver() {
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-n.outbox.wake:
		}
		for n.contact.lasting() != nil || !n.emptyOutbox() {
			select {
			case <-n.ctx.Done():
				return
			case <-time.After(retry):
			}
		}
	}
}

// emptyOutbox tells what there is to be told, and reports whether that was all.
func (n *Node) emptyOutbox() (all bool) {
	o := &n.outbox
	for {
		o.mu.Lock()
		told := o.entries
		if len(told) > maxTold {
			told = told[:maxTold:maxTold]
		}
		o.entries = o.entries[len(told):]
		full := o.full
		o.full = false
		o.mu.Unlock()
		if full {
			told = append([]Entry{n.entry(Flush, 0, "")}, told...)
		}
		if len(told) == 0 {
			return true
		}
		err := errNotAppended
		if n.guard(func() { err = n.append(told...) }); err != nil {
			o.putBack(told)
			return false
		}
	}
}

// errNotAppended is what has become of entries if the log panics.
var errNotAppended = errors.New("the cluster's log has panicked")

// overflow drops what waits but for what no flush makes up for: a write that waits no more has those of its user's
// other devices go on, and full budgets are the log's. Of these it keeps the last. It needs the lock.
func (o *outbox) overflow() {
	kept := slices.DeleteFunc(slices.Clone(o.entries), func(e Entry) bool { return e.Kind != Done && e.Kind != Refilled })
	o.entries, o.full = slices.Clone(kept[max(0, len(kept)-maxOutbox/2):]), true
}

// putBack puts back what could not be told, before what has come since.
func (o *outbox) putBack(told []Entry) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if told[0].Kind == Flush {
		told, o.full = told[1:], true
	}
	if o.entries = append(told, o.entries...); len(o.entries) > maxOutbox {
		o.overflow()
	}
}
