package differential_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// tally counts cases by what became of them, and keeps those that break a law.
type tally struct {
	total, cases  int
	classes       map[string]int
	examples      map[string]string
	violations    []string
	since, spoken time.Time
}

func newTally(total int) *tally {
	now := time.Now()
	return &tally{total: total, classes: make(map[string]int), examples: make(map[string]string), since: now, spoken: now}
}

// done counts a case, and says now and then how far it is.
func (y *tally) done(t *testing.T) {
	y.cases++
	if time.Since(y.spoken) > 10*time.Second {
		y.spoken = time.Now()
		t.Logf("… %d of %d", y.cases, y.total)
	}
}

// count adds one to a class.
func (y *tally) count(format string, args ...any) { y.classes[fmt.Sprintf(format, args...)]++ }

// differ adds one to a class of answers that differ, which is reported with an example.
func (y *tally) differ(r request, format string, args ...any) {
	class := fmt.Sprintf(format, args...)
	y.classes[class]++
	if example := r.String(); y.examples[class] == "" || len(example) < len(y.examples[class]) {
		y.examples[class] = example
	}
}

// violate notes that a law was broken.
func (y *tally) violate(format string, args ...any) {
	y.violations = append(y.violations, fmt.Sprintf(format, args...))
}

// of returns how many are in the classes whose names begin so.
func (y *tally) of(prefix string) (n int) {
	for class, count := range y.classes {
		if strings.HasPrefix(class, prefix) {
			n += count
		}
	}
	return n
}

// report fails the test if a law was broken, and logs the figures.
func (y *tally) report(t *testing.T) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "%d cases of seed %d in %s:\n", y.cases, *seed, time.Since(y.since).Round(100*time.Millisecond))
	names := make([]string, 0, len(y.classes))
	for name := range y.classes {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&b, "%7d  %s\n", y.classes[name], name)
		if example := y.examples[name]; example != "" {
			fmt.Fprintf(&b, "         such as %s\n", example)
		}
	}
	t.Log(b.String())
	for i, violation := range y.violations {
		if i == 10 {
			t.Errorf("… and %d more", len(y.violations)-i)
			break
		}
		t.Error(violation)
	}
}
