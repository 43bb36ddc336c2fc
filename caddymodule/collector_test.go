package caddymodule

import (
	"os"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
	"github.com/prometheus/client_golang/prometheus"
)

// All that is counted reaches a scrape, under a name and a Help that fit a line.
func TestAllMetricsAreCollected(t *testing.T) {
	p := handle(t, new(Handler))
	p.Get("bob-token", alice)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(storeCollector{}, upstreamSeconds)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	helps, mine := make(map[string]string), make(map[string]bool)
	for _, family := range families {
		name, ok := strings.CutPrefix(family.GetName(), metricsPrefix)
		if !ok || len(family.GetHelp()) > 120 || !strings.HasSuffix(family.GetHelp(), ".") {
			t.Errorf("%s: %s", family.GetName(), family.GetHelp())
		}
		helps[name] = family.GetHelp()
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				mine[name] = mine[name] || label.GetName() == "cache" && label.GetValue() == t.Name()
			}
		}
	}
	for _, metric := range gateway.Metrics {
		if helps[metric.Name] != metric.Help || !mine[metric.Name] {
			t.Errorf("%s is not there for the memory of this test", metric.Name)
		}
	}
	if !mine["upstream_seconds"] {
		t.Error("upstream_seconds is not there")
	}
}

// The page about metrics has each of them, and each value that a label of theirs may have.
func TestAllMetricsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	handle(t, new(Handler))
	eachStore(func(_ string, m *pooled) {
		m.store.Samples(func(metric *gateway.Metric, _ float64, labels ...string) {
			for _, word := range append(labels, metric.Name) {
				if !strings.Contains(string(page), "`"+word+"`") && !strings.Contains(string(page), "`"+word+"{") {
					t.Errorf("%s %v: %s is not in docs/metrics.md", metric.Name, labels, word)
				}
			}
		})
	})
}
