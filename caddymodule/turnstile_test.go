package caddymodule

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

func TestClientsEnterByTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := newTurnstile(2, 2)
		var mu sync.Mutex
		var inside []string
		line := func(client string) {
			go func() {
				if err := gate.enter(t.Context(), client); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				inside = append(inside, client)
			}()
			synctest.Wait()
		}
		for range 5 {
			line("many")
		}
		line("few")
		line("one")
		for range 5 {
			gate.leave(inside[0])
			synctest.Wait()
			mu.Lock()
			inside = inside[1:]
			mu.Unlock()
		}
		want := []string{"many", "many"} // the last two of seven
		if !slices.Equal(inside, want) {
			t.Errorf("last in: %v, want %v", inside, want)
		}
		gate.leave("many")
		gate.leave("many")
		if gate.inside != 0 || len(gate.queues) != 0 || gate.turns.Len() != 0 {
			t.Errorf("left behind: %d inside, %d queues, %d turns", gate.inside, len(gate.queues), gate.turns.Len())
		}
	})
}

func TestClientThatMayNotEnterKeepsNobodyElseOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := newTurnstile(3, 2)
		ctx, cancel := context.WithCancel(t.Context())
		results := make(chan error, 10)
		for range 5 {
			go func() { results <- gate.enter(ctx, "many") }()
		}
		synctest.Wait()
		if len(results) != 2 {
			t.Fatalf("%d of one client are inside, want 2", len(results))
		}
		if err := gate.enter(ctx, "other"); err != nil {
			t.Fatal(err)
		}
		cancel()
		synctest.Wait()
		refused := 0
		for range 5 {
			if <-results != nil {
				refused++
			}
		}
		if refused != 3 {
			t.Errorf("%d gave up, want 3", refused)
		}
		gate.leave("many")
		gate.leave("other")
		gate.leave("many")
		if gate.inside != 0 || len(gate.queues) != 0 || gate.turns.Len() != 0 {
			t.Errorf("left behind: %d inside, %d queues, %d turns", gate.inside, len(gate.queues), gate.turns.Len())
		}
	})
}
