// Package admin holds tests of what an admin sees and steers, with the finished program: the
// commands, the page in a real browser, alerts and dashboard with a real Prometheus.
package admin
