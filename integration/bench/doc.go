// Command bench compares the module with everything that an admin could use
// instead, on this machine, in one run: bare Caddy, nginx, Varnish, and Caddy
// with the modules of others. Nothing leaves loopback.
//
// It makes two tables. The first is about speed: what one request costs each
// contender, with ratios that a noisy machine leaves alone (package throughput).
// The second is about what speed is worth: how much of the homeserver's work is
// saved by contenders that are equally fresh, and how many of their answers are
// wrong (package freshness).
//
//	internal/traffic     who asks what, and the bytes of it
//	internal/load        wrk, or a generator of our own
//	internal/counting    counts what reaches a real one
//	internal/scripted    a homeserver that counts and can be slow
//	internal/contender   the servers that are compared, and their configuration
//	internal/accounting  what they cost, from /proc
//	internal/stats       medians and ratios
//	internal/throughput  the first table
//	internal/freshness   the second
//	internal/plan        steps and how long they will take
//	internal/command     how this command and relief begin and end
//	internal/report      tables, JSON, charts, documentation
//	peers                Caddy with the modules of others
//	relief               a command of its own: shapes of load on real homeservers
package main
