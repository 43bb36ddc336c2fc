package history

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// A checker that says yes to everything would let everything pass. The times are in
// nanoseconds; a write without an end may have happened at any time.
func TestJudgementOfHistoriesByHand(t *testing.T) {
	write := func(value int64, call, end time.Duration) operation {
		return operation{isWrite: true, value: value, call: call, end: end}
	}
	read := func(value int64, call, end time.Duration) operation {
		return operation{value: value, call: call, end: end}
	}
	for _, tt := range []struct {
		name string
		ops  []operation
		want porcupine.CheckResult
	}{
		{"nothing was written", []operation{read(0, 1, 2)}, porcupine.Ok},
		{"a read after a write", []operation{write(1, 1, 2), read(1, 3, 4)}, porcupine.Ok},
		{"an old read after a write", []operation{write(1, 1, 2), read(0, 3, 4)}, porcupine.Illegal},
		{"an old read during a write", []operation{write(1, 1, 9), read(0, 3, 4)}, porcupine.Ok},
		{"a new read during a write, then an old one", []operation{write(1, 1, 9), read(1, 2, 3), read(0, 4, 5)}, porcupine.Illegal},
		{"the same at a time", []operation{write(1, 1, 9), read(1, 2, 5), read(0, 4, 6)}, porcupine.Ok},
		{"a read of what was overwritten", []operation{write(1, 1, 2), write(2, 3, 4), read(1, 5, 6)}, porcupine.Illegal},
		{"a read of what nobody wrote", []operation{read(7, 1, 2)}, porcupine.Illegal},
		{"a read before its write", []operation{read(1, 1, 2), write(1, 3, 4)}, porcupine.Illegal},
		{"a lost write that nobody saw", []operation{write(1, 1, unknown), read(0, 2, 3)}, porcupine.Ok},
		{"a lost write that was seen late", []operation{write(1, 1, unknown), read(0, 2, 3), read(1, 4, 5)}, porcupine.Ok},
		{"a lost write that was seen, then not", []operation{write(1, 1, unknown), read(1, 2, 3), read(0, 4, 5)}, porcupine.Illegal},
		{"a lost write that was seen before it was sent", []operation{write(1, 4, unknown), read(1, 2, 3)}, porcupine.Illegal},
	} {
		for name, ops := range map[string][]operation{"all": tt.ops, "decisive": decisive(tt.ops)} {
			if got, _ := check(ops); got != tt.want {
				t.Errorf("%s, %s operations: %s, want %s", tt.name, name, got, tt.want)
			}
		}
	}
}

// What decisive leaves out makes no difference: in random histories, small enough to be
// checked whole, the verdict is the same.
func TestDecisiveOperationsHaveTheSameVerdict(t *testing.T) {
	verdicts := make(map[porcupine.CheckResult]int)
	for range 10_000 {
		var ops []operation
		writes := rand.Int64N(4)
		for value := int64(1); value <= writes; value++ {
			op := operation{isWrite: true, value: value, call: rand.N(20 * time.Nanosecond)}
			op.end = op.call + rand.N(10*time.Nanosecond)
			if rand.IntN(3) == 0 {
				op.end = unknown
			}
			ops = append(ops, op)
		}
		for range rand.IntN(6) {
			op := operation{value: rand.Int64N(writes + 1), call: rand.N(25 * time.Nanosecond)}
			op.end = op.call + rand.N(10*time.Nanosecond)
			ops = append(ops, op)
		}
		want, _ := check(ops)
		if got, _ := check(decisive(ops)); got != want {
			t.Fatalf("%v: %s, but %s of the decisive operations %v", ops, want, got, decisive(ops))
		}
		verdicts[want]++
	}
	if verdicts[porcupine.Ok] < 1000 || verdicts[porcupine.Illegal] < 1000 {
		t.Errorf("the histories are too dull: %v", verdicts)
	}
}

// What the two views make of a write that its client lost, and that the homeserver
// applied.
func TestAWriteThatItsClientLost(t *testing.T) {
	applied := map[int64]time.Duration{1: 5}
	ops := []operation{
		{isWrite: true, value: 1, call: 1, end: 2},
		{isWrite: true, value: 2, call: 1, end: 2}, // never applied
		{value: 0, call: 6, end: 7},
	}
	if got, _ := check(asClientsKnow(ops, applied)); got != porcupine.Ok {
		t.Error("a client can't know that its lost write was applied")
	}
	if got, _ := check(asTheHomeserverKnows(ops, applied)); got != porcupine.Illegal {
		t.Error("the homeserver knows that a lost write was applied")
	}
}

// A write that is applied late has until then.
func TestAWriteThatIsAppliedLate(t *testing.T) {
	applied := map[int64]time.Duration{1: 5}
	write := operation{isWrite: true, value: 1, call: 1, end: 2, acknowledged: true}
	for call, want := range map[time.Duration]porcupine.CheckResult{4: porcupine.Ok, 6: porcupine.Illegal} {
		ops := []operation{write, {value: 0, call: call, end: call}}
		for name, view := range map[string][]operation{"client": asClientsKnow(ops, applied), "homeserver": asTheHomeserverKnows(ops, applied)} {
			if got, _ := check(decisive(view)); got != want {
				t.Errorf("an old read at %d is %s as the %s knows it, want %s", call, got, name, want)
			}
		}
	}
}
