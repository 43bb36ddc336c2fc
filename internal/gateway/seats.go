package gateway

import "sync"

// seats are places for work that nobody waits for: at most so many at a time, and of one
// client fewer, so that none takes all. Who finds no place goes without.
type seats struct {
	all, each int

	mu    sync.Mutex // guards all below
	taken int
	by    map[string]int // of each client
}

func newSeats(all, each int) *seats {
	return &seats{all: all, each: each, by: make(map[string]int)}
}

// take reports whether there was a place. Whoever has got one must leave it.
func (s *seats) take(client string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken >= s.all || s.by[client] >= s.each {
		return false
	}
	s.taken++
	s.by[client]++
	return true
}

func (s *seats) leave(client string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken--
	if s.by[client]--; s.by[client] == 0 {
		delete(s.by, client)
	}
}

// len returns how many places are taken.
func (s *seats) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken
}
