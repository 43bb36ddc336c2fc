package policy

import (
	"cmp"
	"container/heap"
	"slices"
	"strings"
	"sync"
	"time"
)

// TopLimited tells which users were over a limit most often, in the memory of a few users
// however many there are. It is safe for use by several goroutines.
//
// It is the space-saving sketch of Metwally, Agrawal and El Abbadi ("Efficient
// Computation of Frequent and Top-k Elements in Data Streams", 2005). While there is
// room each user has a counter. Then a new user takes over the smallest one, with
// its count: nobody who could still be among the most frequent is ever missing, at
// the price that a count may be too large, by what it was when it was taken over.
//
// Of n events with k counters, each user with more than n/k of them has one, and no
// count is too large by more than n/k.
type TopLimited struct {
	mu       sync.Mutex // guards all below
	capacity int

	// Each event moves one counter down, so it costs a few steps and no allocation.
	counters limitedHeap

	total uint64
	since time.Time
}

// limitedCounter is a counter.
type limitedCounter struct {
	userID      string
	count, over uint64
}

// LimitedUser is what is known of a user's events: how many there were lies between the two
// numbers, both included.
type LimitedUser struct {
	UserID          string
	AtLeast, AtMost uint64
}

// NewTopLimited returns a sketch of at most capacity users, at least 1.
func NewTopLimited(capacity int, now time.Time) *TopLimited {
	return &TopLimited{capacity: max(1, capacity), counters: limitedHeap{at: make(map[string]int)}, since: now}
}

// Add counts an event of a user.
func (t *TopLimited) Add(userID string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total++
	c := &t.counters
	i, known := c.at[userID]
	switch {
	case known:
		c.all[i].count++
	case len(c.all) < t.capacity:
		heap.Push(c, limitedCounter{userID: userID, count: 1})
		return
	default:
		smallest := &c.all[i]
		delete(c.at, smallest.userID)
		*smallest = limitedCounter{userID: userID, count: smallest.count + 1, over: smallest.count}
		c.at[userID] = i
	}
	heap.Fix(c, i)
}

// limitedHeap has the smallest count first, and at says where a user is.
type limitedHeap struct {
	all []limitedCounter
	at  map[string]int
}

func (h *limitedHeap) Len() int           { return len(h.all) }
func (h *limitedHeap) Less(i, j int) bool { return h.all[i].count < h.all[j].count }

func (h *limitedHeap) Swap(i, j int) {
	h.all[i], h.all[j] = h.all[j], h.all[i]
	h.at[h.all[i].userID], h.at[h.all[j].userID] = i, j
}

func (h *limitedHeap) Push(one any) {
	h.at[one.(limitedCounter).userID] = len(h.all)
	h.all = append(h.all, one.(limitedCounter))
}

// Pop is what container/heap asks for; nothing is ever taken out.
func (h *limitedHeap) Pop() any { panic("a counter is taken over, never removed") }

// Top returns all users that have a counter, those who may have caused the most events
// first, how many events there were of all users, and since when they are counted.
func (t *TopLimited) Top() (top []LimitedUser, total uint64, since time.Time) {
	t.mu.Lock()
	top = make([]LimitedUser, len(t.counters.all))
	for i, one := range t.counters.all {
		top[i] = LimitedUser{UserID: one.userID, AtLeast: one.count - one.over, AtMost: one.count}
	}
	total, since = t.total, t.since
	t.mu.Unlock()
	slices.SortFunc(top, func(a, b LimitedUser) int {
		return cmp.Or(cmp.Compare(b.AtMost, a.AtMost), cmp.Compare(b.AtLeast, a.AtLeast), strings.Compare(a.UserID, b.UserID))
	})
	return top, total, since
}

// Reset forgets all events.
func (t *TopLimited) Reset(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.counters.all) // lets go of the user IDs
	clear(t.counters.at)
	t.counters.all, t.total, t.since = t.counters.all[:0], 0, now
}
