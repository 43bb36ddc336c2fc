// Command bench compares the module with everything that an admin could use
// instead, on this machine, in one run: bare Caddy, nginx, Varnish, and Caddy
// with the modules of others. Nothing leaves loopback.
//
// What one request costs each contender is told with ratios that a noisy machine leaves alone. How
// much of a homeserver's work is saved, and how many answers are wrong, is told by the other
// command, relief.
//
//	internal/traffic     who asks what, and the bytes of it
//	internal/load        the load generator
//	internal/upstream    a homeserver that answers without effort, in a process of its own
//	internal/contender   the servers that are compared, and their configuration
//	internal/stats       medians and ratios
//	internal/throughput  the experiment
//	internal/plan        steps and how long they will take
//	internal/command     how this command and relief begin and end
//	internal/report      tables, charts, documentation
//	peers                Caddy with the modules of others
//	relief               a command of its own: shapes of load on real homeservers
package main
