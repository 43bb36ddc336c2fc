package throughput

import (
	"slices"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/load"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/stats"
)

func TestContendersAreComplete(t *testing.T) {
	names := map[string]bool{}
	for _, c := range Contenders {
		if names[c.Name] {
			t.Errorf("two are called %s", c.Name)
		}
		names[c.Name] = true
		if spec(c.Server).Config == "" {
			t.Errorf("%s has no server", c.Name)
		}
	}
	for _, c := range Contenders {
		if c.Floor != "" && !names[c.Floor] {
			t.Errorf("%s has no floor %s", c.Name, c.Floor)
		}
	}
	for _, c := range Comparisons {
		if !names[c.Over] || !names[c.Under] {
			t.Errorf("no such comparison: %+v", c)
		}
	}
}

func namesOf(contenders []Contender) string {
	var names []string
	for _, c := range contenders {
		names = append(names, c.Name)
	}
	return strings.Join(names, " ")
}

func TestSelection(t *testing.T) {
	for _, c := range []struct {
		only []string
		want string
	}{
		{[]string{"pass-through"}, "reverse-proxy-other pass-through"},
		{[]string{"souin"}, "respond hit souin"},
		{[]string{"respond-noidle"}, "respond respond-noidle"},
	} {
		got, err := Select(false, c.only)
		if err != nil || namesOf(got) != c.want {
			t.Errorf("%v: got %q, %v", c.only, namesOf(got), err)
		}
	}
	if _, err := Select(false, []string{"nobody"}); err == nil {
		t.Error("a contender that is not there can be chosen")
	}
	quick, err := Select(false, nil)
	if err != nil || slices.ContainsFunc(quick, func(c Contender) bool { return c.Full }) {
		t.Errorf("quick: %q, %v", namesOf(quick), err)
	}
	if full, err := Select(true, nil); err != nil || len(full) != len(Contenders) {
		t.Errorf("full: %q, %v", namesOf(full), err)
	}
}

func TestSchedule(t *testing.T) {
	list := []Contender{
		{Name: "floor"}, {Name: "a", Floor: "floor"}, {Name: "b", Floor: "floor"}, {Name: "c", Floor: "a"}, {Name: "alone"},
	}
	for _, c := range []struct {
		round int
		fresh bool
		want  string
	}{
		{0, false, "floor a b c alone"},
		{1, false, "alone c b a floor"},
		{0, true, "floor a floor b a c alone"},
		{1, true, "alone a c floor b floor a"},
	} {
		if got := namesOf(schedule(list, c.round, c.fresh)); got != c.want {
			t.Errorf("round %d, fresh %v: got %q, want %q", c.round, c.fresh, got, c.want)
		}
	}
}

// A cache that quietly asks the homeserver, or a limiter that lets requests through,
// must not look like a fast one.
func TestProblems(t *testing.T) {
	for name, c := range map[string]struct {
		contender Contender
		m         Measurement
		want      string
	}{
		"a good hit":     {Contender{}, Measurement{Load: load.Result{Requests: 1000}}, ""},
		"a cold cache":   {Contender{}, Measurement{Load: load.Result{Requests: 1000}, Upstream: 20}, "reached the homeserver"},
		"errors":         {Contender{}, Measurement{Load: load.Result{Requests: 1000, Refused: 30}}, "were refused"},
		"no limit":       {Contender{Refused: true}, Measurement{Load: load.Result{Requests: 1000}}, "not refused"},
		"once a minute":  {Contender{Refused: true, Warm: &everyone}, Measurement{Load: load.Result{Requests: 1000, Refused: 900}, Upstream: 100}, ""},
		"no real limit":  {Contender{Refused: true, Warm: &everyone}, Measurement{Load: load.Result{Requests: 1000, Refused: 800}, Upstream: 200}, "not refused"},
		"broken":         {Contender{}, Measurement{Load: load.Result{Requests: 1000, Failed: 30}}, "failed"},
		"dead":           {Contender{}, Measurement{}, "no request"},
		"a cached miss":  {Contender{Upstream: 1000}, Measurement{Load: load.Result{Requests: 1000}, Upstream: 500}, "only 500"},
		"a good miss":    {Contender{Upstream: 1000}, Measurement{Load: load.Result{Requests: 1000}, Upstream: 1001}, ""},
		"a mix of those": {Contender{Upstream: anything}, Measurement{Load: load.Result{Requests: 1000}, Upstream: 300}, ""},
	} {
		if got := c.m.problem(c.contender); (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

// A page that says that all targets were met must not say so beside one that was not.
func TestMissedTargetsAreSaid(t *testing.T) {
	for name, c := range map[string]struct {
		comparison Comparison
		median     float64
		want       string
	}{
		"no target":       {Comparison{}, 3, ""},
		"met":             {Comparison{Most: 1.1}, 1.104, ""},
		"missed":          {Comparison{Most: 1.1}, 1.106, "at most 1.1"},
		"enough":          {Comparison{Least: 10}, 10, ""},
		"not enough":      {Comparison{Least: 10}, 9.9, "at least 10"},
		"a difference":    {Comparison{Most: 100, Figure: P50More}, 100.4, ""},
		"a larger one":    {Comparison{Most: 100, Figure: P50More}, 101, "at most 100"},
		"nothing was had": {Comparison{Least: 10}, 0, ""},
	} {
		s := stats.Spread{Median: c.median, N: 1}
		if c.median == 0 {
			s.N = 0
		}
		if got := c.comparison.missedBy(s); got != (c.want != "") || got && c.comparison.Target() != c.want {
			t.Errorf("%s: missed %v, target %q", name, got, c.comparison.Target())
		}
	}
	r := &Results{Measurements: []Measurement{
		{Contender: "respond", User: 10}, {Contender: "hit", Position: 1, User: 12},
		{Contender: "refused", Position: 2, User: 10},
	}}
	if got, want := r.Missed(), []string{"hit / respond is 1.20, and has to be at most 1.05"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
