package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/flight"
)

// Memory is what a process remembers, as far as others' entries concern it.
type Memory interface {
	// Begin is called when another node's write begins, and returns what ends it.
	Begin(userID string) Fence
	// Active, TokenEnded, UserEnded and MembershipChanged are as their entries say.
	Active(userID string)
	TokenEnded(token string)
	UserEnded(userID string)
	MembershipChanged(userID string)
	Purged(userID string)
	Forgotten(userID string)
	Refilled(userID string)
	// Flush drops what is known of presences, and keeps nothing that departs within a time from
	// now. If entries were missed, whose a token is and who may see whom is doubtful too.
	Flush(keepsNothingFor time.Duration, missed bool)
}

// Fence is there as long as another node's write is in flight.
type Fence interface{ End() }

// Reporter is told what becomes of a node. It may not call the node.
type Reporter interface {
	Up(nodes int)
	Down(why error)
	Nodes(were, are int) // others have come, or aren't heard of any more
	Flushed(why Doubt)
	Warn(message string) // of what an admin has to see to
}

const (
	// tick is how often a node pulls though nobody asks for it: it takes part, and stays near the
	// log's end.
	tick = 250 * time.Millisecond

	// silence is after which time without a pull what is remembered is dropped. A write that
	// couldn't be announced for longer than that isn't held up any more. So whoever doesn't know
	// of it doesn't believe their memory either, if it is the log that nobody could reach:
	//
	//	1 node B: pulls
	//	2 the log stops
	//	3 write at A: can't be announced; waits, from the first call that failed on, which left
	//	  a timeout before 2 at the earliest
	//	3 write at A: is sent and acknowledged, silence and two timeouts later
	//	1 node B: pulls, by a call that leaves a timeout before that at the earliest, and so longer
	//	  than silence after its last: it drops everything
	silence = time.Second

	// grace is for how long nothing is kept after memory was dropped. By its end each node has
	// pulled the roll call, and said which of its writes are in flight.
	grace = time.Second

	// lasting is for how long another node's write counts as in flight if nothing more is said of
	// it. A node says again what is in flight each renewal.
	lasting, renewal = time.Minute, 20 * time.Second
)

// Rules say how a node goes about its log.
type Rules struct {
	Timeout  time.Duration    // of a call
	Panicked func(reason any) // is told of panics, or nil
}

// Node is one process's part in a cluster. It is safe for use by several goroutines. Close it.
type Node struct {
	id     string
	log    Log
	rules  Rules
	memory Memory
	report Reporter
	now    func() time.Time

	barrier barrier
	contact contact
	outbox  outbox
	own     ownWrites
	remote  remoteWrites

	// due tells that the next barrier has to be a pull, though the log may have gained nothing.
	due atomic.Bool

	// position is where the node has come to, and answered tells that all has been done about what was pulled
	// until there. Only the pull in flight has to do with them.
	position Position
	answered bool

	nodes atomic.Int64 // that were there at the last pull
	stats Stats

	ctx     context.Context // until Close
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// Stats are counted since the node began.
type Stats struct {
	Barriers    atomic.Uint64 // pulls
	Lag         atomic.Int64  // entries that the last pull brought
	Unannounced atomic.Uint64 // writes that the others couldn't be told of in time
}

// NewNode returns a node that takes part at once, and as soon as its log can be reached.
func NewNode(log Log, rules Rules, memory Memory, report Reporter, now func() time.Time) *Node {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	n := &Node{id: hex.EncodeToString(id[:]), log: log, rules: rules, memory: memory, report: report, now: now}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.barrier.pull, n.barrier.panicked = n.pull, rules.Panicked
	n.contact.lastPull = now().Add(-silence) // there is none
	n.contact.report = report
	n.nodes.Store(1)
	n.own.writes, n.remote.writes = make(map[uint64]*Write), make(map[remoteKey]*remoteWrite)
	n.outbox.wake = make(chan struct{}, 1)
	n.running.Go(n.watch)
	n.running.Go(n.deliver)
	return n
}

// Close tells what is left to be told, if that can be done at once, and ends the node's part.
func (n *Node) Close() {
	n.cancel()
	n.running.Wait()
	n.emptyOutbox()
	_ = n.log.Close()
	n.remote.endAll()
}

// Nodes returns how many nodes there were when that was last known, with this one.
func (n *Node) Nodes() int { return int(max(1, n.nodes.Load())) }

// Up tells that the log could be reached.
func (n *Node) Up() bool { return n.contact.isUp() }

// Stats returns what the node has counted.
func (n *Node) Stats() *Stats { return &n.stats }

// watch does what is to be done though nobody asks for it.
func (n *Node) watch() {
	n.guard(func() { _ = n.barrier.pass() })
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-ticker.C:
			n.guard(func() {
				n.due.Store(true)
				if n.barrier.pass() == nil { // if not, whoever needs it asks for one of their own
					n.contact.attend(n.Nodes(), n.now())
				}
				n.renewOwn()
				n.remote.expire(n.now())
			})
		}
	}
}

// guard calls f. A panic is told of, and no more.
func (n *Node) guard(f func()) { _ = flight.Guard(n.rules.Panicked, f) }

// Barrier waits for a pull that left after it was called. Without an error, what is remembered
// now is what the homeserver would have shown at some time since. While the log can't be reached
// it doesn't wait.
func (n *Node) Barrier() error {
	if err := n.contact.lasting(); err != nil {
		return err
	}
	return n.barrier.pass()
}

// call calls the log with a deadline, and notes how that ends.
func (n *Node) call(f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), n.rules.Timeout)
	defer cancel()
	left := n.now()
	err := f(ctx)
	n.note(err, left)
	return err
}

// note notes how a call ended that left at some time.
func (n *Node) note(err error, left time.Time) {
	if n.ctx.Err() == nil {
		n.contact.note(err, left, n.now(), n.Nodes())
	}
}

// Take takes events from a budget. While the log can't be reached it doesn't wait.
func (n *Node) Take(charge Charge) (grant Grant, err error) {
	if err := n.contact.lasting(); err != nil {
		return Grant{}, err
	}
	err = n.call(func(ctx context.Context) (err error) {
		grant, err = n.log.Take(ctx, charge)
		return err
	})
	return grant, err
}

// append appends entries.
func (n *Node) append(entries ...Entry) error {
	return n.call(func(ctx context.Context) error { return n.log.Append(ctx, entries...) })
}

// entry is one of this node's.
func (n *Node) entry(kind Kind, write uint64, subject string) Entry {
	return Entry{Kind: kind, Node: n.id, Write: write, Subject: subject}
}
