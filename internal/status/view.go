package status

import (
	"fmt"
	"hash/fnv"
	"time"
)

// Prefix is what all names of metrics begin with.
const Prefix = "caddy_matrix_presence_"

// secondsMetric is the histogram of the homeserver's answers.
const secondsMetric = "upstream_seconds"

// oldestMetric is the age of the oldest waiting write.
const oldestMetric = "pending_oldest_seconds"

// View is a document as tables of texts.
type View struct {
	Version string
	Time    time.Time
	Uptime  Cell
	Caches  []CacheView

	// Layout stands for all that a view has besides its cells. A page with another layout has to be
	// made anew.
	Layout string
}

// CacheView is a cache.
type CacheView struct {
	Name   string
	Facts  []Fact
	Tables []Table
}

// Fact is something that is no number.
type Fact struct {
	Label string
	Cell  Cell
}

// Table is a table of cells.
type Table struct {
	Caption string
	Columns []string // the first is that of the rows' heads
	Rows    []Row
}

// Row is a row of a table.
type Row struct {
	Head   string
	Metric string // what the numbers are read from, or "" if each cell has its own
	Cells  []Cell

	// Quiet tells that there is nothing in it yet.
	Quiet bool
}

// Cell is a number, or another text.
type Cell struct {
	Text string
	Sub  string // less important

	// Metric is what it is read from, as Prometheus writes it.
	Metric string

	// IsBad tells that somebody should look at it. The text says so as well.
	IsBad bool

	// IsWord tells of one that is no number, and may be long.
	IsWord bool

	// IsCurve tells of a cell that has a curve, or a bar if IsBar, above its text.
	IsCurve, IsBar bool
	Path           string
}

// bad marks a cell, not only by a colour.
func (c Cell) bad(is bool) Cell {
	if is {
		c.IsBad, c.Text = true, "⚠ "+c.Text
	}
	return c
}

// View returns the last document that was added, and the users who were over a limit most often, by
// cache, if these are given.
func (h *History) View(limited map[string][]Limited) *View {
	d, late, points := h.snapshot()
	v := &View{Version: d.Version, Time: d.Time, Uptime: Cell{Text: span(d.Time.Sub(d.Started))}}
	for i := range d.Caches {
		c := &d.Caches[i]
		v.Caches = append(v.Caches, viewCache(late[c.Name], points[c.Name], d.Time, limited[c.Name]))
	}
	v.Layout = v.layout()
	return v
}

// layout hashes what is no cell.
func (v *View) layout() string {
	hash := fnv.New64a()
	for _, c := range v.Caches {
		_, _ = fmt.Fprintf(hash, "cache %q\n", c.Name) // a hash never fails
		for _, f := range c.Facts {
			_, _ = fmt.Fprintf(hash, "fact %q\n", f.Label)
		}
		for _, t := range c.Tables {
			_, _ = fmt.Fprintf(hash, "table %q %q\n", t.Caption, t.Columns)
			for _, r := range t.Rows {
				_, _ = fmt.Fprintf(hash, "row %q %d\n", r.Head, len(r.Cells))
			}
		}
	}
	return fmt.Sprintf("%x", hash.Sum64())
}

// eachCell calls f with each cell, in the order in which a page has them.
func (v *View) eachCell(f func(c *Cell)) {
	f(&v.Uptime)
	for i := range v.Caches {
		for j := range v.Caches[i].Facts {
			f(&v.Caches[i].Facts[j].Cell)
		}
		for j := range v.Caches[i].Tables {
			for k := range v.Caches[i].Tables[j].Rows {
				for n := range v.Caches[i].Tables[j].Rows[k].Cells {
					f(&v.Caches[i].Tables[j].Rows[k].Cells[n])
				}
			}
		}
	}
}
