// Package scripted is a homeserver that knows presence, tokens and nothing else, for
// tests in which the homeserver itself has to misbehave at a known moment, or to be
// quicker than a real one. It answers as Synapse does.
//
//   - homeserver.go: routes, states, and what is counted;
//   - run.go: the listener, which can be stopped and started again, and gates.
//
// It can be told to hold requests ([Homeserver.Hold]), to leave in an orderly way
// ([Homeserver.Stop]), to break off whatever it is doing ([Homeserver.Cut]), and to
// come back at the same address ([Homeserver.Start]).
//
// It counts exactly. An answer is written while the count is locked, and so is the
// breaking off begun: each request was either answered, and the answer is in the
// kernel's hands, or cut. A request is counted under its route and the label that the
// client gave it by the field [Label], which a proxy passes on; so is a request that the
// proxy makes on the client's behalf.
package scripted
