package world_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// A plan that failed is played again exactly, also when there are more values by then, in another
// order.
func TestPlanIsDrawnAgainFromItsFile(t *testing.T) {
	defer func(before *tape, words axis[*call]) { drawing, wordAxis = before, words }(drawing, wordAxis)
	file := filepath.Join(t.TempDir(), "plan")
	for i := range 50 {
		drawing = new(tape)
		p := rapid.Custom(func(rt *rapid.T) *plan { return draw(rt, newCoverage()) }).Example(i)
		// A crowd's route was kept as the address of a function, which no other binary knows.
		if i := slices.IndexFunc(drawing.lines, func(line string) bool { return strings.Contains(line, "0x") }); i >= 0 {
			t.Fatalf("plan %d is kept as %q", i, drawing.lines[i])
		}
		if err := drawing.write(file, p.script()); err != nil {
			t.Fatal(err)
		}
		wordAxis.values = append(slices.Clone(wordAxis.values), value[*call]{"new", func(c *call) { c.body = "new" }})
		slices.Reverse(wordAxis.values)
		again, err := readTape(file)
		if err != nil {
			t.Fatal(err)
		}
		drawing = again
		if q := draw(nil, newCoverage()); q.script() != p.script() {
			t.Fatalf("plan %d was\n%s\nand is\n%s", i, p.script(), q.script())
		}
	}
}
