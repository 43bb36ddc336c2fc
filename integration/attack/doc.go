// Package attack holds the tests in which somebody means harm: the built binary
// stands in front of a scripted homeserver, attackers come at full speed, and
// ordinary users go about their business all the while.
//
// Each attack is judged by the same three:
//
//   - Memory is bounded. The bound is computed from the sizes of the tables and
//     what is in flight; the heap is what Caddy's profile says after a garbage
//     collection, the resident memory what the kernel says at its highest.
//   - The homeserver's work is bounded. The scripted homeserver counts what it is
//     asked, by kind, and how much of it at a time.
//   - Nobody else is harmed. Victims, with tokens that are known and with new
//     ones, must get the right answers from the beginning to the end. Their
//     slowest hundredth is printed, before the attack and during it, and not
//     asserted: attackers, victims and both servers share the machine.
//
// The other half is about requests that two servers could read differently. They
// are written to the socket byte for byte, and so is what leaves for the homeserver
// recorded: it must be written in the one way that leaves nothing to
// interpretation (wire_test.go), and nothing may be in it that was not judged.
//
// What is sent comes in two sizes: "go test" takes the small one,
// "go test -size full" a million of what the small one has some thousands of.
// The tests end with a table of what was tried and measured.
package attack
