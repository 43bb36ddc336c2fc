package caddymodule

import (
	"fmt"
	"maps"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/status"
)

// statusOf returns what the admin endpoint says of the handler's memory.
func (p *handled) statusOf() status.Cache {
	p.t.Helper()
	var d status.Document
	if code, problem := askAdmin(p.t, "GET", "status", "", &d); code != 200 {
		p.t.Fatalf("%d %s", code, problem)
	}
	for _, c := range d.Caches {
		if c.Name == p.handler.Cache.Name {
			return c
		}
	}
	p.t.Fatalf("no %s in %+v", p.handler.Cache.Name, d)
	return status.Cache{}
}

// The status says just what the metrics say, by the same names.
func TestStatusIsWhatTheMetricsSay(t *testing.T) {
	p := handle(t, &Handler{Homeserver: "dendrite"})
	p.Get("bob-token", alice)
	p.Get("bob-token", alice)
	p.Put("alice-token", alice, `{"presence":"online"}`)
	is := p.statusOf()
	if is.Mode != "enforce" || is.Homeserver != "dendrite" || is.Since.IsZero() {
		t.Errorf("%+v", is)
	}
	got := make(map[string]float64)
	flatten(got, "", is.Metrics)
	want := scraped(t, is.Name)
	if !maps.Equal(got, want) {
		t.Errorf("the status says %v, and the metrics %v", got, want)
	}
	if l, ok := is.Latency["fetch"]; !ok || l.P50 <= 0 || l.P99 < l.P50 || len(is.Latency) != 3 {
		t.Errorf("latency: %+v", is.Latency)
	}
}

// flatten writes the numbers of a tree by the words that lead there.
func flatten(into map[string]float64, path string, node map[string]any) {
	for word, inner := range node {
		switch inner := inner.(type) {
		case map[string]any:
			flatten(into, path+" "+word, inner)
		case float64:
			into[path+" "+word] = inner
		}
	}
}

// scraped returns a memory's metrics as a scrape has them.
func scraped(t *testing.T, name string) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(storeCollector{}, upstreamSeconds)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	numbers := make(map[string]float64)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			labels := make(map[string]string)
			for _, label := range metric.GetLabel() {
				labels[label.GetName()] = label.GetValue()
			}
			if labels["cache"] != name {
				continue
			}
			path := " " + family.GetName()[len(metricsPrefix):]
			histogram := metric.GetHistogram()
			if histogram == nil {
				for _, label := range []string{"route", "outcome", "reason", "result", "what", "kind", "state", "table", "limit"} {
					if value, ok := labels[label]; ok {
						path += " " + value
					}
				}
				numbers[path] = metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
				continue
			}
			if histogram.GetSampleCount() > 0 {
				reason := labels["reason"]
				numbers[path+"_count "+reason] = float64(histogram.GetSampleCount())
				numbers[path+"_sum "+reason] = histogram.GetSampleSum()
				numbers[path+"_bucket "+reason+" +Inf"] = float64(histogram.GetSampleCount())
				for _, b := range histogram.GetBucket() {
					numbers[fmt.Sprint(path, "_bucket ", reason, " ", b.GetUpperBound())] = float64(b.GetCumulativeCount())
				}
			}
		}
	}
	return numbers
}

func TestModeOfHandlersThatDiffer(t *testing.T) {
	p := handle(t, &Handler{Mode: "observe"})
	if mode := p.statusOf().Mode; mode != "observe" {
		t.Errorf("%s, want observe", mode)
	}
	other := &Handler{Cache: &Cache{Name: p.handler.Cache.Name}}
	provision(t, other)
	if mode := p.statusOf().Mode; mode != "mixed" {
		t.Errorf("%s, want mixed", mode)
	}
}
