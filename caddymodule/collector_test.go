package caddymodule

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/cluster"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/status"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// All that is counted reaches a scrape, under a name and a Help that fit a line.
func TestAllMetricsAreCollected(t *testing.T) {
	p := handle(t, withEverything(t))
	p.Get("bob-token", alice)
	writeSnapshot(p)
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
	writeSnapshot(handle(t, withEverything(t)))
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

func init() { caddy.RegisterModule(scriptedCluster{}) }

// scriptedCluster is a guest module: a cluster of one node, whose log can't be reached.
type scriptedCluster struct{}

func (scriptedCluster) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: clusterNamespace + ".scripted", New: func() caddy.Module { return new(scriptedCluster) }}
}

func (scriptedCluster) Key() string { return "" }

func (scriptedCluster) Open(string) cluster.Log {
	log := testkit.NewSharedLog()
	log.Fail(errors.New("no connection"))
	return log.Client()
}

func (scriptedCluster) Rules() gateway.ClusterRules {
	return gateway.ClusterRules{Timeout: 50 * time.Millisecond, Recent: time.Minute}
}

// withEverything is a configuration that has all that there are metrics about.
func withEverything(t *testing.T) *Handler {
	h := fed("everything")
	h.BrownOut, h.ClusterRaw = "on", json.RawMessage(`{"store":"scripted"}`)
	h.Snapshot = filepath.Join(t.TempDir(), "presence.snapshot")
	return h
}

// writeSnapshot has the snapshot of a handler written: it has an age from then on.
func writeSnapshot(p *handled) {
	p.handler.keeper.Begin(true)
	p.handler.keeper.End()
}

// What a reload takes out of the configuration has no metrics any more: an alert, or the page, would take the
// last word of it for how it is now. What is new is there at once, and what stays goes on.
func TestMetricsGoWithWhatTheyAreAbout(t *testing.T) {
	p := handle(t, withEverything(t))
	writeSnapshot(p)
	of := func(prefix string) (names []string) {
		for name := range takeStatus(time.Now()).Caches[0].Metrics {
			if strings.HasPrefix(name, prefix) {
				names = append(names, name)
			}
		}
		return names
	}
	everything := map[string]int{"feed": 4, "cluster": 7, "brown_out": 1, "snapshot_age": 1}
	want := func(what string, counts map[string]int) {
		t.Helper()
		for prefix := range everything {
			if got := of(prefix); len(got) != counts[prefix] {
				t.Errorf("%s: %v, want %d of %s…", what, got, counts[prefix], prefix)
			}
		}
	}
	want("with everything", everything)
	p.reload(&Handler{BrownOut: "on"})
	want("with a brown-out", map[string]int{"brown_out": 1})
	shows := func() string {
		var h status.History
		h.Add(takeStatus(time.Now()))
		return h.View(nil).Text()
	}
	if text := shows(); !strings.Contains(text, "Brown-out: none") || strings.Contains(text, "Feed:") || strings.Contains(text, "cluster") {
		t.Errorf("the page with a brown-out:\n%s", text)
	}
	p.reload(fed("another"))
	want("with a feed", map[string]int{"feed": 4})
	p.reload(&Handler{ClusterRaw: json.RawMessage(`{"store":"scripted"}`)})
	want("with a cluster", map[string]int{"cluster": 7})
	p.reload(new(Handler))
	want("with nothing", nil)
	if text := shows(); strings.Contains(text, "Brown-out") {
		t.Errorf("the page without a brown-out:\n%s", text)
	}
	p.reload(withEverything(t))
	writeSnapshot(p)
	want("with everything again", everything)
}
