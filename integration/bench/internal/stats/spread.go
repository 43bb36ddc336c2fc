package stats

import (
	"fmt"
	"math"
	"slices"
)

// Spread is the median of some figures, and the smallest and largest of them.
type Spread struct {
	Median float64
	Min    float64
	Max    float64
	// N is of how many.
	N int
}

// SpreadOf sums up figures. Those that are not a number, such as a ratio to
// nothing, are left out.
func SpreadOf(figures []float64) Spread {
	kept := slices.DeleteFunc(slices.Clone(figures), func(f float64) bool {
		return math.IsNaN(f) || math.IsInf(f, 0)
	})
	if len(kept) == 0 {
		return Spread{}
	}
	slices.Sort(kept)
	return Spread{Median: Quantile(kept, 0.5), Min: kept[0], Max: kept[len(kept)-1], N: len(kept)}
}

// Sample is a figure, and when it was taken: in which round, and as which of that
// round's measurements.
type Sample struct {
	Round, Position int
	Value           float64
}

// Ratios sums up the ratios of figures to those below them, each to the one that was
// taken nearest to it in the same round. A figure without one is left out.
func Ratios(over, under []Sample) Spread {
	return pairs(over, under, func(a, b float64) float64 { return a / b })
}

// Differences sums up the differences of figures, paired as for Ratios.
func Differences(over, under []Sample) Spread {
	return pairs(over, under, func(a, b float64) float64 { return a - b })
}

func pairs(over, under []Sample, of func(a, b float64) float64) Spread {
	var figures []float64
	for _, a := range over {
		nearest, distance := Sample{}, math.MaxInt
		for _, b := range under {
			d := max(a.Position-b.Position, b.Position-a.Position)
			if b.Round == a.Round && d < distance {
				nearest, distance = b, d
			}
		}
		if distance < math.MaxInt {
			figures = append(figures, of(a.Value, nearest.Value))
		}
	}
	return SpreadOf(figures)
}

// Format writes the spread with the digits after the point given.
func (s Spread) Format(digits int) string {
	switch s.N {
	case 0:
		return "–"
	case 1:
		return fmt.Sprintf("%.*f", digits, s.Median)
	}
	return fmt.Sprintf("%.*f (%.*f–%.*f)", digits, s.Median, digits, s.Min, digits, s.Max)
}

// Quantile returns the q-quantile, 0 to 1, of sorted figures, between the two
// nearest in proportion.
func Quantile[T int64 | float64](sorted []T, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 >= len(sorted) {
		return float64(sorted[len(sorted)-1])
	}
	low, high := float64(sorted[i]), float64(sorted[i+1])
	return low + (high-low)*(at-float64(i))
}
