// Package model is a homeserver that can be asked directly: one of Synapse, Dendrite or
// tuwunel, as far as presence goes, in the words of the reference sheets and of the tables that
// are checked on the real ones.
//
// It is an http.RoundTripper, which reads each request from its wire form by itself and
// never by the parsers of the code under test:
//
//   - dialect.go: what differs between the three;
//   - credential.go: which token a request shows;
//   - account.go: who has an account, which tokens there are, who shares a room. All of it is
//     kept from the beginning, so that it can be asked what was true when;
//   - presence.go: what became of presences, likewise;
//   - homeserver.go: the routes;
//   - ask.go: what else it can be asked.
//
// Time is that of a bubble of testing/synctest.
package model
