package survival_test

import (
	"fmt"
	"image/color"
	"strings"
	"time"

	xfont "golang.org/x/image/font"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/chart"
)

// panel is one of the charts, which stand below each other and share the time.
type panel struct {
	title string
	lines []line
	log   bool // for lines of very different heights
}

type line struct {
	name  string
	value func(before, now sample) float64
}

// The colours of lines. They differ in lightness too.
var palette = []color.Color{
	color.RGBA{0x1f, 0x6f, 0xb4, 0xff}, color.RGBA{0xe8, 0x99, 0x3c, 0xff}, color.RGBA{0x2c, 0x8c, 0x4a, 0xff},
	color.RGBA{0x9a, 0x3d, 0x8f, 0xff}, color.RGBA{0x80, 0x80, 0x80, 0xff}, color.RGBA{0xc0, 0x39, 0x2b, 0xff},
	color.RGBA{0x17, 0xa3, 0xa8, 0xff}, color.RGBA{0x5d, 0x4b, 0x2f, 0xff},
}

func panels(samples []sample) []panel {
	of := func(name string, value func(sample) float64) line {
		return line{name, func(_, now sample) float64 { return value(now) }}
	}
	rate := func(name string, value func(sample) int) line {
		return line{name, func(before, now sample) float64 {
			return float64(value(now)-value(before)) / max(0.001, (now.at-before.at).Seconds())
		}}
	}
	all := []panel{
		{title: "requests a second", lines: []line{
			rate("of clients", func(s sample) int { return s.requests }),
			rate("to the homeserver", func(s sample) int { return s.upstream }),
		}},
		{title: "memory, MiB", lines: []line{of("live heap", func(s sample) float64 { return float64(s.liveHeap) / (1 << 20) })}},
		{title: "goroutines and files", lines: []line{of("goroutines", func(s sample) float64 { return float64(s.Goroutines) })}},
		{title: "entries of tables", log: true},
	}
	if samples[0].OfProcess() {
		all[1].lines = append(all[1].lines, of("resident", func(s sample) float64 { return float64(s.Resident) / (1 << 20) }))
		all[2].lines = append(all[2].lines, of("file descriptors", func(s sample) float64 { return float64(s.Descriptors) }))
	}
	for _, s := range allSeries(samples) {
		if table, ok := strings.CutPrefix(s.name, tableOf); ok {
			name := strings.ReplaceAll(table, "_", " ")
			all[3].lines = append(all[3].lines, of(name, func(s sample) float64 { return float64(s.Tables[table]) }))
		}
	}
	return all
}

// chart draws the samples into a file.
func (r *results) chart(path string) error {
	all := panels(r.samples)
	plots := make([][]*plot.Plot, len(all))
	for i, p := range all {
		drawn, err := p.draw(r.samples)
		if err != nil {
			return fmt.Errorf("drawing %s: %w", path, err)
		}
		plots[i] = []*plot.Plot{drawn}
	}
	plots[0][0].Title.Text = fmt.Sprintf("%s under mixed traffic, %d reloads and %d restarts of the homeserver\n", r.plan.duration, r.reloads, r.restarts)
	plots[0][0].Title.TextStyle.Font = chart.Sans(13, xfont.WeightBold)
	plots[len(plots)-1][0].X.Label.Text = "minutes"
	plots[len(plots)-1][0].X.Label.TextStyle.Font = chart.Sans(10, xfont.WeightNormal)

	return chart.Write(path, 760, 200*vg.Length(len(all)), func(page draw.Canvas) {
		tiles := draw.Tiles{Rows: len(all), Cols: 1, PadY: 10}
		for i, row := range plot.Align(plots, tiles, page) {
			plots[i][0].Draw(row[0])
		}
	})
}

// points is how many a line has at most: of more, each is the mean of its neighbours.
const points = 400

func (p panel) draw(samples []sample) (*plot.Plot, error) {
	drawn := plot.New()
	drawn.Y.Label.Text = p.title
	drawn.Y.Label.TextStyle.Font = chart.Sans(10, xfont.WeightNormal)
	drawn.X.Tick.Label.Font, drawn.Y.Tick.Label.Font = chart.Sans(9, xfont.WeightNormal), chart.Sans(9, xfont.WeightNormal)
	drawn.Legend.TextStyle.Font = chart.Sans(9, xfont.WeightNormal)
	drawn.Legend.Top, drawn.Legend.Padding = true, 2
	grid := plotter.NewGrid()
	grid.Vertical.Width = 0
	grid.Horizontal.Color = color.Gray{0xd8}
	drawn.Add(grid)

	step := max(1, len(samples)/points)
	for i, l := range p.lines {
		var xys plotter.XYs
		for from := 1; from < len(samples); from += step {
			to := min(from+step, len(samples))
			sum := 0.0
			for j := from; j < to; j++ {
				sum += l.value(samples[j-1], samples[j])
			}
			y := sum / float64(to-from)
			if p.log {
				y = max(1, y)
			}
			xys = append(xys, plotter.XY{X: samples[from].at.Minutes(), Y: y})
		}
		drawnLine, err := plotter.NewLine(xys)
		if err != nil {
			return nil, err
		}
		drawnLine.Color, drawnLine.Width = palette[i%len(palette)], 1.3
		drawn.Add(drawnLine)
		drawn.Legend.Add(l.name, drawnLine)
	}
	drawn.Y.Min = 0
	if p.log {
		drawn.Y.Min, drawn.Y.Max = 1, max(10, drawn.Y.Max)
		drawn.Y.Scale, drawn.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	}
	// Room for the legend at the right.
	last := samples[len(samples)-1].at
	drawn.X.Min, drawn.X.Max = 0, (last + last/4 + time.Second).Minutes()
	return drawn, nil
}
