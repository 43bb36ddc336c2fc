package report

import (
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	xfont "golang.org/x/image/font"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/freshness"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/throughput"
)

// bar is a row of a chart. One without a figure is a heading.
type bar struct {
	label, figure string
	value         float64
	kind          kind
}

// kind is what bars of one colour have in common.
type kind struct {
	name   string
	colour color.Color
}

// The kinds. Their colours differ in lightness too.
var (
	ours   = kind{"matrix_presence", color.RGBA{0x1f, 0x6f, 0xb4, 0xff}}
	others = kind{"others", color.RGBA{0xe8, 0x99, 0x3c, 0xff}}
	bare   = kind{"bare Caddy", color.RGBA{0xb4, 0xbc, 0xc4, 0xff}}
)

// CPUChart shows what a request costs, by contender, the cheapest first. Options of
// Caddy's have their own table.
func CPUChart(r *throughput.Results, path string) error {
	var bars []bar
	for _, c := range r.Measured() {
		// What goes on beside a contender can't be told from its own.
		if c.Group == throughput.GroupOptions || c.Writes > 0 {
			continue
		}
		cpu := r.Of(c.Name, throughput.Measurement.CPU)
		bars = append(bars, bar{
			label: c.Name, value: cpu.Median, kind: kindOf(c.Group),
			figure: fmt.Sprintf("%s (%s–%s)", thousands(cpu.Median), thousands(cpu.Min), thousands(cpu.Max)),
		})
	}
	slices.SortStableFunc(bars, func(a, b bar) int { return compare(a.value, b.value) })
	return save(bars, "CPU time of the server for a request", "microseconds, median of all rounds (smallest–largest)", path)
}

func kindOf(group string) kind {
	switch group {
	case throughput.GroupOurs:
		return ours
	case throughput.GroupPeers:
		return others
	}
	return bare
}

// UpstreamChart shows what reaches the homeserver, by shape, and which answers were
// wrong.
func UpstreamChart(results []freshness.Result, path string) error {
	var bars []bar
	var shapes []string
	for _, r := range results {
		if shape := r.Homeserver + ", " + title(r); !slices.Contains(shapes, shape) {
			shapes = append(shapes, shape)
		}
	}
	for _, shape := range shapes {
		bars = append(bars, bar{label: shape})
		var rows []bar
		for _, r := range results {
			if r.Homeserver+", "+title(r) != shape {
				continue
			}
			row := bar{label: r.Contender, value: r.UpstreamPer1000(), kind: others, figure: thousands(r.UpstreamPer1000())}
			switch {
			case r.Contender == freshness.Baseline:
				row.kind = bare
			case r.Bound == "never":
				row.kind = ours
			}
			if wrong := r.Wrong(); wrong > 0 {
				row.figure += fmt.Sprintf("   %s of %s answers wrong", thousands(float64(wrong)), thousands(float64(r.Reads)))
			}
			rows = append(rows, row)
		}
		slices.SortStableFunc(rows, func(a, b bar) int { return compare(a.value, b.value) })
		bars = append(bars, rows...)
	}
	return save(bars, "Requests that reach the homeserver for 1,000 reads, at equal freshness", "requests", path)
}

func compare(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// sans is a font of the charts.
func sans(size vg.Length, weight xfont.Weight) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size, Weight: weight}
}

// save draws bars from top to bottom. One that is many times as long as the next is
// cut, so that the others aren't squeezed; its figure says how long it is.
func save(bars []bar, title, unit, path string) error {
	p := plot.New()
	p.Title.Text = title
	p.Title.TextStyle.Font = sans(13, xfont.WeightBold)
	p.Title.Padding = 10
	p.X.Label.Text = unit
	p.X.Label.TextStyle.Font = sans(10, xfont.WeightNormal)
	p.X.Label.Padding = 4
	p.X.Tick.Label.Font = sans(9, xfont.WeightNormal)
	p.Y.Tick.Label.Font = sans(9.5, xfont.WeightNormal)
	p.Legend.TextStyle.Font = sans(9.5, xfont.WeightNormal)
	p.Legend.Top, p.Legend.Padding = true, 3

	grid := plotter.NewGrid()
	grid.Horizontal.Width = 0
	grid.Vertical.Color = color.Gray{0xd8}
	p.Add(grid)

	limit := cut(bars)
	names := make([]string, len(bars))
	explained := make(map[string]bool)
	var figures, headings plotter.XYLabels
	for i, b := range bars {
		row := len(bars) - 1 - i
		at := plotter.XY{X: math.Min(b.value, limit), Y: float64(row)}
		if b.figure == "" {
			headings.XYs, headings.Labels = append(headings.XYs, at), append(headings.Labels, b.label)
			continue
		}
		names[row] = b.label
		drawn, err := plotter.NewBarChart(plotter.Values{at.X}, 11)
		if err != nil {
			return fmt.Errorf("drawing %s: %w", path, err)
		}
		drawn.Horizontal, drawn.XMin = true, at.Y
		drawn.Color, drawn.LineStyle.Width = b.kind.colour, 0
		p.Add(drawn)
		if !explained[b.kind.name] {
			explained[b.kind.name] = true
			p.Legend.Add(b.kind.name, drawn)
		}
		figure := b.figure
		if b.value > limit {
			figure = "… " + figure
		}
		figures.XYs, figures.Labels = append(figures.XYs, at), append(figures.Labels, figure)
	}
	for _, l := range []struct {
		labels plotter.XYLabels
		font   font.Font
	}{{figures, sans(9, xfont.WeightNormal)}, {headings, sans(9.5, xfont.WeightBold)}} {
		drawn, err := plotter.NewLabels(l.labels)
		if err != nil {
			return fmt.Errorf("drawing %s: %w", path, err)
		}
		for i := range drawn.TextStyle {
			drawn.TextStyle[i] = text.Style{Font: l.font, Color: color.Gray{0x20}, YAlign: draw.YCenter, Handler: plot.DefaultTextHandler}
		}
		drawn.Offset = vg.Point{X: 4, Y: 1}
		p.Add(drawn)
	}
	p.NominalY(names...)
	p.Y.LineStyle.Width = 0.5
	// Room for the longest figure at the right.
	p.X.Min, p.X.Max = 0, limit*1.35
	p.Y.Min, p.Y.Max = -0.6, float64(len(bars))-0.4
	return write(p, 760, 80+17*vg.Length(len(bars)), path)
}

// write draws a chart with a margin, in the format that the path ends in.
func write(p *plot.Plot, width, height vg.Length, path string) error {
	canvas, err := draw.NewFormattedCanvas(width, height, strings.TrimPrefix(filepath.Ext(path), "."))
	if err != nil {
		return fmt.Errorf("drawing %s: %w", path, err)
	}
	whole := draw.New(canvas)
	whole.SetColor(color.White)
	whole.Fill(whole.Rectangle.Path())
	const margin = 12
	p.Draw(draw.Crop(whole, margin, -margin, margin, -margin))
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("drawing a chart: %w", err)
	}
	defer f.Close()
	if _, err := canvas.WriteTo(f); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return f.Close()
}

// cut returns the length at which bars are cut: a little above the longest that is
// not more than three times as long as the one before.
func cut(bars []bar) float64 {
	var values []float64
	for _, b := range bars {
		if b.figure != "" {
			values = append(values, b.value)
		}
	}
	slices.Sort(values)
	longest := 1.0
	for i, v := range values {
		if i > 0 && i >= len(values)/2 && v > 3*math.Max(values[i-1], 1) {
			return 1.15 * longest
		}
		longest = math.Max(longest, v)
	}
	return longest
}
