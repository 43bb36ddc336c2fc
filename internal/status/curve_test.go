package status

import (
	"math"
	"testing"
	"time"
)

func TestCurve(t *testing.T) {
	of := func(values map[time.Duration]float64) string {
		var points []point
		for ago := kept; ago >= 0; ago -= time.Second {
			if value, ok := values[ago]; ok {
				p := point{at: epoch.Add(-ago)}
				p.values[figureReads] = float32(value)
				points = append(points, p)
			}
		}
		d, most := draw(points, figureReads, epoch)
		return d.path(most)
	}
	for name, test := range map[string]struct {
		values map[time.Duration]float64
		want   string
	}{
		"nothing":              {nil, ""},
		"not known":            {map[time.Duration]float64{0: math.NaN()}, ""},
		"a dot":                {map[time.Duration]float64{0: 5}, "M120 1h0"},
		"zero is the bottom":   {map[time.Duration]float64{0: 0}, "M120 23h0"},
		"from the left":        {map[time.Duration]float64{kept: 1, kept - 5*time.Second: 2}, "M0 12h0L1 1"},
		"the highest of five":  {map[time.Duration]float64{1 * time.Second: 1, 2 * time.Second: 4}, "M120 1h0"},
		"a gap where none was": {map[time.Duration]float64{30 * time.Second: 2, 0: 2}, "M114 1h0M120 1h0"},
	} {
		if got := of(test.values); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
	for part, want := range map[float64]string{0: "", .5: "M0 12H60", 1: "M0 12H120", 2: "M0 12H120"} {
		if got := bar(part); got != want {
			t.Errorf("a bar of %v: %q, want %q", part, got, want)
		}
	}
}
