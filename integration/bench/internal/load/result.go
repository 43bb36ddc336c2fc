package load

import (
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/protocol"
)

// Result is what a generator saw.
type Result struct {
	// Requests is how many were answered, whatever the status, in Seconds.
	Requests int     `json:"requests"`
	Seconds  float64 `json:"seconds"`
	// Refused were answered with a status of 400 or more.
	Refused int `json:"refused"`
	// Failed were not answered: the connection broke or nothing came in time.
	Failed int `json:"failed"`
	// Bytes is the size of all answers.
	Bytes int64 `json:"bytes"`
	// P50, P99 and P999 are latencies in microseconds.
	P50  float64 `json:"p50_us"`
	P99  float64 `json:"p99_us"`
	P999 float64 `json:"p999_us"`
}

// Rate is the number of requests a second.
func (r Result) Rate() float64 {
	if r.Seconds == 0 {
		return 0
	}
	return float64(r.Requests) / r.Seconds
}

// Options say how to load a server.
type Options struct {
	// Address is the server's.
	Address string
	// Protocol is what to speak, HTTP/1.1 unless given, and Certificate the file with the one
	// to trust.
	Protocol    protocol.Protocol
	Certificate string
	// File holds the requests, as WriteFile writes them.
	File string
	// Offset is the request to begin with, so that two runs on one file don't ask
	// the same.
	Offset int
	// Connections is how many are kept busy.
	Connections int
	// Duration is how long. With 0 each request of the file is sent once.
	Duration time.Duration
	// PerSecond, if above 0, is how many requests to begin a second at most.
	PerSecond int
}

// plain tells that HTTP/1.1 is spoken.
func (o Options) plain() bool { return o.Protocol == "" || o.Protocol == protocol.HTTP1 }
