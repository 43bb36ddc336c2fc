// Package homeserver starts real Matrix homeservers on loopback, for tests and
// for the demo: Dendrite, built from its Go module, and Synapse, installed from
// the Python package index.
//
// Both are made to be fast and alone: SQLite and keys in a temporary folder,
// cheap password hashes, no federation, no limits of their own (unless asked
// for), and nothing that listens on another interface than loopback. Users are
// made with the registration shared secret, which both servers take at the same
// path, and an appservice called bridge may speak for any @ghost_….
//
// A [Busy] is Synapse as admins of many users run it: with PostgreSQL, Redis and workers. What isn't
// there, and can't be installed, is [ErrUnavailable].
//
// The first Dendrite costs a minute or two of compiling, the first Synapse a
// download; both say so on Options.Progress while it lasts and are silent
// afterwards. Dendrite lives in Go's build cache, Synapse in a virtual
// environment in the user's cache folder whose name holds the hash of
// requirements.txt, so that another pin is another environment.
//
// Dendrite applies a PUT after it has acknowledged it: tests poll.
package homeserver
