package equations_test

import (
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/equations"
)

func failing(c equations.Counters) (n int) {
	for _, e := range c.All(1) {
		if !e.Holds() {
			n++
		}
	}
	return n
}

func balanced() equations.Counters {
	return equations.Counters{
		"requests_total{route=read}": 2, "outcomes_total{outcome=hit,route=read}": 1, "outcomes_total{outcome=miss,route=read}": 1,
		"upstream_requests_total{reason=fetch}": 1,
		"requests_total{route=write}":           3, "outcomes_total{outcome=coalesced,route=write}": 3,
		"deliveries_total{result=delivered}": 1, "deliveries_total{result=superseded}": 1, "upstream_requests_total{reason=delivery}": 1,
		"requests_total{route=sync}": 1, "outcomes_total{outcome=held,route=sync}": 1, "sync_writes_total{result=damped}": 1, "upstream_requests_total{reason=sync}": 1,
		"saved_total": 2, "lookups_total{result=known}": 1, "upstream_requests_total{reason=whoami}": 1,
	}
}

// One more of anything contradicts something.
func TestEachDriftFails(t *testing.T) {
	if n := failing(balanced()); n > 0 {
		t.Errorf("%d equations fail of counters that agree", n)
	}
	for name := range balanced() {
		drifted := balanced()
		if drifted[name]++; failing(drifted) == 0 && name != "upstream_requests_total{reason=delivery}" {
			t.Errorf("nothing fails with one more of %s", name)
		}
	}
}
