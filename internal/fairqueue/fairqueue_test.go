package fairqueue

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

func TestClientsEnterByTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := New(2, 2, 100)
		var mu sync.Mutex
		var inside []string
		line := func(client string) {
			go func() {
				if err := gate.Enter(t.Context(), client, false); err != nil {
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
			gate.Leave(inside[0])
			synctest.Wait()
			mu.Lock()
			inside = inside[1:]
			mu.Unlock()
		}
		want := []string{"many", "many"} // the last two of seven
		if !slices.Equal(inside, want) {
			t.Errorf("last in: %v, want %v", inside, want)
		}
		gate.Leave("many")
		gate.Leave("many")
		if gate.inside != 0 || len(gate.queues) != 0 || gate.turns.Len() != 0 {
			t.Errorf("left behind: %d inside, %d queues, %d turns", gate.inside, len(gate.queues), gate.turns.Len())
		}
	})
}

func TestClientThatMayNotEnterKeepsNobodyElseOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := New(3, 2, 100)
		ctx, cancel := context.WithCancel(t.Context())
		results := make(chan error, 10)
		for range 5 {
			go func() { results <- gate.Enter(ctx, "many", false) }()
		}
		synctest.Wait()
		if len(results) != 2 {
			t.Fatalf("%d of one client are inside, want 2", len(results))
		}
		if err := gate.Enter(ctx, "other", false); err != nil {
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
		gate.Leave("many")
		gate.Leave("other")
		gate.Leave("many")
		if gate.inside != 0 || len(gate.queues) != 0 || gate.turns.Len() != 0 {
			t.Errorf("left behind: %d inside, %d queues, %d turns", gate.inside, len(gate.queues), gate.turns.Len())
		}
	})
}

func TestLongestQueueMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := New(2, 1, 10)
		var wg sync.WaitGroup
		var mu sync.Mutex
		in, away := make(map[string]int), make(map[string]int)
		line := func(client string) {
			wg.Go(func() {
				err := gate.Enter(t.Context(), client, false)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					in[client]++
				} else {
					away[client]++
				}
			})
			synctest.Wait()
		}
		for range 50 {
			line("many")
		}
		for range 3 {
			line("few")
		}
		for range 14 { // whoever leaves makes room for the next
			mu.Lock()
			for client := range in {
				if in[client] > 0 {
					in[client]--
					gate.Leave(client)
					break
				}
			}
			mu.Unlock()
			synctest.Wait()
		}
		wg.Wait()
		if away["few"] != 0 || away["many"] == 0 {
			t.Errorf("sent away: %v", away)
		}
		if gate.inside != 0 || gate.waiting != 0 || len(gate.queues) != 0 || gate.turns.Len() != 0 {
			t.Errorf("left behind: %d inside, %d waiting, %d queues, %d turns", gate.inside, gate.waiting, len(gate.queues), gate.turns.Len())
		}
	})
}
