package status

import (
	"cmp"
	"math"
	"slices"
	"strconv"
)

// bucket is how many events took at most so long.
type bucket struct{ le, count float64 }

// buckets returns those of the histogram of times for some reasons, added up. Each reason has the
// same bounds.
func (m Metrics) buckets(reasons ...string) []bucket {
	counts := make(map[string]float64)
	for _, reason := range reasons {
		for _, le := range m.Labels(secondsMetric+"_bucket", reason) {
			counts[le] += m.Value(secondsMetric+"_bucket", reason, le)
		}
	}
	found := make([]bucket, 0, len(counts))
	for le, count := range counts {
		if bound, err := strconv.ParseFloat(le, 64); err == nil {
			found = append(found, bucket{bound, count})
		}
	}
	slices.SortFunc(found, func(a, b bucket) int { return cmp.Compare(a.le, b.le) })
	return found
}

// less returns what was counted since an earlier time.
func less(now, before []bucket) []bucket {
	if len(now) != len(before) {
		return now
	}
	since := slices.Clone(now)
	for i := range since {
		since[i].count -= before[i].count
	}
	return since
}

// quantile returns the time that this part of the events took at most, as Prometheus's
// histogram_quantile estimates it, or NaN if there were none. Above the last bound it is that.
func quantile(of []bucket, part float64) float64 {
	if len(of) == 0 || of[len(of)-1].count <= 0 {
		return math.NaN()
	}
	rank := part * of[len(of)-1].count
	var low, below float64
	for _, b := range of {
		if math.IsInf(b.le, 1) {
			break
		}
		if b.count >= rank {
			return low + (b.le-low)*(rank-below)/(b.count-below)
		}
		low, below = b.le, b.count
	}
	return low
}

// LatencyOf returns p50 and p99 of the times of each reason that was measured.
func (m Metrics) LatencyOf() map[string]Latency {
	latency := make(map[string]Latency)
	for _, reason := range m.Labels(secondsMetric + "_bucket") {
		of := m.buckets(reason)
		if p50 := quantile(of, .5); !math.IsNaN(p50) {
			latency[reason] = Latency{p50, quantile(of, .99)}
		}
	}
	return latency
}
