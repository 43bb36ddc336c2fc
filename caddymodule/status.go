package caddymodule

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/status"
)

// started is when the process was.
var started = time.Now()

// histograms has the one histogram that there is, for its buckets to be read.
var histograms = func() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(upstreamSeconds)
	return registry
}()

// takeStatus returns what all stores have counted by now.
func takeStatus(now time.Time) *status.Document {
	version, _ := caddy.Version()
	if caddy.CustomVersion != "" {
		version = caddy.CustomVersion + " " + version
	}
	d := &status.Document{Version: version, Time: now.UTC(), Started: started.UTC(), Caches: []status.Cache{}}
	seconds := takeSeconds()
	for _, m := range allStores() {
		c := status.Cache{Name: m.name, Since: m.store.Began().UTC(), Metrics: status.Metrics{}}
		all := m.settings()
		c.Mode, c.Homeserver = modeOf(all), m.store.Homeserver(all)
		m.store.Samples(func(metric *gateway.Metric, value float64, labels ...string) {
			c.Metrics.Set(value, metric.Name, labels...)
		})
		for _, s := range seconds[m.name] {
			c.Metrics.Set(s.value, s.name, s.labels...)
		}
		c.Latency = c.Metrics.LatencyOf()
		d.Caches = append(d.Caches, c)
	}
	return d
}

// modeOf returns the mode of handlers.
func modeOf(all []*gateway.Settings) string {
	observes := 0
	for _, set := range all {
		if set.Observe {
			observes++
		}
	}
	switch observes {
	case 0:
		return "enforce"
	case len(all):
		return "observe"
	}
	return "mixed"
}

// secondsSample is a number of the histogram.
type secondsSample struct {
	name   string
	labels []string
	value  float64
}

// takeSeconds returns the numbers of the histogram, by the name of the store, as Prometheus names
// them.
func takeSeconds() map[string][]secondsSample {
	families, err := histograms.Gather()
	if err != nil {
		return nil // there is only one, which is consistent
	}
	found := make(map[string][]secondsSample)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			cache, reason := "", ""
			for _, label := range metric.GetLabel() {
				switch label.GetName() {
				case "cache":
					cache = label.GetValue()
				case "reason":
					reason = label.GetValue()
				}
			}
			histogram := metric.GetHistogram()
			if histogram.GetSampleCount() == 0 {
				continue
			}
			name := "upstream_seconds"
			samples := []secondsSample{
				{name + "_count", []string{reason}, float64(histogram.GetSampleCount())},
				{name + "_sum", []string{reason}, histogram.GetSampleSum()},
				{name + "_bucket", []string{reason, "+Inf"}, float64(histogram.GetSampleCount())},
			}
			for _, b := range histogram.GetBucket() {
				le := strconv.FormatFloat(b.GetUpperBound(), 'g', -1, 64)
				samples = append(samples, secondsSample{name + "_bucket", []string{reason, le}, float64(b.GetCumulativeCount())})
			}
			found[cache] = append(found[cache], samples...)
		}
	}
	return found
}
