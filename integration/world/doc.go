// Package world looks for faults on values that nobody has thought of yet: it draws worlds
// from all axes at once and judges what happens in them by laws.
//
// A plan is data (plan_test.go): which homeserver, which site (site_test.go), who is there
// (actors_test.go), and what happens when: requests, changes behind our back, reloads, restarts,
// suspends, moods of the homeserver. It is drawn from axes (axes_test.go), each a list of
// named values: of a site (site_axes_test.go), of a request (call_axes_test.go), of a homeserver and
// a machine (homeserver_axes_test.go). So it can run more than once, each time in a bubble of
// made-up time with all of Caddy, real protocols and a homeserver that can be asked directly
// (run_test.go):
//
//   - direct: through Caddy without the module;
//   - through the module;
//   - likewise, without those who have no account;
//   - likewise, all of it over HTTP/1.1.
//
// The laws compare the runs with each other (laws_test.go), answers with what the homeserver
// says of the time in question (truth_test.go), what is counted and kept with what is
// promised of it (accounts_test.go), and what is refused and asked with on whose account that
// may be (claims_test.go). Each is a sentence that an admin would understand. With the
// mending of a fault taken out they have to find it again: see ../mutation.
//
// To add a value, add a line to its axis: a name, and what it changes of the plan, of its site or of
// a request; an answer of the homeserver's own is a [model.Answer], with fields if it needs any. To add an axis, add a list, and draw from it in plan_test.go. Nothing else has to know. A
// homeserver that answers 425 is a line of moodAxis; a header field of 64 KB is one of headAxis.
//
// What is not drawn, and which tests have it: a kill of the process, and two versions side by side, which are of
// another process (integration/survival); TLS on demand, of which nothing of ours sees anything; a homeserver of
// workers, which is one to us; an upgrade to another dialect; a suspended account, which no
// homeserver hides (it may not write messages); WebSockets and CONNECT (internal/gateway/protocol_test.go); a
// second site of one store with other options (needs_test.go); several nodes, which would be several processes
// (integration/history, attack, leaks, survival); how far presence gives way in a brown-out, and when it is back (policy,
// internal/gateway/brownout_test.go): the laws say that it does only after trouble, shows nothing that is too old for
// that, and changes nothing else; lists and a feed that teach (leaks, redis); configurations in JSON or by the
// admin API, which are what a Caddyfile adapts to (caddyfile_adapt); two requests in the same moment, whose
// order nobody knows (integration/history, leaks); two equal homeservers over minutes with a watcher
// each second, which TestTwins of internal/gateway has, by the same model of timers (internal/testkit): through all of
// Caddy they would take minutes of CI, and find no more.
//
// real_test.go plays the same plans, one request after the other, before a real Synapse and a real
// Dendrite, whose people have the names and tokens of the plan: what is between translates.
//
// Values that have not been drawn together come more often (coverage_test.go), and those that -more
// names four times out of five, also of what else is drawn, such as "steps=40;what about=anything". What is drawn is kept by names (tape_test.go), and for a person as
// a Caddyfile and commands (script_test.go).
//
// A failure prints its plan, as few steps as rapid could find, and the seed that repeats it as long as
// nothing changes in the axes. What has been drawn before decides what a seed draws, so earlier ones
// are drawn first. It leaves a file in .cache/world, too, which repeats it also when there are
// more values by then:
//
//	go test ./world -run TestWorld -seed 42
//	go test ./world -run TestWorld -replay "$PWD/../.cache/world/seed-42.plan" -v
//	go test ./world -run TestWorld -more "profile=busy;homeserver=dendrite" -v
//	go test ./world -run TestWorld -duration 1h -from 1000 -v
//	go test ./world -run TestReal -real 10m -v
package world
