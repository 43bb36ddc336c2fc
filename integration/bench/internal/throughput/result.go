package throughput

import (
	"fmt"
	"math"
	"slices"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/load"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/stats"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/upstream"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/accounting"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
)

// Measurement is one contender under load, once.
type Measurement struct {
	Contender string
	// Round and Position tell when.
	Round    int
	Position int
	Load     load.Result
	// User and System are the server's CPU time for a request, in microseconds.
	User   float64
	System float64
	// Resident and Peak are memory in bytes: at the end of the run, and the most
	// since the server started.
	Resident int64
	Peak     int64
	// Upstream is how many requests reached the homeserver for 1,000 of the client.
	Upstream float64
}

// CPU is the server's time for a request, in microseconds.
func (m Measurement) CPU() float64 { return m.User + m.System }

// Figure is what is compared of two contenders.
type Figure struct {
	// Name says what it is, before the names of the two.
	Name string
	// Of returns it.
	Of func(Measurement) float64
	// Difference is told instead of a ratio.
	Difference bool
}

// The figures that are compared.
var (
	CPU      = Figure{Of: Measurement.CPU}
	P50      = Figure{Name: "p50 of ", Of: func(m Measurement) float64 { return m.Load.P50 }}
	P50More  = Figure{Name: "p50, µs, of ", Of: P50.Of, Difference: true}
	P99      = Figure{Name: "p99 of ", Of: func(m Measurement) float64 { return m.Load.P99 }}
	Upstream = Figure{Name: "requests to the homeserver, of ", Of: func(m Measurement) float64 { return m.Upstream }}
)

func measurement(c Contender, l load.Result, used accounting.Usage, asked upstream.Counts) Measurement {
	n := float64(max(1, l.Requests))
	reached := asked.All()
	if c.Writes > 0 { // they are not the client's
		reached = asked[scripted.Read]
	}
	return Measurement{
		Contender: c.Name, Load: l,
		User:     float64(used.User.Microseconds()) / n,
		System:   float64(used.System.Microseconds()) / n,
		Resident: used.Resident, Peak: used.PeakResident,
		Upstream: float64(reached) / n * 1000,
	}
}

// slack is what may differ from what a contender is expected to do: connections that
// are cut off at the end, tokens whose user is asked for once.
const slack = 0.005

// problem tells why a measurement is not what it says, or nothing.
func (m Measurement) problem(c Contender) string {
	n := float64(m.Load.Requests)
	refused := float64(m.Load.Refused)
	again := 0.0 // a limiter may let each pair through once more: nginx's slowest rate is one a minute
	if c.Refused && c.Warm != nil {
		again = float64(c.Warm.Targets * c.Warm.Viewers)
	}
	switch {
	case n == 0:
		return "no request was answered"
	case float64(m.Load.Failed) > slack*n:
		return fmt.Sprintf("%d of %.0f requests failed", m.Load.Failed, n)
	case c.Refused && refused < (1-slack)*n-again:
		return fmt.Sprintf("%.0f of %.0f requests were not refused", n-refused, n)
	case !c.Refused && refused > slack*n:
		return fmt.Sprintf("%.0f of %.0f requests were refused", refused, n)
	// Some share a fetch.
	case c.Upstream > 0 && m.Upstream < 0.95*float64(c.Upstream):
		return fmt.Sprintf("only %.0f of 1,000 requests reached the homeserver", m.Upstream)
	case c.Upstream == 0 && m.Upstream > (slack+again/n)*1000:
		return fmt.Sprintf("%.1f of 1,000 requests reached the homeserver", m.Upstream)
	}
	return ""
}

// Comparison is a ratio that is worth a line of its own.
type Comparison struct {
	Over, Under string
	// Figure is the CPU time for a request unless given.
	Figure Figure
	// Most and Least are what its median may be at most and has to be at least, or 0.
	Most, Least float64
}

// Target says what the median has to be, in words, or nothing.
func (c Comparison) Target() string {
	switch {
	case c.Most > 0:
		return fmt.Sprintf("at most %v", c.Most)
	case c.Least > 0:
		return fmt.Sprintf("at least %v", c.Least)
	}
	return ""
}

// missedBy tells whether the median is not what it has to be, as it is written: with so many
// digits after the point.
func (c Comparison) missedBy(s stats.Spread) bool {
	scale := math.Pow10(c.Digits())
	median := math.Round(s.Median*scale) / scale
	return s.N > 0 && (c.Most > 0 && median > c.Most || median < c.Least)
}

