package status

import (
	"math"
	"testing"
)

// As histogram_quantile computes it from the same buckets.
func TestQuantile(t *testing.T) {
	of := func(counts ...float64) (found []bucket) {
		for i, bound := range []float64{.1, .2, 1, math.Inf(1)} {
			found = append(found, bucket{bound, counts[i]})
		}
		return found
	}
	for _, test := range []struct {
		of   []bucket
		part float64
		want float64
	}{
		{nil, .5, math.NaN()},
		{of(0, 0, 0, 0), .5, math.NaN()},
		{of(10, 10, 10, 10), .5, .05},
		{of(0, 10, 10, 10), .5, .15},
		{of(5, 10, 10, 10), .75, .15},
		{of(5, 5, 10, 10), .75, .6},
		{of(0, 0, 10, 10), .99, .992},
		{of(0, 0, 5, 10), .99, 1}, // beyond the last bound: nobody knows
	} {
		if got := quantile(test.of, test.part); math.Abs(got-test.want) > 1e-9 || math.IsNaN(got) != math.IsNaN(test.want) {
			t.Errorf("%v of %v: %v, want %v", test.part, test.of, got, test.want)
		}
	}
}

func TestLatencyIsThatOfReasonsThatWereMeasured(t *testing.T) {
	m := cache("", 10, 0).Metrics
	m.Set(0, "upstream_seconds_bucket", "whoami", "+Inf")
	latency := m.LatencyOf()
	if len(latency) != 1 || math.Abs(latency["fetch"].P50-.0055) > 1e-9 || math.Abs(latency["fetch"].P99-.00991) > 1e-9 {
		t.Errorf("%v", latency)
	}
}
