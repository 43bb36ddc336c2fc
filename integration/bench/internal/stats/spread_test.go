package stats

import (
	"math"
	"testing"
)

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		name    string
		figures []float64
		want    Spread
		text    string
	}{
		{"none", nil, Spread{}, "–"},
		{"one", []float64{2}, Spread{2, 2, 2, 1}, "2.00"},
		{"odd", []float64{3, 1, 2}, Spread{2, 1, 3, 3}, "2.00 (1.00–3.00)"},
		{"even", []float64{4, 1, 2, 3}, Spread{2.5, 1, 4, 4}, "2.50 (1.00–4.00)"},
		{"no numbers left out", []float64{math.NaN(), 1, math.Inf(1)}, Spread{1, 1, 1, 1}, "1.00"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := SpreadOf(c.figures)
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if text := got.Format(2); text != c.text {
				t.Errorf("got %q, want %q", text, c.text)
			}
		})
	}
}

func TestSpreadLeavesFiguresInOrder(t *testing.T) {
	figures := []float64{3, 1, 2}
	SpreadOf(figures)
	if figures[0] != 3 {
		t.Error("the caller's figures were sorted")
	}
}

// A slow stretch slows what was measured in it alike, so it must not show in a ratio.
func TestRatiosPairNeighbours(t *testing.T) {
	under := []Sample{{0, 0, 10}, {0, 4, 100}, {1, 0, 20}}
	over := []Sample{{0, 1, 11}, {0, 5, 110}, {1, 9, 22}, {2, 1, 99}}
	got := Ratios(over, under)
	if math.Abs(got.Min-1.1) > 1e-9 || math.Abs(got.Max-1.1) > 1e-9 || got.N != 3 {
		t.Errorf("got %+v, want 1.1 three times", got)
	}
	if got := Ratios(over, nil); got.N != 0 {
		t.Errorf("got %+v without a floor", got)
	}
	if got := Ratios([]Sample{{0, 0, 1}}, []Sample{{0, 1, 0}}); got.N != 0 {
		t.Errorf("got %+v for a ratio to nothing", got)
	}
}

func TestQuantile(t *testing.T) {
	sorted := []int64{10, 20, 30, 40, 50}
	for q, want := range map[float64]float64{0: 10, 0.5: 30, 0.25: 20, 0.99: 49.6, 1: 50} {
		if got := Quantile(sorted, q); math.Abs(got-want) > 1e-9 {
			t.Errorf("%v: got %v, want %v", q, got, want)
		}
	}
	if got := Quantile([]int64(nil), 0.5); got != 0 {
		t.Errorf("got %v of nothing", got)
	}
}
