// Package scripted is a homeserver by script, and a client that speaks to a handler, for the tests of
// more than one package. Only tests import it.
//
//   - homeserver.go: [Homeserver], which stands as the next handler and answers as Synapse does;
//   - preflight.go: preflights, and what homeservers answer to them; zip.go: answers in gzip;
//   - client.go: [Client], which asks, and says what answers it wants; discard.go: a response
//     writer that forgets all.
package scripted
