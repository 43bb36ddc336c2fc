package cluster

import (
	"context"
	"time"
)

// Doubt is why all that was remembered is dropped.
type Doubt int

const (
	NoDoubt     Doubt = iota
	Joined            // the node has just begun
	Gap               // there were entries that the log no longer has
	OtherLog          // the log has been begun anew
	OtherServer       // another server has taken over, and may not have the last entries
	Silence           // the log couldn't be reached for so long that others don't wait to announce their writes
	Told              // another node says so
	Doubts
)

// DoubtNames are what they are called in metrics.
var DoubtNames = [Doubts]string{Joined: "joined", Gap: "gap", OtherLog: "other_log", OtherServer: "promotion", Silence: "silence", Told: "told"}

// pull brings the node to where the log ended when it was called. There is one at a time.
func (n *Node) pull() error {
	n.stats.Barriers.Add(1)
	left := n.now()
	silent := n.contact.sincePull(left) >= silence
	joined := n.position != (Position{})
	if whole := n.due.Swap(false); !whole && !silent && joined && n.answered && n.stats.Lag.Load() == 0 {
		if ends, err := n.ends(); ends || err != nil {
			return err
		}
	}
	n.answered = false
	if !joined {
		if err := n.resync(Joined); err != nil {
			return err
		}
	}
	if err := n.catchUp(); err != nil {
		return err
	}
	if silent && joined {
		if err := n.append(n.entry(RollCall, 0, "")); err != nil {
			return err
		}
		n.drop(Silence, false)
	}
	if err := n.answerRollCall(); err != nil {
		return err
	}
	n.answered = true
	n.contact.notePull(left)
	return nil
}

// ends tells that there is nothing to be pulled. It is no pull: who hasn't made one for long doesn't take part.
func (n *Node) ends() (ends bool, err error) {
	left := n.now()
	ends, err = n.log.Ends(time.Now().Add(n.rules.Timeout), n.position)
	n.note(err, left)
	if ends {
		n.stats.Lag.Store(0)
	}
	return ends, err
}

// catchUp pulls and applies entries until where the log ended when that began.
func (n *Node) catchUp() error {
	for end, lag := uint64(0), 0; ; {
		pulled, err := n.pullAfter(n.position)
		if err != nil {
			return err
		}
		if doubt := n.doubts(&pulled); doubt != NoDoubt {
			if err := n.resync(doubt); err != nil {
				return err
			}
			end = 0
			continue
		}
		if end == 0 {
			end = pulled.Head
		}
		if lag += len(pulled.Entries); !n.apply(pulled.Entries) {
			n.drop(Told, true) // what couldn't be told may have been anything
		}
		n.position = pulled.At
		if n.position.Seq >= end {
			n.stats.Lag.Store(int64(lag))
			return nil
		}
	}
}

// pullAfter pulls once.
func (n *Node) pullAfter(position Position) (pulled Pulled, err error) {
	err = n.call(func(ctx context.Context) (err error) {
		if pulled, err = n.log.Pull(ctx, n.id, position); err == nil {
			n.nodes.Store(int64(pulled.Nodes))
		}
		return err
	})
	if err == nil && pulled.Warning != "" {
		n.report.Warn(pulled.Warning)
	}
	return pulled, err
}

// doubts tells of what was pulled that it doesn't continue what is known.
func (n *Node) doubts(pulled *Pulled) Doubt {
	switch {
	case pulled.At.Log != n.position.Log:
		return OtherLog
	case pulled.At.Server != n.position.Server:
		return OtherServer
	}
	seq := n.position.Seq
	for _, e := range pulled.Entries {
		if seq++; e.Seq != seq {
			return Gap
		}
	}
	if pulled.Head < seq || pulled.Head > seq && len(pulled.Entries) == 0 {
		return Gap
	}
	return NoDoubt
}

// resync begins anew at the log's end. What is remembered may be wrong, and writes may be in flight
// that the node hasn't heard of. It asks for these, and keeps nothing until they are told. Its
// own it tells again: another log, or another server, may not have them. What is appended
// meanwhile comes after the position:
//
//	1 node A: takes the log's end for its position
//	2 write at B: begins, which is appended
//	1 node A: calls the roll
//	2 node B: hears it, and has nothing to say that it hasn't said since 1
func (n *Node) resync(doubt Doubt) error {
	pulled, err := n.pullAfter(Position{})
	if err != nil {
		return err
	}
	n.own.roll.Add(1)
	if err := n.append(n.entry(RollCall, 0, "")); err != nil {
		return err
	}
	if err := n.answerRollCall(); err != nil {
		return err
	}
	n.drop(doubt, true)
	n.position = pulled.At
	return nil
}

// drop drops what is remembered, and keeps nothing for a while.
func (n *Node) drop(doubt Doubt, missed bool) {
	n.memory.Flush(grace, missed)
	n.report.Flushed(doubt)
}

// apply does what others' entries say. It reports false if everything is to be dropped.
func (n *Node) apply(entries []Entry) (ok bool) {
	ok = true
	for i := range entries {
		e := &entries[i]
		if e.Node == n.id {
			continue
		}
		switch e.Kind {
		case Begins:
			n.remote.begin(n, e)
		case Ends:
			n.remote.end(n, e)
		case Active:
			n.memory.Active(e.Subject)
		case TokenEnded:
			n.memory.TokenEnded(e.Subject)
		case UserEnded:
			n.memory.UserEnded(e.Subject)
		case Membership:
			n.memory.MembershipChanged(e.Subject)
		case Purged:
			n.memory.Purged(e.Subject)
		case Forgotten:
			n.memory.Forgotten(e.Subject)
		case Refilled:
			n.memory.Refilled(e.Subject)
		case RollCall:
			n.own.roll.Add(1)
		default: // Flush, and what a later version says
			ok = false
		}
	}
	return ok
}
