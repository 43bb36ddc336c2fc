package fairqueue

import (
	"container/list"
	"context"
	"errors"
	"sync"
)

// Queue lets only so many in at a time, and of one client fewer, unless it stands for
// many. Clients that wait get in by turns, one of each, so a client with many in line
// delays the others by no more than one. If too many wait, the last of the longest queue
// is sent away.
type Queue struct {
	all, each int // how many at a time, of all clients and of one
	room      int // how many may wait

	mu      sync.Mutex // guards all below, and what the queues hold
	inside  int
	waiting int
	queues  map[string]*queue
	turns   list.List // the queues that somebody may be let in from, next in turn first
}

// queue is what there is of one client: who is inside and who waits.
type queue struct {
	each    int // how many may be inside
	inside  int
	waiting list.List     // of chan bool: true lets in, false sends away
	turn    *list.Element // in turns, or nil
}

// errCrowded says that too many wait.
var errCrowded = errors.New("too many wait")

func New(all, each, room int) *Queue {
	return &Queue{all: all, each: each, room: room, queues: make(map[string]*queue)}
}

// Enter waits to be let in, until ctx ends or errCrowded. Whoever is let in must
// leave.
func (f *Queue) Enter(ctx context.Context, client string, many bool) error {
	f.mu.Lock()
	q := f.queues[client]
	if q == nil {
		q = &queue{each: f.each}
		if many {
			q.each = f.all
		}
		f.queues[client] = q
	}
	called := make(chan bool, 1)
	place := q.waiting.PushBack(called)
	f.waiting++
	f.admit(client, q)
	if f.waiting > f.room {
		longest, queue := f.longest()
		f.take(queue, queue.waiting.Back()) <- false
		f.admit(longest, queue)
	}
	f.mu.Unlock()

	select {
	case in := <-called:
		if !in {
			return errCrowded
		}
		return nil
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case in := <-called: // at the last moment
		if !in {
			return errCrowded
		}
		return nil
	default:
	}
	f.take(q, place)
	f.admit(client, q)
	return ctx.Err()
}

// longest returns the queue in which most wait. It needs the lock.
func (f *Queue) longest() (client string, longest *queue) {
	for name, q := range f.queues {
		if longest == nil || q.waiting.Len() > longest.waiting.Len() {
			client, longest = name, q
		}
	}
	return client, longest
}

// take takes one who waits out of the queue. It needs the lock.
func (f *Queue) take(q *queue, place *list.Element) chan<- bool {
	f.waiting--
	return q.waiting.Remove(place).(chan bool)
}

// Leave makes room for the next.
func (f *Queue) Leave(client string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	q := f.queues[client]
	q.inside--
	f.inside--
	f.admit(client, q)
}

// admit lets in whom there is room for, after q has changed. It needs the lock.
func (f *Queue) admit(client string, q *queue) {
	f.line(q)
	for f.inside < f.all && f.turns.Len() > 0 {
		next := f.turns.Remove(f.turns.Front()).(*queue)
		next.turn = nil
		f.take(next, next.waiting.Front()) <- true
		next.inside++
		f.inside++
		f.line(next)
	}
	if q.inside == 0 && q.waiting.Len() == 0 {
		delete(f.queues, client)
	}
}

// line gives a queue a turn, or takes it, as it may let somebody in.
func (f *Queue) line(q *queue) {
	switch may := q.waiting.Len() > 0 && q.inside < q.each; {
	case may && q.turn == nil:
		q.turn = f.turns.PushBack(q)
	case !may && q.turn != nil:
		f.turns.Remove(q.turn)
		q.turn = nil
	}
}
