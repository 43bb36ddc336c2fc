// Package throughput measures what one request costs each contender: CPU time
// first, then requests a second, latency, memory, allocations, and how many
// requests reached the homeserver.
//
// All contenders run at the same time and wait; one at a time is loaded, for a
// second or a few, and all of them in turn make a round. What the machine's
// neighbours do to it in a minute so falls on all alike, and a ratio pairs two
// measurements that were taken next to each other in a round. Rounds go through
// the list forwards and backwards in turn. At the full size the floor is measured
// anew right before each contender that is compared with it, and all servers are
// started again after a few rounds.
//
// A cache is warmed by asking for everything once. What reaches the homeserver
// during a run is counted, and a figure of a cache that asked it, or of a limiter
// that let requests through, is reported as a problem instead of as a fast one.
package throughput
