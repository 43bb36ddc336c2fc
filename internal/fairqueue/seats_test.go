package fairqueue

import (
	"fmt"
	"testing"
)

// The seats of one client are fewer than all.
func TestSeats(t *testing.T) {
	s := NewSeats(10, 3)
	got := 0
	for range 5 {
		if s.Take("a") {
			got++
		}
	}
	for i := range 20 {
		if s.Take(fmt.Sprint("b", i)) {
			got++
		}
	}
	if got != 10 || s.by["a"] != 3 {
		t.Errorf("%d seats are taken, %d by one", got, s.by["a"])
	}
	for range 3 {
		s.Leave("a")
	}
	if _, ok := s.by["a"]; ok || s.taken != 7 || !s.Take("c") {
		t.Errorf("%d seats are taken: %v", s.taken, s.by)
	}
}
