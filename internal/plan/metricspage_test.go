package plan

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

// metricsOf writes what the module's metrics would be after a load, counted for so long.
func metricsOf(c *Counts, entries [Tables]float64, seconds float64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# HELP process_start_time_seconds Start time.\nprocess_start_time_seconds %v\n", 1_700_000_000.0)
	line := func(name, labels string, n int64) {
		fmt.Fprintf(&b, "%s%s{cache=\"hs.test\",%s} %v\n", metricPrefix, name, labels, float64(n)*1000/seconds)
	}
	for k, name := range KindNames {
		line("requests_total", fmt.Sprintf("route=%q", name), c.Clients[k])
		for o, outcome := range OutcomeNames {
			line("outcomes_total", fmt.Sprintf("route=%q,outcome=%q", name, outcome), c.Outcomes[k][o])
		}
	}
	line("lookups_total", `result="known"`, c.Upstream[ForWhoAmI])
	for table, name := range TableNames {
		fmt.Fprintf(&b, "%sentries{cache=\"hs.test\",table=%q} %v\n", metricPrefix, name, entries[table])
	}
	return b.String()
}

// What a page of a server tells leads to the same requests and hits as that server has.
func TestAMetricsPageTellsTheLoad(t *testing.T) {
	withoutRace(t)
	q := about(t, 120, "default")
	q.Load.Poll = Duration(12 * time.Second)
	r, err := q.simulate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all := Counts{}
	for i := range r.samples {
		all.add(r.samples[i])
	}
	text := metricsOf(&all, r.entries, (windows * window).Seconds())
	again := about(t, 0, "default")
	a, err := again.FromMetrics(t.Context(), strings.NewReader(text), time.Unix(1_700_001_000, 0), 0)
	if err != nil {
		t.Fatal(err)
	}
	reads := r.rate(func(c *Counts) float64 { return float64(c.Clients[Read]) }).Middle()
	if got := a.Clients["read"].Middle(); math.Abs(got-reads) > 0.15*reads {
		t.Errorf("%.1f reads a second, of a server with %.1f", got, reads)
	}
	if got := a.HitRatio.Middle(); math.Abs(got-all.HitRatio()) > 0.05 {
		t.Errorf("%.2f hits, of a server with %.2f", got, all.HitRatio())
	}
	if a.Source != "metrics page" || !strings.Contains(a.Assumptions[0], "16m40s") {
		t.Errorf("%s: %q", a.Source, a.Assumptions)
	}
}

// In mode observe what would have been is what counts.
func TestInModeObserveTheHitsAreThoseThatWouldHaveBeen(t *testing.T) {
	p, err := readPage(strings.NewReader(metricPrefix + `requests_total{route="read"} 100
` + metricPrefix + `outcomes_total{route="read",outcome="bypass"} 100
` + metricPrefix + `observed_total{route="read",outcome="hit"} 75
` + metricPrefix + `observed_total{route="read",outcome="miss"} 25`))
	if err != nil || p.hits() != 0.75 {
		t.Errorf("%v hits, %v", p.hits(), err)
	}
}

func TestABadMetricsPageIsRefused(t *testing.T) {
	began := "process_start_time_seconds 1.7e9\n"
	reads := metricPrefix + "requests_total{cache=\"a\",route=\"read\"} 10\n"
	for name, tt := range map[string]struct{ text, says string }{
		"empty":               {"", "no metrics page"},
		"HTML":                {"<html>\n<p class=\"x\">404</p>", "no metrics page"},
		"another program":     {"# TYPE synapse_x counter\nsynapse_x{a=\"b\"} 3\n", "such as synapse_x"},
		"nothing asked":       {began + metricPrefix + "requests_total{route=\"read\"} 0\n", "no reads and no writes"},
		"no beginning":        {reads, "--over"},
		"a beginning to come": {reads + "process_start_time_seconds 1.8e9\n", "--over"},
		"infinite":            {began + metricPrefix + "requests_total{route=\"read\"} +Inf\n", "matrix_presence"},
	} {
		q := about(t, 0, "default")
		_, err := q.FromMetrics(t.Context(), strings.NewReader(tt.text), time.Unix(1_700_001_000, 0), 0)
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want something about %q", name, err, tt.says)
		}
	}
}

// A bridge is told by what its users write.
func TestABridgeShowsInTheMetrics(t *testing.T) {
	l := DefaultLoad()
	l.Rooms = []RoomKind{{3, 20}}
	p := &page{
		requests: map[string]float64{"write": 100_000, "read": 10}, entries: map[string]float64{"identities": 300, "writers": 250}, lookups: 3000,
		outcomes: make(map[[2]string]float64),
	}
	q := about(t, 0, "default")
	if _, err := p.describe(&l, 1000*time.Second, q.Settings); err != nil {
		t.Fatal(err)
	}
	if len(l.Bridges) != 1 || l.Bridges[0].Ghosts != 250 || l.Bridges[0].Every != Duration(2500*time.Millisecond) || l.Writes != 0 {
		t.Errorf("%+v", l)
	}
}

func FuzzMetricsPage(f *testing.F) {
	f.Add("process_start_time_seconds 1.7e9\n"+metricPrefix+"requests_total{cache=\"a\",route=\"read\"} 10 1700000000000\n", int64(0))
	f.Add(metricPrefix+"entries{table=\"identities\"} 1e30\n"+metricPrefix+"requests_total{route=\"write\"} 1e300\n", int64(time.Hour))
	f.Add(metricPrefix+`requests_total{route="re\"ad\\n",} 1`, int64(1))
	f.Add(metricPrefix+"requests_total{a=\"\xff\n", int64(-1))
	f.Fuzz(func(t *testing.T, text string, over int64) {
		p, err := readPage(strings.NewReader(text))
		if err != nil {
			return
		}
		counted, err := p.counted(time.Unix(1_700_001_000, 0), time.Duration(over))
		if err != nil {
			return
		}
		l := DefaultLoad()
		q := about(t, 0, "default")
		if _, err := p.describe(&l, counted, q.Settings); err != nil {
			return
		}
		if err := l.Check(); err != nil {
			t.Errorf("a page makes a description that can't be: %v: %+v", err, l)
		}
	})
}
