package attack_test

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// row is what is to be told of an attack.
type row struct {
	name           string
	got            tally
	seconds        float64
	work           work
	allowed        limits
	memory         memory
	heap, resident int64 // the bounds of it
	suffered       suffering
}

// table collects the rows of all tests.
type table struct {
	mu    sync.Mutex // guards all below
	rows  []row
	notes []string
}

var figures table

func (t *table) add(r row) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows = append(t.rows, r)
}

// note adds a line for what has no row.
func (t *table) note(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.notes = append(t.notes, fmt.Sprintf(format, args...))
}

// print writes the table in Markdown.
func (t *table) print(w io.Writer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, note := range t.notes {
		fmt.Fprintf(w, "\n%s\n", note)
	}
	if len(t.rows) == 0 {
		return
	}
	fmt.Fprintf(w, "\nsize %s; \"a of b\" is what was measured and its bound; victims' p99 before → during the attack\n\n", suite.Size())
	fmt.Fprintln(w, "| attack | requests, answers | the homeserver was asked for | at a time | heap, MB | peak RSS, MB | victims' requests, all right | known token | new token | write |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|---|")
	for _, r := range t.rows {
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s of %s | %s of %s | %d | %s | %s | %s |\n",
			r.name, r.answers(), r.asked(), r.atATime(),
			megabytes(r.memory.heap), megabytes(r.heap), megabytes(r.memory.peak), megabytes(r.resident), r.suffered.asked,
			r.slowest(readKnown), r.slowest(readNew), r.slowest(writeNew))
	}
}

func (r row) answers() string {
	var parts []string
	for _, status := range slices.Sorted(maps.Keys(r.got.status)) {
		parts = append(parts, fmt.Sprintf("%d× %d", r.got.status[status], status))
	}
	if r.got.broken > 0 {
		parts = append(parts, fmt.Sprintf("%d× closed", r.got.broken))
	}
	return fmt.Sprintf("%d in %.1f s: %s", r.got.sent, r.seconds, strings.Join(parts, ", "))
}

func (r row) asked() string {
	var parts []string
	for k := range kinds {
		if r.work.count[k] > 0 || r.allowed.count[k] > 0 {
			parts = append(parts, fmt.Sprintf("%d of %d %v", r.work.count[k], r.allowed.count[k], k))
		}
	}
	return cmp.Or(strings.Join(parts, ", "), "nothing")
}

func (r row) atATime() string {
	var parts []string
	for k := range kinds {
		most := r.allowed.atATime[k]
		if k == whoami && most == 0 {
			most = lookupsAll
		}
		switch {
		case r.work.count[k] == 0:
		case most > 0:
			parts = append(parts, fmt.Sprintf("%d of %d %v", r.work.most[k], most, k))
		default:
			parts = append(parts, fmt.Sprintf("%d %v", r.work.most[k], k))
		}
	}
	return cmp.Or(strings.Join(parts, ", "), "–")
}

func (r row) slowest(errand int) string {
	return fmt.Sprintf("%s → %s ms (×%.1f)", milliseconds(r.suffered.p99[before][errand]),
		milliseconds(r.suffered.p99[during][errand]), r.suffered.ratio(errand))
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.1f", d.Seconds()*1000) }
func megabytes(n int64) string            { return fmt.Sprintf("%.0f", float64(n)/1e6) }
func inMB(n int64) string                 { return megabytes(n) + " MB" }

// progress tells a person who watches what is going on. Only the full size takes long.
func progress(t *testing.T, doing string) {
	if suite.Full() {
		fmt.Printf("%s %s: %s …\n", time.Now().Format(time.TimeOnly), t.Name(), doing)
	}
}
