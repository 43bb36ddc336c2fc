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

// sans is a font of the charts.
func sans(size vg.Length, weight xfont.Weight) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size, Weight: weight}
}

// SaveBars draws bars from top to bottom. One that is many times as long as the next is
// cut, so that the others aren't squeezed; its figure says how long it is.
func SaveBars(bars []Bar, title, unit, path string) error {
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
