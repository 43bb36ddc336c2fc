package caddymodule

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
)

func TestNextFlightDepartsAfterItsPassengersCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flights[string, int]
		var departed atomic.Int32
		gates := []chan struct{}{make(chan struct{}), make(chan struct{}), make(chan struct{})}
		fly := func() int {
			n := int(departed.Add(1))
			<-gates[n-1]
			return n
		}
		first, own, depart := g.board("a", false, fly)
		if !own || depart == nil {
			t.Fatal("the first passenger has no flight to begin")
		}
		go depart()
		shared, own, depart := g.board("a", true, fly)
		if shared != first || own || depart != nil {
			t.Error("who may share the current flight doesn't")
		}
		second, own, depart := g.board("a", false, fly)
		if second == first || !own || depart != nil {
			t.Error("who may not share the current flight does, or begins one beside it")
		}
		if third, own, _ := g.board("a", false, fly); third != second || own {
			t.Error("the next flight isn't shared")
		}
		synctest.Wait()
		if departed.Load() != 1 {
			t.Fatalf("%d flights are in the air, want 1", departed.Load())
		}
		close(gates[0])
		synctest.Wait()
		// The second has departed: who comes now must not get on it.
		late, _, _ := g.board("a", false, fly)
		if late == second {
			t.Error("a passenger got on a flight that had departed")
		}
		close(gates[1])
		close(gates[2])
		for want, f := range map[int]*flight[int]{1: first, 2: second, 3: late} {
			<-f.landed
			if f.result != want {
				t.Errorf("flight %d brought %d", want, f.result)
			}
		}
		synctest.Wait()
		if len(g.lanes) != 0 {
			t.Errorf("%d lanes are left", len(g.lanes))
		}
	})
}

func TestFlightsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flights[int, int]
		gate := make(chan struct{})
		fly := func() int { <-gate; return 0 }
		for i := range maxFlights {
			f, _, depart := g.board(i, true, fly)
			if f == nil {
				t.Fatalf("no flight after %d", i)
			}
			go depart()
		}
		if f, _, _ := g.board(maxFlights, true, fly); f != nil {
			t.Error("there is no bound")
		}
		if f, _, _ := g.board(0, true, fly); f == nil {
			t.Error("a flight that is in the air can't be shared")
		}
		close(gate)
	})
}
