package report

import (
	"fmt"
	"image/color"
	"math"
	"slices"

	xfont "golang.org/x/image/font"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/chart"
)

// Bar is a row of a chart. One without a figure is a heading.
type Bar struct {
	Label, Figure string
	Value         float64
	Kind          Kind
}

// Kind is what bars of one colour have in common.
type Kind struct {
	Name   string
	Colour color.Color
}

// SaveBars draws bars from top to bottom. One that is many times as long as the next is
// cut, so that the others aren't squeezed; its figure says how long it is.
func SaveBars(bars []Bar, title, unit, path string) error {
	p := newBarPlot(title, unit)
	limit := cut(bars)
	names := make([]string, len(bars))
	explained := make(map[string]bool)
	var figures, headings plotter.XYLabels
	for i, b := range bars {
		row := len(bars) - 1 - i
		at := plotter.XY{X: math.Min(b.Value, limit), Y: float64(row)}
		if b.Figure == "" {
			headings.XYs, headings.Labels = append(headings.XYs, at), append(headings.Labels, b.Label)
			continue
		}
		names[row] = b.Label
		drawn, err := plotter.NewBarChart(plotter.Values{at.X}, 11)
		if err != nil {
			return fmt.Errorf("drawing %s: %w", path, err)
		}
		drawn.Horizontal, drawn.XMin = true, at.Y
		drawn.Color, drawn.LineStyle.Width = b.Kind.Colour, 0
		p.Add(drawn)
		if !explained[b.Kind.Name] && b.Kind.Name != b.Label { // else the row says it itself
			explained[b.Kind.Name] = true
			p.Legend.Add(b.Kind.Name, drawn)
		}
		figure := b.Figure
		if b.Value > limit {
			figure = "… " + figure
		}
		figures.XYs, figures.Labels = append(figures.XYs, at), append(figures.Labels, figure)
	}
	for _, l := range []struct {
		labels plotter.XYLabels
		font   font.Font
	}{{figures, chart.Sans(9, xfont.WeightNormal)}, {headings, chart.Sans(9.5, xfont.WeightBold)}} {
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
	return chart.Write(path, 760, 80+17*vg.Length(len(bars)), p.Draw)
}

// newBarPlot returns a plot without bars.
func newBarPlot(title, unit string) *plot.Plot {
	p := plot.New()
	p.Title.Text = title
	p.Title.TextStyle.Font = chart.Sans(13, xfont.WeightBold)
	p.Title.Padding = 10
	p.X.Label.Text = unit
	p.X.Label.TextStyle.Font = chart.Sans(10, xfont.WeightNormal)
	p.X.Label.Padding = 4
	p.X.Tick.Label.Font = chart.Sans(9, xfont.WeightNormal)
	p.Y.Tick.Label.Font = chart.Sans(9.5, xfont.WeightNormal)
	p.Legend.TextStyle.Font = chart.Sans(9.5, xfont.WeightNormal)
	p.Legend.Top, p.Legend.Padding = true, 3

	grid := plotter.NewGrid()
	grid.Horizontal.Width = 0
	grid.Vertical.Color = color.Gray{0xd8}
	p.Add(grid)
	return p
}

// cut returns the length at which bars are cut: a little above the longest that is
// not more than three times as long as the one before.
func cut(bars []Bar) float64 {
	var values []float64
	for _, b := range bars {
		if b.Figure != "" {
			values = append(values, b.Value)
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
