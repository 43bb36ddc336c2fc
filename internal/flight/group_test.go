package flight

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

func TestNextCallBeginsAfterItsWaitersCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup[string, int](nil, nil)
		var begun atomic.Int32
		gates := []chan struct{}{make(chan struct{}), make(chan struct{}), make(chan struct{})}
		fn := func() int {
			n := int(begun.Add(1))
			<-gates[n-1]
			return n
		}
		first, own, run := g.Join("a", false, fn)
		if !own || run == nil {
			t.Fatal("the first has no call to begin")
		}
		go run()
		shared, own, run := g.Join("a", true, fn)
		if shared != first || own || run != nil {
			t.Error("who may share the current call doesn't")
		}
		second, own, run := g.Join("a", false, fn)
		if second == first || !own || run != nil {
			t.Error("who may not share the current call does, or begins one beside it")
		}
		if third, own, _ := g.Join("a", false, fn); third != second || own {
			t.Error("the next call isn't shared")
		}
		synctest.Wait()
		if begun.Load() != 1 {
			t.Fatalf("%d calls are under way, want 1", begun.Load())
		}
		close(gates[0])
		synctest.Wait()
		// The second has begun: who comes now must not join it.
		late, _, _ := g.Join("a", false, fn)
		if late == second {
			t.Error("somebody joined a call that had begun")
		}
		close(gates[1])
		close(gates[2])
		for want, c := range map[int]*Call[int]{1: first, 2: second, 3: late} {
			<-c.Done()
			if c.Result() != want {
				t.Errorf("call %d brought %d", want, c.Result())
			}
		}
		synctest.Wait()
		if len(g.calls) != 0 {
			t.Errorf("%d calls are left", len(g.calls))
		}
	})
}

func TestCallsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup[int, int](nil, nil)
		gate := make(chan struct{})
		fn := func() int { <-gate; return 0 }
		for i := range MaxCalls {
			c, _, run := g.Join(i, true, fn)
			if c == nil {
				t.Fatalf("no call after %d", i)
			}
			go run()
		}
		if c, _, _ := g.Join(MaxCalls, true, fn); c != nil {
			t.Error("there is no bound")
		}
		if c, _, _ := g.Join(0, true, fn); c == nil {
			t.Error("a call that is under way can't be shared")
		}
		close(gate)
	})
}

// A call whose function panicked blocked its key for ever: whoever waited for it, and all
// who came later, never got an answer.
func TestCallThatPanicsEndsWithAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup[string](nil, func(err error) error { return err })
		gate := make(chan struct{})
		first, _, run := g.Join("a", true, func() error { <-gate; panic("boom") })
		go run()
		shared, _, _ := g.Join("a", true, nil)
		// The next begins although the first has crashed, in a goroutine of its own.
		next, _, _ := g.Join("a", false, func() error { panic(errors.New("another")) })
		close(gate)
		<-first.Done()
		<-next.Done()
		for says, c := range map[string]*Call[error]{"boom": shared, "another": next} {
			if c.Result() == nil || !strings.Contains(c.Result().Error(), says) {
				t.Errorf("the call brought %v, want an error that says %s", c.Result(), says)
			}
		}
		synctest.Wait()
		if len(g.calls) != 0 {
			t.Errorf("%d calls are left", len(g.calls))
		}
		later, own, run := g.Join("a", true, func() error { return nil })
		if !own || run == nil {
			t.Fatal("the key is blocked")
		}
		if run(); later.Result() != nil {
			t.Errorf("the next call brought %v", later.Result())
		}
	})
}

func TestOnceMakesACallForEachKey(t *testing.T) {
	var o Once[string, int]
	calls := 0
	fn := func() int { calls++; return calls }
	first, run := o.Join("a", fn)
	if run == nil {
		t.Fatal("the first has no call to begin")
	}
	if shared, run := o.Join("a", fn); shared != first || run != nil {
		t.Error("the call isn't shared")
	}
	run()
	<-first.Done()
	if late, run := o.Join("a", fn); late != first || run != nil || late.Result() != 1 {
		t.Error("a call that is over is made again")
	}
	if other, run := o.Join("b", fn); other == first || run == nil {
		t.Error("another key has no call of its own")
	}
}
