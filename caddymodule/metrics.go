package caddymodule

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddyserver/caddy/v2"
)

const metricsPrefix = "caddy_matrix_presence_"

var (
	entriesDesc = prometheus.NewDesc(metricsPrefix+"entries",
		"Entries in a table of a memory, fresh or not.",
		[]string{"cache", "table"}, nil)
	overflowDesc = prometheus.NewDesc(metricsPrefix+"limiter_overflow_total",
		"Events charged to the overflow budget of a limit because its table was full of users whose budgets are not full.",
		[]string{"cache", "limit"}, nil)
)

// memoryCollector reads the memories when it is asked, so it has nothing that a
// reload could lose and no more series than there are cache names.
type memoryCollector struct{}

func registerMetrics(ctx caddy.Context) error {
	err := ctx.GetMetricsRegistry().Register(memoryCollector{})
	if registered := (prometheus.AlreadyRegisteredError{}); errors.As(err, &registered) {
		return nil // by another handler of this configuration
	}
	if err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	return nil
}

// Describe implements prometheus.Collector.
func (memoryCollector) Describe(descs chan<- *prometheus.Desc) {
	descs <- entriesDesc
	descs <- overflowDesc
}

// Collect implements prometheus.Collector.
func (memoryCollector) Collect(metrics chan<- prometheus.Metric) {
	memories.Range(func(key, value any) bool {
		name, m := key.(string), value.(*memory)
		entries := func(table string, n int) {
			metrics <- prometheus.MustNewConstMetric(entriesDesc, prometheus.GaugeValue, float64(n), name, table)
		}
		states, permissions, refusals := m.presence.Len()
		entries("states", states)
		entries("permissions", permissions)
		entries("refusals", refusals)
		identities, rejections := m.identities.Len()
		entries("identities", identities)
		entries("rejections", rejections)
		entries("readers", m.reads.Users())
		entries("writers", m.writes.Users())
		entries("rejected_clients", m.rejected.Users())

		overflow := func(limit string, n uint64) {
			metrics <- prometheus.MustNewConstMetric(overflowDesc, prometheus.CounterValue, float64(n), name, limit)
		}
		overflow("read", m.reads.Overflowed())
		overflow("write", m.writes.Overflowed())
		overflow("rejected", m.rejected.Overflowed())
		return true
	})
}
