package status

import (
	"maps"
	"time"
)

var epoch = time.Date(2026, time.July, 1, 12, 0, 0, 0, time.UTC)

// at returns a document of a time after the epoch, with caches that began then.
func at(after time.Duration, caches ...Cache) *Document {
	return &Document{Version: "test", Time: epoch.Add(after), Started: epoch, Caches: caches}
}

// cache returns a cache that has counted so many reads and hits, whose fetches took 5 ms.
func cache(name string, reads, hits float64) Cache {
	m := Metrics{}
	m.Set(reads, "requests_total", "read")
	m.Set(hits, "outcomes_total", "read", "hit")
	m.Set(reads-hits, "outcomes_total", "read", "miss")
	m.Set(hits, "saved_total")
	m.Set(reads-hits, "upstream_requests_total", "fetch")
	for le, part := range map[string]float64{"0.001": 0, "0.01": 1, "+Inf": 1} {
		m.Set(part*(reads-hits), "upstream_seconds_bucket", "fetch", le)
	}
	m.Set(2, "pending")
	m.Set(3.2, "pending_oldest_seconds")
	return Cache{Name: name, Since: epoch, Mode: "enforce", Metrics: m}
}

// full returns a cache in which everything has been counted.
func full(name string) Cache {
	c := cache(name, 100, 60)
	c.Mode = "observe"
	for metric, label := range labelNames {
		c.Metrics.Set(3, metric, label)
	}
	for _, limit := range []string{"read", "write", "sync", "rejected"} {
		c.Metrics.Set(1, "limiter_overflow_total", limit)
	}
	for _, table := range []string{"states", "permissions"} {
		c.Metrics.Set(50, "entries", table)
		c.Metrics.Set(100, "entries_max", table)
		c.Metrics.Set(7, "evictions_total", table)
	}
	c.Metrics.Set(9, "observed_total", "read", "hit")
	c.Metrics.Set(4, "requests_total", "sync")
	c.Metrics.Set(1, "feeds", "connecting")
	c.Metrics.Set(2, "brown_out_level")
	c.Metrics.Set(125, "snapshot_age_seconds")
	c.Metrics.Set(5, "cluster_messages_total", "sent")
	c.Metrics.Set(6, "room_hits_total")
	c.Metrics.Set(1, "upstream_requests_total", "a_new_reason")
	return c
}

// table returns a table of a view's only cache, or an empty one.
func (v *View) table(caption string) Table {
	for _, t := range v.Caches[0].Tables {
		if t.Caption == caption {
			return t
		}
	}
	return Table{}
}

// row returns a row's cells as texts.
func (t Table) row(head string) (texts []string) {
	for _, r := range t.Rows {
		if r.Head == head {
			for _, c := range r.Cells {
				texts = append(texts, c.Text)
			}
		}
	}
	return texts
}

// with returns a copy of a cache with another number.
func (c Cache) with(value float64, name string, labels ...string) Cache {
	c.Metrics = maps.Clone(c.Metrics)
	if inner, ok := c.Metrics[name].(map[string]any); ok {
		c.Metrics[name] = maps.Clone(inner)
	}
	c.Metrics.Set(value, name, labels...)
	return c
}
