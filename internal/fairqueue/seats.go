package fairqueue

import "sync"

// Seats are places for work that nobody waits for: at most so many at a time, and of one
// client fewer, so that none takes all. Who finds no place goes without.
type Seats struct {
	all, each int

	mu    sync.Mutex // guards all below
	taken int
	by    map[string]int // of each client
}

// NewSeats returns so many places, none of them taken, and so many for each client.
func NewSeats(all, each int) *Seats {
	return &Seats{all: all, each: each, by: make(map[string]int)}
}

// Take reports whether there was a place. Whoever has got one must leave it.
func (s *Seats) Take(client string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken >= s.all || s.by[client] >= s.each {
		return false
	}
	s.taken++
	s.by[client]++
	return true
}

// Leave gives a place back.
func (s *Seats) Leave(client string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken--
	if s.by[client]--; s.by[client] == 0 {
		delete(s.by, client)
	}
}

// Len returns how many places are taken.
func (s *Seats) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken
}
