package caddymodule

import (
	"container/list"
	"context"
	"sync"
)

// turnstile lets only so many in at a time, and of one client fewer. Clients that
// wait get in by turns, one of each, so a client with many in line delays the
// others by no more than one.
type turnstile struct {
	all, each int // how many at a time, of all clients and of one

	mu     sync.Mutex // guards all below, and what the queues hold
	inside int
	queues map[string]*queue
	turns  list.List // the queues that somebody may be let in from, next in turn first
}

// queue is what there is of one client: who is inside and who waits.
type queue struct {
	inside  int
	waiting list.List     // of chan struct{}, closed to let in
	turn    *list.Element // in turns, or nil
}

func newTurnstile(all, each int) *turnstile {
	return &turnstile{all: all, each: each, queues: make(map[string]*queue)}
}

// enter waits to be let in, until ctx ends. Whoever is let in must leave.
func (t *turnstile) enter(ctx context.Context, client string) error {
	t.mu.Lock()
	q := t.queues[client]
	if q == nil {
		q = new(queue)
		t.queues[client] = q
	}
	entered := make(chan struct{})
	place := q.waiting.PushBack(entered)
	t.admit(client, q)
	t.mu.Unlock()

	select {
	case <-entered:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-entered: // at the last moment
		return nil
	default:
	}
	q.waiting.Remove(place)
	t.admit(client, q)
	return ctx.Err()
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
		close(next.waiting.Remove(next.waiting.Front()).(chan struct{}))
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
	switch may := q.waiting.Len() > 0 && q.inside < t.each; {
	case may && q.turn == nil:
		q.turn = t.turns.PushBack(q)
	case !may && q.turn != nil:
		t.turns.Remove(q.turn)
		q.turn = nil
	}
}
