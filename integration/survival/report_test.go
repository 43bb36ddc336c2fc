package survival_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/equations"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/vitals"
)

// results are all that was seen.
type results struct {
	plan              plan
	samples           []sample
	missed            int
	before, after     vitals.Vitals
	outcomes          map[kind]*outcomes
	faults            map[fault]int
	examples          []string
	latencies         []int32 // sorted
	log               map[entry]int
	upstream          int
	reloads, restarts int

	equations equations.List
	growths   []growth
	full      []string // tables above their bound
}

// problems are all reasons why it did not pass.
func (r *results) problems() (all []string) {
	for _, f := range slices.Sorted(maps.Keys(r.faults)) {
		all = append(all, fmt.Sprintf("%d answers: %s", r.faults[f], f))
	}
	all = append(all, r.examples...)
	for _, e := range r.equations.Failing() {
		all = append(all, e.String())
	}
	for _, g := range r.growths {
		if !g.flat {
			all = append(all, fmt.Sprintf("%s isn't flat: %s in the second third, %s in the last", g.name, g.format(g.before), g.format(g.after)))
		}
	}
	all = append(all, r.full...)
	if left(r.before, r.after) {
		all = append(all, fmt.Sprintf("left behind: %d goroutines and %d file descriptors, before the first request %d and %d",
			r.after.Goroutines, r.after.Descriptors, r.before.Goroutines, r.before.Descriptors))
	}
	// A soak in which something never happened has shown nothing about it.
	for _, k := range kinds {
		if o := r.outcomes[k.kind]; o.sent == 0 || o.answers() == 0 && !k.leaves {
			all = append(all, fmt.Sprintf("there was no answer to any of %d requests of: %s", o.sent, k.kind))
		}
	}
	decisions, ways := make(map[string]bool), make(map[string]bool)
	for e := range r.log {
		decisions[e.Decision], ways[e.CacheStatus] = true, true
	}
	for _, decision := range []string{"forwarded", "answered", "absorbed", "coalesced", "stripped_unchanged", "rejected", "refused", "limited"} {
		if !decisions[decision] {
			all = append(all, "no request was "+decision)
		}
	}
	for _, way := range []string{wayMiss, wayBypass, wayWrite, wayHit} {
		if !ways[way] {
			all = append(all, "no answer came by "+way)
		}
	}
	if r.reloads < 5 || r.restarts < 2 {
		all = append(all, fmt.Sprintf("only %d reloads and %d restarts", r.reloads, r.restarts))
	}
	return all
}

// verdict is an error unless all is well.
func (r *results) verdict() error {
	if problems := r.problems(); len(problems) > 0 {
		return errors.New("not passed:\n  " + strings.Join(problems, "\n  "))
	}
	return nil
}

// print writes the tables.
func (r *results) print(out io.Writer) {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nrequests\tsent\tby status\tclient left\tno answer")
	for _, k := range kinds {
		o := r.outcomes[k.kind]
		var statuses []string
		for _, status := range slices.Sorted(maps.Keys(o.answered)) {
			statuses = append(statuses, fmt.Sprintf("%d: %d", status, o.answered[status]))
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%d\t%d\n", k.kind, o.sent, strings.Join(statuses, ", "), o.left, o.unanswered)
	}
	fmt.Fprintln(t, "\nheld by the process\tsecond third\tlast third\tmost\t")
	for _, g := range r.growths {
		verdict := "flat"
		if !g.flat {
			verdict = "GROWS"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", g.name, g.format(g.before), g.format(g.after), g.format(g.most), verdict)
	}
	fmt.Fprintf(t, "goroutines before the first request and after the last\t%d\t%d\t\t\n", r.before.Goroutines, r.after.Goroutines)
	fmt.Fprintf(t, "file descriptors, likewise\t%d\t%d\t\t\n", r.before.Descriptors, r.after.Descriptors)
	if len(r.growths) > 0 && !r.before.OfProcess() {
		fmt.Fprintln(t, "resident memory, file descriptors\tskipped: this system doesn't tell\t\t\t")
	}
	fmt.Fprintln(t, "\nequations\tcount\tmust be\t")
	for _, e := range r.equations {
		verdict := "holds"
		if !e.Holds() {
			verdict = "FAILS"
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\n", e.What, e.Value, e.Bounds(), verdict)
	}
	_ = t.Flush()
	fmt.Fprintln(out, "\n"+r.summary())
}

// summary is one line for the documentation.
func (r *results) summary() string {
	requests, wrong, unanswered := 0, 0, 0
	for _, o := range r.outcomes {
		requests += o.sent
		unanswered += o.unanswered
	}
	for _, n := range r.faults {
		wrong += n
	}
	holding := len(r.equations) - len(r.equations.Failing())
	p99 := "none"
	if n := len(r.latencies); n > 0 {
		p99 = (time.Duration(r.latencies[n*99/100]) * time.Microsecond).Round(10 * time.Microsecond).String()
	}
	return fmt.Sprintf("soak of %s: %d clients, %d requests (%d reached the homeserver), %d reloads, %d restarts of the homeserver; %d wrong answers; %d of %d equations hold; %d requests dropped at a reload, all safe to repeat; p99 of a read %s",
		r.plan.duration, r.plan.clients, requests, r.upstream, r.reloads, r.restarts, wrong, holding, len(r.equations), unanswered, p99)
}
