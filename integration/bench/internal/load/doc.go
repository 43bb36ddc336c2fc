// Package load sends requests as fast as a server answers them, over a fixed
// number of kept-alive connections, and tells how many were answered and how long
// that took.
//
// It runs in a child process, so that neither its garbage nor its CPU time is anybody
// else's. It also warms caches (every request once), makes a paced load of writes beside
// the reads, and speaks HTTP/2 and HTTP/3.
//
// With all connections busy all of the time, latencies are mostly queueing: they
// compare contenders at full load, and say little about a quiet day.
package load
