package gateway

import (
	"container/list"
	"context"
	"errors"
	"sync"
)

// turnstile lets only so many in at a time, and of one client fewer, unless it stands for
// many. Clients that wait get in by turns, one of each, so a client with many in line
// delays the others by no more than one. If too many wait, the last of the longest queue
// is sent away.
type turnstile struct {
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

func newTurnstile(all, each, room int) *turnstile {
	return &turnstile{all: all, each: each, room: room, queues: make(map[string]*queue)}
}

// enter waits to be let in, until ctx ends or errCrowded. Whoever is let in must
// leave.
func (t *turnstile) enter(ctx context.Context, client string, many bool) error {
	t.mu.Lock()
	q := t.queues[client]
	if q == nil {
		q = &queue{each: t.each}
		if many {
			q.each = t.all
		}
		t.queues[client] = q
	}
	called := make(chan bool, 1)
	place := q.waiting.PushBack(called)
	t.waiting++
	t.admit(client, q)
	if t.waiting > t.room {
		longest, queue := t.longest()
		t.take(queue, queue.waiting.Back()) <- false
		t.admit(longest, queue)
	}
	t.mu.Unlock()

	select {
	case in := <-called:
		if !in {
			return errCrowded
		}
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case in := <-called: // at the last moment
		if !in {
			return errCrowded
		}
		return nil
	default:
	}
	t.take(q, place)
	t.admit(client, q)
	return ctx.Err()
}

// longest returns the queue in which most wait. It needs the lock.
func (t *turnstile) longest() (client string, longest *queue) {
	for name, q := range t.queues {
		if longest == nil || q.waiting.Len() > longest.waiting.Len() {
			client, longest = name, q
		}
	}
	return client, longest
}

// take takes one who waits out of the queue. It needs the lock.
func (t *turnstile) take(q *queue, place *list.Element) chan<- bool {
	t.waiting--
	return q.waiting.Remove(place).(chan bool)
}

// leave makes room for the next.
func (t *turnstile) leave(client string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	q := t.queues[client]
	q.inside--
	t.inside--
	t.admit(client, q)
}

// admit lets in whom there is room for, after q has changed. It needs the lock.
func (t *turnstile) admit(client string, q *queue) {
	t.line(q)
	for t.inside < t.all && t.turns.Len() > 0 {
		next := t.turns.Remove(t.turns.Front()).(*queue)
		next.turn = nil
		t.take(next, next.waiting.Front()) <- true
		next.inside++
		t.inside++
		t.line(next)
	}
	if q.inside == 0 && q.waiting.Len() == 0 {
		delete(t.queues, client)
	}
}

// line gives a queue a turn, or takes it, as it may let somebody in.
func (t *turnstile) line(q *queue) {
	switch may := q.waiting.Len() > 0 && q.inside < q.each; {
	case may && q.turn == nil:
		q.turn = t.turns.PushBack(q)
	case !may && q.turn != nil:
		t.turns.Remove(q.turn)
		q.turn = nil
	}
}
