package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/stats"
)

// workers is how many requests can be under way. If more are due, they wait, and their
// wait is part of their latency.
const workers = 64

// settled is after how long messages are measured in a phase that has some: what gives way to them
// needs a few seconds to do so.
const settled = 10 * time.Second

// tally is what became of the requests of a schedule.
type tally struct {
	mu        sync.Mutex // guards all below
	requests  int
	statuses  map[string]int
	wrong     map[verdict]int
	limited   int     // 429 to clients that did nothing wrong
	latencies []int64 // since a request was due, in microseconds
	messages  []int64 // likewise, of messages that were due after settled
	examples  []string
}

func newTally() *tally {
	return &tally{statuses: make(map[string]int), wrong: make(map[verdict]int)}
}

// add counts an answer that came so long after it was due.
func (t *tally) add(r request, a answer, v verdict, after time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.requests++
	word := "none"
	if a.status != 0 {
		word = strconv.Itoa(a.status)
	}
	t.statuses[word]++
	if a.status == http.StatusTooManyRequests && r.token == "" {
		t.limited++
	}
	t.latencies = append(t.latencies, after.Microseconds())
	if r.kind == message && r.at >= settled {
		t.messages = append(t.messages, after.Microseconds())
	}
	t.note(v, fmt.Sprintf("%s: %d %.200s", r, a.status, a.body))
}

// note counts something wrong. The lock is held.
func (t *tally) note(v verdict, example string) {
	if v == right {
		return
	}
	t.wrong[v]++
	const some = 5
	if len(t.examples) < some {
		t.examples = append(t.examples, string(v)+": "+example)
	}
}

// found is note without the lock.
func (t *tally) found(v verdict, example string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.note(v, example)
}

// quantile of latencies, in milliseconds.
func (t *tally) quantile(q float64) float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	slices.Sort(t.latencies)
	return stats.Quantile(t.latencies, q) / 1000
}

// messageQuantile is quantile of messages, or nil if there were none.
func (t *tally) messageQuantile(q float64) *float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.messages) == 0 {
		return nil
	}
	slices.Sort(t.messages)
	ms := stats.Quantile(t.messages, q) / 1000
	return &ms
}

// errors are the statuses other than 200 and 204, and how many of each.
func (t *tally) errors() map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	errors := maps.Clone(t.statuses)
	delete(errors, "200")
	delete(errors, "204")
	return errors
}

// String names a request without its token.
func (r request) String() string {
	switch r.kind {
	case write:
		return "write by " + r.by.id
	case sync_:
		return "sync by " + r.by.id
	case preflight:
		return "preflight for " + r.of
	case list:
		return "list of " + r.of + " by " + r.by.id
	case message:
		return "message by " + r.by.id
	}
	who := "nobody"
	if r.by != nil {
		who = r.by.id
	}
	return "read of " + r.of + " by " + who
}

// play sends the requests of a schedule when they are due, and returns when all are
// answered. Messages wait for no other request of ours.
func (s *scene) play(ctx context.Context, requests []request, t *tally) error {
	slices.SortStableFunc(requests, func(a, b request) int { return int(a.at - b.at) })
	isMessage := func(r request) bool { return r.kind == message }
	rest := slices.DeleteFunc(slices.Clone(requests), isMessage)
	messages := slices.DeleteFunc(slices.Clone(requests), func(r request) bool { return !isMessage(r) })
	begin, sent := time.Now(), make(chan error, 1)
	go func() { sent <- s.playSome(ctx, begin, messages, t) }()
	return errors.Join(s.playSome(ctx, begin, rest, t), <-sent)
}

func (s *scene) playSome(ctx context.Context, begin time.Time, requests []request, t *tally) error {
	due := make(chan request)
	var all sync.WaitGroup
	for range min(cmp.Or(s.workers, workers), len(requests)) {
		all.Go(func() {
			for r := range due {
				a := s.world.send(ctx, s.base, r)
				t.add(r, a, s.judge(r, a), a.end.Sub(begin.Add(r.at)))
			}
		})
	}
	err := func() error {
		for _, r := range requests {
			if err := wait(ctx, begin.Add(r.at)); err != nil {
				return err
			}
			due <- r
		}
		return nil
	}()
	close(due)
	all.Wait()
	return err
}

// judge tells what is wrong with an answer.
func (s *scene) judge(r request, a answer) verdict {
	switch {
	case r.token != "":
		switch {
		case a.status == http.StatusUnauthorized, a.status == http.StatusTooManyRequests:
			return right
		case a.status == 0, a.status >= 500:
			return failed
		}
		return served
	case r.kind == preflight:
		return judgePreflight(a, s.preflight)
	case r.kind == read && r.by == s.world.outsider && s.world.hides:
		switch a.status {
		case http.StatusForbidden, http.StatusTooManyRequests:
			return right
		case http.StatusOK:
			return leak
		}
		return failed
	case r.kind != read || a.status != http.StatusOK:
		return judgeStatus(a.status)
	}
	v := s.world.ledger.judgeRead(r.of, a.body, a.begin, a.end, s.slack)
	if v == right && r.want != "" && presenceOf(a) != r.want {
		v = otherState
	}
	return v
}
