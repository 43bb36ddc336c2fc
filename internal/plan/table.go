package plan

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
)

// WriteTable writes an answer for people.
func (a *Answer) WriteTable(out io.Writer) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name string, cells ...string) { _, _ = fmt.Fprintf(t, "%s\t%s\n", name, strings.Join(cells, "\t")) } // into memory
	row("", "without", "with "+a.Profile)
	row("presence requests/s to "+a.Homeserver, a.Without.String(), a.With.String())
	row(a.Homeserver+" CPU for presence, cores", a.CPUWithout.String(), a.CPUWith.String())
	row("  of it saved", "", a.Saved.percent())
	row("reads without a request of their own", "", a.HitRatio.percent())
	row("the module's CPU, cores", "", a.Own.String())
	row("memory of a node, MB", "", a.Memory.String())
	row("nodes", "", whole(a.NodesNeeded))
	_ = t.Flush()

	b.WriteString("\nrequests/s of clients, and what becomes of them\n")
	t = tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, name := range KindNames {
		if a.Clients[name].High == 0 {
			continue
		}
		var outcomes []string
		for _, o := range OutcomeNames {
			if rate, ok := a.Outcomes[name][o]; ok {
				outcomes = append(outcomes, o+" "+rate.String())
			}
		}
		row("  "+name, a.Clients[name].String(), strings.Join(outcomes, ", "))
	}
	_ = t.Flush()

	b.WriteString("\nrequests/s to the homeserver, with the module, by reason\n")
	t = tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, reason := range ReasonNames {
		if rate := a.Upstream[reason]; rate.High > 0 {
			row("  "+reason, rate.String())
		}
	}
	_ = t.Flush()

	a.writeTables(&b)
	a.writeNotes(&b)
	_, err := io.WriteString(out, b.String())
	return err
}

// writeTables writes how full tables are.
func (a *Answer) writeTables(b *strings.Builder) {
	b.WriteString("\nentries of a node's tables\n")
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for _, use := range a.Tables {
		_, _ = fmt.Fprintf(t, "  %s\t%s\tof %d\n", use.Name, use.Used, use.Size) // into memory
	}
	_ = t.Flush()
	if a.Evicted.High > 0 {
		fmt.Fprintf(b, "  evictions/s: %s: what is not fresh any more, or a table is too small\n", a.Evicted)
	}
	if a.Overflowed.High > 0 {
		fmt.Fprintf(b, "  limiter overflows/s: %s: raise identity { tokens }\n", a.Overflowed)
	}
}

// writeNotes writes what to change, and what was simulated and assumed.
func (a *Answer) writeNotes(b *strings.Builder) {
	if len(a.Advice) > 0 {
		b.WriteString("\nto change\n")
	}
	for _, advice := range a.Advice {
		fmt.Fprintf(b, "  - %s\n", advice)
	}
	fmt.Fprintf(b, "\nsimulated: %d users (%.3g %%) for %s virtual minutes, %d requests\n\nassumed\n", a.Simulated.Users,
		100*a.Simulated.Share, number(a.Simulated.Seconds/60), a.Simulated.Requests)
	for _, assumption := range a.Assumptions {
		fmt.Fprintf(b, "  - %s\n", assumption)
	}
}

// String writes a range with as many digits as it is good for.
func (r Range) String() string {
	low, high := number(r.Low), number(r.High)
	if low == high {
		return low
	}
	return low + "–" + high
}

// whole writes a range of what there are no parts of.
func whole(r Range) string {
	if r.Low == r.High {
		return fmt.Sprintf("%.0f", r.Low)
	}
	return fmt.Sprintf("%.0f–%.0f", r.Low, r.High)
}

func (r Range) percent() string {
	low, high := fmt.Sprintf("%.0f", 100*r.Low), fmt.Sprintf("%.0f", 100*r.High)
	if low == high {
		return low + " %"
	}
	return low + "–" + high + " %"
}

// number writes two digits that count, or all before the point.
func number(x float64) string {
	if x == 0 {
		return "0"
	}
	digits := max(0, 1-int(math.Floor(math.Log10(math.Abs(x)))))
	return strconv.FormatFloat(x, 'f', min(digits, 4), 64)
}
