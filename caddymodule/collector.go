package caddymodule

import (
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

const metricsPrefix = "caddy_matrix_presence_"

// descs are the metrics as Prometheus has them.
var descs = func() map[*gateway.Metric]*prometheus.Desc {
	descs := make(map[*gateway.Metric]*prometheus.Desc)
	for _, metric := range gateway.Metrics {
		descs[metric] = prometheus.NewDesc(metricsPrefix+metric.Name, metric.Help, append([]string{"cache"}, metric.Labels...), nil)
	}
	return descs
}()

// latencyBuckets are seconds: from a homeserver that answers from its own memory to
// one that is about to be given up.
var latencyBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// upstreamSeconds is one for all stores. Caddy makes a registry for each
// configuration; it is registered with all of them.
var upstreamSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
	Name:    metricsPrefix + "upstream_seconds",
	Help:    "Time until the homeserver began to answer or gave up, by reason. Syncs wait for news and are not measured.",
	Buckets: latencyBuckets,
}, []string{"cache", "reason"})

// storeCollector reads the stores when it is asked, so it has nothing that a
// reload could lose.
type storeCollector struct{}

func registerMetrics(ctx caddy.Context) error {
	for _, collector := range []prometheus.Collector{storeCollector{}, upstreamSeconds} {
		err := ctx.GetMetricsRegistry().Register(collector)
		if registered := (prometheus.AlreadyRegisteredError{}); errors.As(err, &registered) {
			continue // by another handler of this configuration
		}
		if err != nil {
			return fmt.Errorf("registering metrics: %w", err)
		}
	}
	return nil
}

// Describe implements prometheus.Collector.
func (storeCollector) Describe(out chan<- *prometheus.Desc) {
	for _, metric := range gateway.Metrics {
		out <- descs[metric]
	}
}

// Collect implements prometheus.Collector.
func (storeCollector) Collect(out chan<- prometheus.Metric) {
	eachStore(func(name string, m *pooled) {
		m.store.Samples(func(metric *gateway.Metric, value float64, labels ...string) {
			kind := prometheus.CounterValue
			if metric.IsGauge {
				kind = prometheus.GaugeValue
			}
			out <- prometheus.MustNewConstMetric(descs[metric], kind, value, append([]string{name}, labels...)...)
		})
	})
}
