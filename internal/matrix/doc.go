// Package matrix reads the wire of the client-server API as homeservers do: Synapse, Dendrite and
// tuwunel each in its own way, and the others as all three of them. What a homeserver would
// serve under some spelling and this package doesn't see is a way around every rule, so
// paths are matched escaped, raw segment by raw segment.
//
//   - route.go: is it a presence, and whose; activity.go: is it something by which a
//     homeserver takes its user for active; revocation.go: may tokens end by it;
//   - memberlist.go: is it a list of a room's members, and membership.go: does it change who is one;
//     own.go: is it served only to the user in its path; token.go: whom does a token name;
//   - credential.go: which access token does a request carry, on whose behalf. Homeservers
//     disagree about requests that carry several, so these are [ErrUncertain];
//   - body.go: what each homeserver makes of the body of a write; supersede.go: which of several
//     may be sent for all of them;
//   - sync.go: what a sync says about presence, in its query or its body;
//   - dialect.go: what the words mean, by homeserver;
//   - pattern.go: patterns of user IDs.
//
// It knows nothing of HTTP servers, keeps nothing, and allocates little.
package matrix
