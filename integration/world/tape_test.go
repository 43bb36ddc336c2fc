package world_test

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"pgregory.net/rapid"
)

// tape is what has been drawn for a plan, by names. So the same plan can be drawn once more when
// the axes have got other values, in another order, or there are more of them: what isn't on the
// tape is the plainest then.
type tape struct {
	lines []string // label: name
	plays bool     // draws are taken from the lines, and not noted there
	next  int      // line
}

// drawing is the tape of the plan that is being drawn. There is one at a time.
var drawing = new(tape)

const cut = "step ----"

// begin is called before a plan is drawn.
func (d *tape) begin() {
	d.next = 0
	if !d.plays {
		d.lines = nil
	}
}

// cut is called before each step: no draw of one step is taken for one of another.
func (d *tape) cut() {
	if !d.plays {
		d.lines = append(d.lines, cut)
		return
	}
	if i := slices.Index(d.lines[d.next:], cut); i >= 0 {
		d.next += i + 1
	} else {
		d.next = len(d.lines)
	}
}

// index draws the index of a name among others, by calling draw.
func (d *tape) index(label string, names []string, draw func() int) int {
	if !d.plays {
		i := draw()
		d.lines = append(d.lines, label+": "+names[i])
		return i
	}
	for i, line := range d.lines[d.next:] {
		if line == cut {
			break
		}
		if name, ok := strings.CutPrefix(line, label+": "); ok {
			d.next += i + 1
			if known := slices.Index(names, name); known >= 0 {
				return known
			}
			fmt.Fprintf(os.Stderr, "there is no %s %q any more\n", label, name)
			break
		}
	}
	return 0
}

// readTape reads what [tape.write] has written.
func readTape(file string) (*tape, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading a plan: %w", err)
	}
	d := &tape{plays: true}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSuffix(line, "\n"); line != "" && !strings.HasPrefix(line, "#") {
			d.lines = append(d.lines, line)
		}
	}
	return d, nil
}

// write writes a plan into a file: first as a person may follow it, then to be drawn again.
func (d *tape) write(file, story string) error {
	var b strings.Builder
	for line := range strings.Lines(story) {
		b.WriteString(strings.TrimRight("# "+line, " \n") + "\n")
	}
	b.WriteString("\n" + strings.Join(d.lines, "\n") + "\n")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("writing a plan: %w", err)
	}
	return nil
}

// pick draws one of some values. The first is the plainest, which a failure is reduced to.
func pick[T any](t *rapid.T, label string, values ...T) T {
	names, likely := make([]string, len(values)), make([]int, 0, len(values))
	for i, v := range values {
		names[i] = fmt.Sprint(v)
		likely = append(likely, i)
		if isPreferred(label, names[i]) {
			likely = append(likely, slices.Repeat([]int{i}, len(values))...)
		}
	}
	return values[drawing.index(label, names, func() int { return rapid.SampledFrom(likely).Draw(t, label) })]
}

// isPreferred tells that -more names a value, which comes about half of the time then.
func isPreferred(label, name string) bool {
	return slices.Contains(strings.Split(*more, ";"), label+"="+name)
}

// number draws a number from low to high.
func number(t *rapid.T, label string, low, high int) int {
	var numbers []int
	for n := low; n <= high; n++ {
		numbers = append(numbers, n)
	}
	return pick(t, label, numbers...)
}

// eagerness is how much likelier a value is for each of the values so far beside which it
// has not been seen.
const eagerness = 4

// choose draws a value of an axis and applies it. It returns the values so far with the new one.
func choose[T any](t *rapid.T, seen *coverage, from axis[T], to T, with []string) []string {
	names := make([]string, len(from.values))
	var likely []int
	for i, v := range from.values {
		names[i] = v.name
		weight := 1 + eagerness*seen.news(from.name, v.name, with)
		if isPreferred(from.name, v.name) {
			weight += weight * len(from.values)
		}
		likely = append(likely, slices.Repeat([]int{i}, weight)...)
	}
	v := from.values[drawing.index(from.name, names, func() int { return rapid.SampledFrom(likely).Draw(t, from.name) })]
	v.set(to)
	return append(slices.Clone(with), from.name+"="+v.name)
}

func (a *actor) String() string { return a.name }
