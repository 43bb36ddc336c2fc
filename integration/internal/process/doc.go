// Package process runs the servers of a test or of the demo: homeservers and
// the sidecar itself.
//
// Every server is a child in a process group of its own, so that Ctrl-C in a
// terminal reaches only the program that owns the servers and Stop reaches a
// server's own children. Where the kernel can, it kills a server whose owner
// died without calling Stop (a test binary that panicked or ran out of time).
//
// A server's output goes to a file, and the end of that file is part of every
// error that says the server did not start: nobody should have to look for it.
//
// After a reload of Caddy, [OneListener] waits for its old server to be gone.
//
// Ports are picked by the kernel and handed over by number, so another program
// may take one in between. Start then fails, and Retry picks again.
package process
