package cluster

import (
	"context"
	"errors"
	"time"
)

// Log is what the nodes share: a log to which all append, and their users' budgets. A call that
// fails may have been carried out all the same. It is safe for use by several goroutines.
type Log interface {
	// Take takes events from a budget and, if there were any, appends the entries, in one step.
	Take(ctx context.Context, charge Charge, entries ...Entry) (Grant, error)

	// Append appends entries, in one step.
	Append(ctx context.Context, entries ...Entry) error

	// Pull returns what was appended after a position, or at the zero position nothing but where
	// the log ends. It must fail wherever Append would: a server that no longer takes entries
	// doesn't know of those that another takes.
	Pull(ctx context.Context, node string, after Position) (Pulled, error)

	// Ends tells that the log ends at a position that a pull has brought, so that a pull would bring nothing
	// new. It may not know, and then a pull does. It must fail wherever Append would, and costs less than a pull. It fails if
	// that isn't known by then.
	Ends(by time.Time, at Position) (ends bool, err error)

	// Close ends its connections. Calls under way fail.
	Close() error
}

// ErrForeign is part of the error of a log that another kind of node has begun, by another secret
// or in another format. It has to be seen to by an admin.
var ErrForeign = errors.New("the cluster is another one")

// Kind is what an entry says.
type Kind byte

const (
	Begins     Kind = 'b' // a write of the subject's presence is about to be sent
	Ends       Kind = 'e' // it is over; also said of a write that wasn't announced, or may have been one
	Active     Kind = 'a' // the subject did something by which a homeserver takes them for active
	TokenEnded Kind = 't' // a token has ended, or may have; the subject is what tells tokens apart
	UserEnded  Kind = 'u' // all of the subject's have
	Membership Kind = 'm' // the subject has joined or left a room, or may have; none: anybody may have
	Flush      Kind = 'f' // something that couldn't be told: drop everything
	RollCall   Kind = 'r' // say again which writes are in flight
	Waits      Kind = 'w' // a write of the subject's was acknowledged and waits at its node; told to the others as Active
	Done       Kind = 'd' // it waits no more; told to nobody
	Purged     Kind = 'p' // an admin has what is cached of the subject dropped; none: of everybody
	Forgotten  Kind = 'o' // likewise all that is known of the subject, but for their budgets
	Refilled   Kind = 'z' // an admin gives the subject full budgets: the log has dropped those that it had
)

// Entry is one of the log.
type Entry struct {
	Seq     uint64 // set by the log: one more than that of the entry before
	Kind    Kind
	Node    string // whose it is
	Write   uint64 // of a write, its number at its node
	Subject string

	// Of a write that waits: its device, as of a [Turn], and whether it merges. They aren't kept in the log.
	Device string
	Merges bool
}

// Position is a place in a log: behind an entry. The zero position is where the log ends.
type Position struct {
	// Log names the log, and Server who keeps it. Another log has nothing of this one, and another
	// server may have lost the last entries.
	Log, Server string

	Seq uint64 // of the entry
	ID  string // which the log gave it
}

// Pulled is what a pull brings.
type Pulled struct {
	At      Position // behind the last of the entries, or at the log's end if there were none
	Entries []Entry  // the first of those after the position
	Head    uint64   // the number of the log's last entry
	Nodes   int      // who have pulled of late, with this one
	Warning string   // what an admin has to see to, told once
}

// Budget is one of a user's.
type Budget byte

const (
	Writes Budget = 'w'
	Reads  Budget = 'r'
	Syncs  Budget = 's'
)

// Charge is what to take from which budget.
type Charge struct {
	Budget Budget
	UserID string

	// The budget has so many events, and one is refilled in each interval.
	Interval time.Duration
	Burst    int64

	Most int64 // events to take; fewer are taken if there are no more
	Debt int64 // above 0: take them whether or not there are, up to so many beyond the budget

	// Turn, if there is one, names the write whose turn it has to be, or nothing is taken.
	Turn *Turn
}

// Turn tells a write from those of its user that wait. They are sent in the order in which they were
// acknowledged, whichever node and device they are of. Where a newer one doesn't wait for an older, because that
// one's node isn't heard of or there is no other time, the older is late and isn't sent any more.
type Turn struct {
	Node   string
	Device string // 32 hexadecimal digits that tell the user's devices apart, at all nodes
	Waited uint64 // the number under which it waited at its node, or 0 for one that has just come

	// Merges says that what it leaves at the homeserver depends on the write before it, so that it can't
	// take that one's place without it.
	Merges bool

	Last bool // there is no other time to send it
}

// Order says whether it is a write's turn.
type Order int

const (
	InTurn    Order = iota
	Behind          // an older one waits at another node, or is being sent
	TakenOver       // a newer one of the same device has taken its place
	Late            // a newer one of the user's was begun without it, which it would undo
)

// Grant is what a budget gave.
type Grant struct {
	Turn   Order // if it isn't in turn there are no events
	Events int64
	Wait   time.Duration // if it gave none, until there is one
}
