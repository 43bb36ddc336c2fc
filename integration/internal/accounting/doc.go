// Package accounting reads from /proc what a server has cost: the CPU time of the
// process and of all its descendants (nginx and Varnish do their work in
// children), and their memory.
//
// CPU time is what the benchmark judges by. The load generator runs on the same
// cores as the server, so requests a second say how the two share a machine;
// user and system time say what a request costs the server, whoever else runs.
// Loopback has one blur: the kernel's work to receive is charged to the sender.
//
// The kernel counts in ticks of 10 ms, so a run should last a second at least.
package accounting
