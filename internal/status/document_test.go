package status

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"
)

func TestMetricsAreATreeOfLabels(t *testing.T) {
	m := Metrics{}
	m.Set(7, "saved_total")
	m.Set(5, "outcomes_total", "read", "hit")
	m.Set(2, "outcomes_total", "read", "miss")
	m.Set(1, "outcomes_total", "write", "forwarded")
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"outcomes_total":{"read":{"hit":5,"miss":2},"write":{"forwarded":1}},"saved_total":7}`; string(text) != want {
		t.Errorf("%s, want %s", text, want)
	}
	// As presence-top gets it.
	var read Metrics
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	for _, m := range []Metrics{m, read} {
		for _, test := range []struct {
			value float64
			has   bool
			path  []string
		}{
			{7, true, []string{"saved_total"}},
			{5, true, []string{"outcomes_total", "read", "hit"}},
			{7, true, []string{"outcomes_total", "read"}},
			{8, true, []string{"outcomes_total"}},
			{0, false, []string{"outcomes_total", "sync"}},
			{0, false, []string{"saved_total", "read"}},
			{0, false, []string{"nothing"}},
		} {
			if value, has := m.Value(test.path[0], test.path[1:]...), m.Has(test.path[0], test.path[1:]...); value != test.value || has != test.has {
				t.Errorf("%v is %v, %v", test.path, value, has)
			}
		}
		if labels := m.Labels("outcomes_total", "read"); !slices.Equal(labels, []string{"hit", "miss"}) || m.Labels("saved_total") != nil {
			t.Errorf("labels %v", labels)
		}
		if !reflect.DeepEqual(m.Names(), []string{"outcomes_total", "saved_total"}) {
			t.Errorf("names %v", m.Names())
		}
	}
}
