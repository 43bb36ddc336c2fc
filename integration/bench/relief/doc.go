// Command relief proves what the sidecar takes off a homeserver, on the shapes of load
// that admins reported: a real Synapse and a real Dendrite, on loopback, get each shape
// directly, through the sidecar as it is by default, and through it with the profile for
// busy servers; shapes of reads also through the caches of others.
//
// Each shape is a schedule: requests at fixed times, which all ways get alike, however
// fast they answer. What it costs the homeserver is the CPU time of its process, less what
// that uses in the same time when nobody asks for anything. Syncs do more than presence:
// their shapes are also run without any change of presence, and that is taken off instead.
//
// Every answer is judged. A status_msg names its user and its version, so that a ledger of
// writes tells whether a read may show it; what nobody may see is looked at too; and after
// each shape what a client sees through the sidecar is compared with what the homeserver
// itself says.
//
//	size.go, shape*.go   what is asked, when
//	scene.go             one shape by one way, and what it cost
//	way.go               direct, by default, busy (busy.caddyfile), two nodes, others' caches
//	world.go, people.go  a homeserver with users in rooms
//	request.go, play.go  requests, and the playing of schedules
//	ledger.go, judge.go  what may be shown, and what is wrong with an answer
//	check.go             what is compared after a shape
//	predict.go           what presence-plan says of the same requests
//	result.go, show.go   figures, tables, charts
package main
