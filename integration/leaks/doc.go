// Package leaks holds the test that nobody ever sees a presence, or changes one,
// against the homeserver's will.
//
// Caddy runs in the test's own process with all that a site has: its server, its
// logs, matrix_presence, reverse_proxy. Behind it is a model of a homeserver, which
// reads each request from its wire form by itself, in the way of Synapse, Dendrite or
// tuwunel, and never by our own parsers. Nothing is a socket: clients come over pipes
// and reverse_proxy has a transport that calls the model. So all of it runs in
// a bubble of testing/synctest, where lifetimes of minutes are exact and cost nothing.
//
// A state machine of rapid moves the model's world: users join and leave rooms, log
// in on further devices, are logged out through Caddy and behind its back, are
// locked and deactivated; appservices act for their users; answers come late,
// broken or never. Meanwhile reads and writes go through Caddy in every spelling,
// one by one and many at once.
//
// Synapse tells by itself, too (feed_test.go): rows come late, twice, in another order, or
// are lost, which is noticed at once or later.
//
// The world's history is kept. Each answer is judged by it afterwards (law_test.go):
// a state needs a moment, within the lifetimes that the configuration promises, at
// which the homeserver would have taken the credential for a viewer and let the
// viewer see the target.
//
// A run has 100 sequences of some 30 steps, many steps with a dozen requests;
// -rapid.checks and -rapid.steps ask for more. -rapid.seed, which a failure
// prints, repeats one.
package leaks
