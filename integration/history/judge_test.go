package history

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// operation is what a client did and saw.
type operation struct {
	client  int
	target  string
	isWrite bool
	value   int64 // written, or read; 0 is the state before the first write

	// The operation was done at one moment between these.
	call, end time.Duration

	acknowledged bool   // of a write; a read without an answer is no operation
	past         bool   // of a write: it went past the sidecar
	how          string // the Cache-Status of a read; the fate of a write
}

// unknown is the end of a write whose client never learns whether it was
// applied.
const unknown = time.Duration(math.MaxInt64)

func (op operation) String() string {
	name := "read"
	if op.isWrite {
		name = "write"
	}
	return fmt.Sprintf("client %d: %s %d (%s), %.3f to %.3f ms", op.client, name, op.value, op.how, ms(op.call), ms(op.end))
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// asClientsKnow says of every write what its client knows of it, except that a
// homeserver which applies writes late has done so later than that: the times are
// those at which it applied which value.
func asClientsKnow(ops []operation, applied map[int64]time.Duration) []operation {
	known := slices.Clone(ops)
	for i := range known {
		switch op := &known[i]; {
		case !op.isWrite:
		case op.acknowledged:
			op.end = max(op.end, applied[op.value])
		default:
			op.end = unknown
		}
	}
	return known
}

// asTheHomeserverKnows says of every write when the homeserver applied it, and leaves
// out those that it didn't. A write counts as going on until its client is told.
func asTheHomeserverKnows(ops []operation, applied map[int64]time.Duration) []operation {
	var known []operation
	for _, op := range ops {
		if op.isWrite {
			at, ok := applied[op.value]
			if !ok {
				continue
			}
			op.end = max(op.end, at)
		}
		known = append(known, op)
	}
	return known
}

// decisive leaves out operations that change nothing about whether a history is
// linearizable, because a search through all orders of operations takes a time that
// grows exponentially with how many there are at a time. No two writes
// write the same value, so
//
//   - in any linearization the reads of a value follow its write with no other write
//     between. Of these reads only the one that ended first and the one that was called last
//     matter: where the value is there from the one to the other, any other read of it
//     ended after the first and was called before the last, so it has a place;
//   - a write happened before the first of its reads had ended, even if nobody knows
//     when it ended itself;
//   - one that may have happened at any time, and whose value nobody read, can be put at
//     the end, so it can be left out.
func decisive(ops []operation) []operation {
	var kept []operation
	first, last := make(map[int64]operation), make(map[int64]operation)
	for _, op := range ops {
		if op.isWrite {
			continue
		}
		if known, ok := first[op.value]; !ok || op.end < known.end {
			first[op.value] = op
		}
		if known, ok := last[op.value]; !ok || op.call > known.call {
			last[op.value] = op
		}
	}
	for _, op := range ops {
		if !op.isWrite {
			continue
		}
		read, wasRead := first[op.value]
		if op.end == unknown && !wasRead {
			continue
		}
		if wasRead {
			op.end = max(op.call, min(op.end, read.end))
		}
		kept = append(kept, op)
	}
	for value, op := range first {
		kept = append(kept, op)
		if last[value] != op {
			kept = append(kept, last[value])
		}
	}
	return kept
}

// model is a register. The input of an operation is itself, and it has no output.
var model = porcupine.Model{
	Init: func() any { return int64(0) },
	Step: func(state, input, _ any) (bool, any) {
		op := input.(operation)
		return op.isWrite || op.value == state.(int64), op.value
	},
	DescribeOperation: func(input, _ any) string { return input.(operation).String() },
	DescribeState:     func(state any) string { return fmt.Sprint(state) },
}

// patienceWithChecker is how long the checker may take for one user's history. It
// takes milliseconds.
const patienceWithChecker = time.Minute

// check tells whether a history of one register is linearizable.
func check(ops []operation) (porcupine.CheckResult, porcupine.LinearizationInfo) {
	history := make([]porcupine.Operation, 0, len(ops))
	for _, op := range ops {
		history = append(history, porcupine.Operation{ClientId: op.client, Input: op, Call: int64(op.call), Return: int64(op.end)})
	}
	return porcupine.CheckOperationsVerbose(model, history, patienceWithChecker)
}

// judge fails the test unless the histories of all targets in a round are
// linearizable. It returns for how long the checker took at most.
func judge(t *testing.T, round int, hs *homeserver, ops []operation) (slowest time.Duration) {
	t.Helper()
	byTarget := make(map[string][]operation)
	for _, op := range ops {
		byTarget[op.target] = append(byTarget[op.target], op)
	}
	for _, target := range slices.Sorted(maps.Keys(byTarget)) {
		applied := hs.register(target).applied // nobody writes any more
		if hs.past {
			// The register is one as far as the feed has told: see outdated.
			if old := outdated(hs, byTarget[target], applied); len(old) > 0 {
				t.Fatalf("round %d: the history of %s as the clients know it is not linearizable, by what the feed had told\n%s", round+1, target, strings.Join(old, "\n"))
			}
			continue
		}
		for _, op := range byTarget[target] {
			if _, ok := applied[op.value]; op.isWrite && op.acknowledged && !ok {
				t.Errorf("the test is wrong: %v was acknowledged but not applied", op)
			}
		}
		for _, view := range []struct {
			name string
			ops  []operation
		}{
			{"clients know", asClientsKnow(byTarget[target], applied)},
			{"homeserver knows", asTheHomeserverKnows(byTarget[target], applied)},
		} {
			start := time.Now()
			result, info := check(decisive(view.ops))
			slowest = max(slowest, time.Since(start))
			if result == porcupine.Ok {
				continue
			}
			picture := draw(info)
			if result == porcupine.Unknown {
				t.Fatalf("round %d: the checker didn't come to an end with the history of %s in %v; a picture of it: %s", round+1, target, patienceWithChecker, picture)
			}
			t.Fatalf("round %d: the history of %s as the %s it is not linearizable; a picture of it: %s\n%s",
				round+1, target, view.name, picture, strings.Join(suspects(view.ops, applied), "\n"))
		}
	}
	return slowest
}

// draw makes a picture of a history, which outlives the test, and returns where it is.
func draw(info porcupine.LinearizationInfo) string {
	file, err := os.CreateTemp("", "history-*.html")
	if err != nil {
		return err.Error()
	}
	defer file.Close()
	if err := porcupine.Visualize(model, info, file); err != nil {
		return err.Error()
	}
	return file.Name()
}

// suspects describes the reads that are older than what was over when they began. It
// explains a verdict, and makes none.
func suspects(ops []operation, applied map[int64]time.Duration) []string {
	// By the end, and how new its value is: when that was applied.
	over := slices.SortedFunc(slices.Values(ops), func(a, b operation) int { return cmp.Compare(a.end, b.end) })
	newest := make([]operation, len(over)) // of those up to each
	for i, op := range over {
		newest[i] = op
		if i > 0 && applied[newest[i-1].value] > applied[op.value] {
			newest[i] = newest[i-1]
		}
	}
	var found []string
	for _, op := range ops {
		n, _ := slices.BinarySearchFunc(over, op.call, func(o operation, call time.Duration) int { return cmp.Compare(o.end, call) })
		if op.isWrite || n == 0 || applied[newest[n-1].value] <= applied[op.value] {
			continue
		}
		if found = append(found, fmt.Sprintf("\t%v\n\t\tbegan after the end of %v", op, newest[n-1])); len(found) == 5 {
			break
		}
	}
	return found
}
