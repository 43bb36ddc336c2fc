// Package world looks for faults on values that nobody has thought of yet: it draws worlds
// from all axes at once and judges what happens in them by laws.
//
// A plan is data (plan_test.go): which homeserver, which site, who is there, and what happens
// when: requests, changes behind our back, reloads, moods of the homeserver. It is drawn from
// axes (axes_test.go), each a list of named values. So it can run more than once, each time
// in a bubble of made-up time with all of Caddy, real protocols and a homeserver that can be
// asked directly (run_test.go):
//
//   - direct: through Caddy without the module;
//   - through the module;
//   - likewise, without those who have no account;
//   - likewise, all of it over HTTP/1.1.
//
// The laws (laws_test.go) compare the runs with each other, and answers with what the
// homeserver says of the time in question. Each is a sentence that an admin would understand.
//
// To add a value, add a line to its axis: a name, and what it changes of the plan's site or of a
// request. To add an axis, add a list, and draw from it in plan_test.go. Nothing else has to know.
//
// A failure prints its plan, as few steps as rapid could find, and the seed that repeats it:
//
//	go test ./world -run TestWorld -seed 42
//	go test ./world -run TestWorld -duration 1h -v
package world
