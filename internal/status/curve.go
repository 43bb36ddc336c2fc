package status

import (
	"math"
	"strconv"
	"time"
)

// The size of a curve, in the units of its path.
const (
	curveWidth  = 120
	curveHeight = 24
)

// drawn is what of a curve is worth drawing: one point for each unit of its width.
type drawn [curveWidth + 1]float64

// draw puts the points of the last ten minutes on the units of the width: the highest of those that
// fall on one, or NaN.
func draw(points []point, f figure, now time.Time) (d drawn, most float64) {
	for x := range d {
		d[x] = math.NaN()
	}
	for _, p := range points {
		x := curveWidth - int(now.Sub(p.at)*curveWidth/kept)
		if x < 0 || x > curveWidth {
			continue
		}
		if value := float64(p.values[f]); !math.IsNaN(value) {
			most = max(most, value)
			if math.IsNaN(d[x]) || d[x] < value {
				d[x] = value
			}
		}
	}
	return d, most
}

// path returns an SVG path for what is drawn, with most at the top. Where nothing is known
// for longer than two units, the line has a gap.
func (d *drawn) path(most float64) string {
	var path []byte
	last := -curveWidth
	for x, value := range d {
		if math.IsNaN(value) {
			continue
		}
		command := byte('L')
		if x-last > 2 {
			command = 'M'
		}
		y := float64(curveHeight - 1)
		if most > 0 {
			y -= value / most * (curveHeight - 2)
		}
		path = strconv.AppendInt(append(path, command), int64(x), 10)
		path = strconv.AppendFloat(append(path, ' '), math.Round(10*y)/10, 'f', -1, 64)
		if command == 'M' {
			path = append(path, "h0"...) // a dot, if nothing follows
		}
		last = x
	}
	return string(path)
}

// bar returns an SVG path for a part of one.
func bar(part float64) string {
	width := math.Round(curveWidth * min(1, max(0, part)))
	if width == 0 {
		return ""
	}
	return "M0 12H" + strconv.FormatFloat(width, 'f', -1, 64)
}
