// Package load sends requests as fast as a server answers them, over a fixed
// number of kept-alive connections, and tells how many were answered and how long
// that took.
//
// There are two generators. wrk is the better one, because it takes less of the
// cores that it shares with the server; it plays a file of requests by a Lua
// script. Where it isn't installed, our own takes its place, in a child process,
// so that neither its garbage nor its CPU time is anybody else's. Ours also warms
// caches (every request once), makes a paced load of writes beside wrk's reads, and speaks
// HTTP/2 and HTTP/3.
//
// With all connections busy all of the time, latencies are mostly queueing: they
// compare contenders at full load, and say little about a quiet day.
package load
