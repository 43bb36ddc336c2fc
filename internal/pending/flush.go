package pending

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	// flushTimeout is how long all that wait have when a configuration ends: less than what
	// Docker (10 s) and systemd (90 s) give a process to stop by default. Caddy's own unit gives
	// 5 s, which ends them sooner.
	flushTimeout = 8 * time.Second

	// maxFlushing is how many users' writes are flushed at a time.
	maxFlushing = 32
)

// Flush delivers what waits of a configuration that ends, and returns when that
// is done, or given up. No more will wait. It reports whether anything did.
func (s *Source) Flush() bool {
	users := s.end()
	if len(users) == 0 {
		return false
	}
	patience, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	places := make(chan struct{}, maxFlushing)
	var all sync.WaitGroup
	for _, u := range users {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			s.flushUser(patience, u)
		})
	}
	all.Wait()
	s.writes.drop(Lost, func(w *Write) bool { return w.source == s })
	return true
}

// end returns the users who have writes that wait, the first time that it is called.
func (s *Source) end() (users []*user) {
	p := s.writes
	p.mu.Lock()
	defer p.unlock()
	if s.ended {
		return nil
	}
	s.ended = true
	for _, u := range p.users {
		if u.concerns(s) {
			users = append(users, u)
		}
	}
	return users
}

// flushUser delivers what waits of a user, until nothing of this configuration's does.
func (s *Source) flushUser(patience context.Context, u *user) {
	p := s.writes
	end, _ := patience.Deadline()
	for patience.Err() == nil {
		p.mu.Lock()
		busy, concerned := u.delivering, u.concerns(s)
		p.mu.Unlock()
		switch {
		case !concerned:
			return
		case busy == nil:
			p.deliverQueue(u, end)
			continue
		}
		select {
		case <-busy:
		case <-patience.Done():
		}
	}
}

// concerns reports whether a write of a source waits or is being delivered. It needs the
// lock.
func (u *user) concerns(s *Source) bool {
	return u.sent != nil && u.sent.source == s ||
		slices.ContainsFunc(u.queue, func(w *Write) bool { return w.source == s })
}
