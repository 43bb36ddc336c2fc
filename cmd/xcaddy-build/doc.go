// Command xcaddy-build builds a Caddy binary from a JSON file.
//
// The file is the JSON form of xcaddy.Builder: the version of Caddy, the
// plugins to compile in and the modules to replace. The xcaddy command reads
// flags only, so a build that is kept in a repository needs something that
// hands its file to the xcaddy library. That is all this program does:
//
//	xcaddy.json ── config ──> xcaddy.Builder ── xcaddy ──> caddy-presence
//	                                               │
//	                                   log ── progress ──> terminal
//
// The config is strict: a field that the Builder doesn't have is refused
// instead of ignored, because a misspelt "replacements" would otherwise build a
// binary from the published module rather than from this checkout. Relative
// paths in the file are relative to the file. Durations are whole nanoseconds.
//
// The module root has a package that imports the plugin, so xcaddy alone can
// build it too:
//
//	xcaddy build v2.11.9 --with github.com/caddy-matrix/caddy-matrix-presence@v0.0.0=.
//
// The version, there and in xcaddy.json, spares the go command a question:
// without one it asks the module proxy which versions exist, and a proxy that
// answers anything but "not found" for a module it doesn't know fails the build.
package main
