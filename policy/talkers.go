package policy

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Talkers tells who causes the most events of a kind, in the memory of a few users
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
type Talkers struct {
	mu       sync.Mutex // guards all below
	capacity int

	// heap has the smallest count first, and at says where in it a user is. Each
	// event moves one counter down, so it costs a few steps and no allocation.
	heap []talker
	at   map[string]int

	total uint64
	since time.Time
}

// talker is a counter.
type talker struct {
	userID      string
	count, over uint64
}

// Talker is what is known of a user's events: how many there were lies between the two
// numbers, both included.
type Talker struct {
	UserID          string
	AtLeast, AtMost uint64
}

// NewTalkers returns a sketch of at most capacity users, at least 1.
func NewTalkers(capacity int, now time.Time) *Talkers {
	return &Talkers{capacity: max(1, capacity), at: make(map[string]int), since: now}
}

// Add counts an event of a user.
func (t *Talkers) Add(userID string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total++
	i, known := t.at[userID]
	switch {
	case known:
		t.heap[i].count++
	case len(t.heap) < t.capacity:
		i = len(t.heap)
		t.heap = append(t.heap, talker{userID: userID, count: 1})
		t.at[userID] = i
		t.up(i)
		return
	default:
		i = 0
		smallest := &t.heap[i]
		delete(t.at, smallest.userID)
		*smallest = talker{userID: userID, count: smallest.count + 1, over: smallest.count}
		t.at[userID] = i
	}
	t.down(i)
}

// up and down restore the order of the heap after the count at i has become smaller
// or larger than it was.
func (t *Talkers) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if t.heap[parent].count <= t.heap[i].count {
			return
		}
		t.swap(i, parent)
		i = parent
	}
}

func (t *Talkers) down(i int) {
	for {
		smallest := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(t.heap); child++ {
			if t.heap[child].count < t.heap[smallest].count {
				smallest = child
			}
		}
		if smallest == i {
			return
		}
		t.swap(i, smallest)
		i = smallest
	}
}

func (t *Talkers) swap(i, j int) {
	t.heap[i], t.heap[j] = t.heap[j], t.heap[i]
	t.at[t.heap[i].userID], t.at[t.heap[j].userID] = i, j
}

// Top returns all users that have a counter, those who may have caused the most events
// first, how many events there were of all users, and since when they are counted.
func (t *Talkers) Top() (talkers []Talker, total uint64, since time.Time) {
	t.mu.Lock()
	talkers = make([]Talker, len(t.heap))
	for i, one := range t.heap {
		talkers[i] = Talker{UserID: one.userID, AtLeast: one.count - one.over, AtMost: one.count}
	}
	total, since = t.total, t.since
	t.mu.Unlock()
	slices.SortFunc(talkers, func(a, b Talker) int {
		return cmp.Or(cmp.Compare(b.AtMost, a.AtMost), cmp.Compare(b.AtLeast, a.AtLeast), strings.Compare(a.UserID, b.UserID))
	})
	return talkers, total, since
}

// Reset forgets all events.
func (t *Talkers) Reset(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.heap) // lets go of the user IDs
	clear(t.at)
	t.heap, t.total, t.since = t.heap[:0], 0, now
}