// Digits is how many digits after the point its figures have.
func (c Comparison) Digits() int {
	if c.Figure.Difference {
		return 0
	}
	return 2
}

// Comparisons are those of the documentation.
var Comparisons = []Comparison{
	{Over: "hit", Under: "respond", Most: 1.05},
	{Over: "hit-uniform", Under: "respond"},
	{Over: "hit-h2", Under: "respond-h2", Most: 1.05},
	{Over: "hit-h3", Under: "respond-h3", Most: 1.05},
	{Over: "limited", Under: "respond", Most: 1.05},
	{Over: "refused", Under: "respond", Most: 1.05},
	{Over: "pass-through", Under: "reverse-proxy-other", Most: 1.01},
	{Over: "sync", Under: "reverse-proxy-sync", Most: 1.03},
	{Over: "members", Under: "reverse-proxy-members"},
	{Over: "miss", Under: "reverse-proxy", Most: 1.1},
	{Over: "hit", Under: "reverse-proxy"},
	{Over: "mixed", Under: "reverse-proxy"},
	{Over: "hit-cluster", Under: "hit", Most: 1.1},
	{Over: "hit-cluster-alone", Under: "hit-alone", Most: 1.7},
	{Over: "hit-cluster-alone", Under: "hit-alone", Figure: P50More, Most: 100},
	{Over: "put-cluster-alone", Under: "put-alone"},
	{Over: "put-cluster-alone", Under: "put-alone", Figure: P50More},
	{Over: "three-nodes", Under: "node", Figure: Upstream},
	{Over: "hit-log", Under: "hit"},
	{Over: "hit-metrics", Under: "hit"},
	{Over: "hit-writes", Under: "hit", Figure: P99, Most: 1.5},
	{Over: "hit-paced-writes", Under: "respond-paced-writes", Figure: P99, Most: 1.5},
	{Over: "hit-paced-writes", Under: "hit-paced", Figure: P99},
	{Over: "souin", Under: "hit", Least: 10},
	{Over: "hit", Under: "nginx-cache"},
	{Over: "hit", Under: "varnish"},
	{Over: "ratelimit", Under: "limited"},
	{Over: "limited", Under: "nginx-limit"},
}

// Results are all measurements of a run.
type Results struct {
	Measurements []Measurement
	// Allocations are those of one request, by contender, where they can be known.
	Allocations map[string]Allocations
	// Problems say which figures not to trust, and why.
	Problems []string
	// Skipped says who did not take part, and why.
	Skipped []string
}

// Of sums up one figure of a contender.
func (r *Results) Of(contender string, figure func(Measurement) float64) stats.Spread {
	var figures []float64
	for _, s := range r.samples(contender, figure) {
		figures = append(figures, s.Value)
	}
	return stats.SpreadOf(figures)
}

// Ratio sums up the ratios of a figure of two contenders.
func (r *Results) Ratio(over, under string, figure func(Measurement) float64) stats.Spread {
	return stats.Ratios(r.samples(over, figure), r.samples(under, figure))
}

// Compare sums up a comparison, and says what is compared.
func (r *Results) Compare(c Comparison) (name string, spread stats.Spread) {
	figure := c.Figure
	if figure.Of == nil {
		figure = CPU
	}
	over, under := r.samples(c.Over, figure.Of), r.samples(c.Under, figure.Of)
	if figure.Difference {
		return figure.Name + c.Over + " − " + c.Under, stats.Differences(over, under)
	}
	return figure.Name + c.Over + " / " + c.Under, stats.Ratios(over, under)
}

// Missed says which comparisons are not what they have to be, a line each.
func (r *Results) Missed() (lines []string) {
	for _, c := range Comparisons {
		if name, ratio := r.Compare(c); c.missedBy(ratio) {
			lines = append(lines, fmt.Sprintf("%s is %s, and has to be %s", name, ratio.Format(c.Digits()), c.Target()))
		}
	}
	return lines
}

func (r *Results) samples(contender string, figure func(Measurement) float64) []stats.Sample {
	var samples []stats.Sample
	for _, m := range r.Measurements {
		if m.Contender == contender {
			samples = append(samples, stats.Sample{Round: m.Round, Position: m.Position, Value: figure(m)})
		}
	}
	return samples
}

// Measured tells which contenders took part, in the order of the list.
func (r *Results) Measured() []Contender {
	return slices.DeleteFunc(slices.Clone(Contenders), func(c Contender) bool {
		return !slices.ContainsFunc(r.Measurements, func(m Measurement) bool { return m.Contender == c.Name })
	})
}
