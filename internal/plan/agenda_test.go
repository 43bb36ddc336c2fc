package plan

import (
	"slices"
	"testing"
	"time"
)

// What is due first happens first, at its time, and of what is due at the same time what was planned first.
func TestAgendaKeepsTheOrder(t *testing.T) {
	a := &agenda{now: start}
	var happened []int
	note := func(n int) func() {
		return func() { happened = append(happened, n, int(a.now.Sub(start)/time.Second)) }
	}
	for i, at := range []int{5, 1, 3, 1, 9, 2} {
		a.at(time.Duration(at)*time.Second, note(i))
	}
	a.at(2*time.Second, func() {
		a.in(-time.Second, note(6)) // it is late, and comes now
		a.in(2*time.Second, note(7))
	})
	a.runUntil(6 * time.Second)
	if want := []int{1, 1, 3, 1, 5, 2, 6, 2, 2, 3, 7, 4, 0, 5}; !slices.Equal(happened, want) {
		t.Errorf("number and second: %v, want %v", happened, want)
	}
	if got := a.now.Sub(start); got != 6*time.Second {
		t.Errorf("it is %v", got)
	}
}
