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
	names, weights := make([]string, len(values)), make([]int, len(values))
	for i, v := range values {
		names[i], weights[i] = fmt.Sprint(v), 1
	}
	return values[weigh(t, label, names, weights)]
}

// preference is how many times as often as all others together what -more names comes, if there
// are such values.
const preference = 4

// weigh draws the index of a name, by weights and by what -more names.
func weigh(t *rapid.T, label string, names []string, weights []int) int {
	var preferred []int
	others := 0
	for i, name := range names {
		if slices.Contains(strings.Split(*more, ";"), label+"="+name) {
			preferred = append(preferred, i)
		} else {
			others += weights[i]
		}
	}
	for _, i := range preferred {
		weights[i] = max(1, preference*others/len(preferred))
	}
	return drawing.index(label, names, func() int {
		all := 0
		for _, weight := range weights {
			all += weight
		}
		rest := all * fair(t, label) >> fairBits
		for i, weight := range weights {
			if rest -= weight; rest < 0 {
				return i
			}
		}
		return 0
	})
}

const fairBits = 20

// fair draws a number of so many bits, each as often as the others. rapid's own numbers and samples are small as
// a rule: of a long axis it draws the last values hardly ever.
func fair(t *rapid.T, label string) (n int) {
	for _, bit := range rapid.SliceOfN(rapid.Bool(), fairBits, fairBits).Draw(t, label) {
		n <<= 1
		if bit {
			n++
		}
	}
	return n
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
	names, weights := make([]string, len(from.values)), make([]int, len(from.values))
	for i, v := range from.values {
		names[i], weights[i] = v.name, 1+eagerness*seen.news(from.name, v.name, with)
	}
	v := from.values[weigh(t, from.name, names, weights)]
	v.set(to)
	return append(slices.Clone(with), from.name+"="+v.name)
}

func (a *actor) String() string { return a.name }
