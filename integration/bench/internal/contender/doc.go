// Package contender configures and runs the servers that are compared: Caddy as
// it is, Caddy with our module, Caddy with the modules of others, nginx, Varnish.
//
// A [Spec] is a program and the text of its configuration. Every contender is set
// up as well as its documentation allows: it keeps connections to the homeserver
// open, logs nothing unless the log is what is measured, and has room for all
// that it is asked to remember. Where one needed something unobvious to work at
// all, its configuration says so.
//
// Caches of others can't know viewers or writes. The nearest that they have is a
// key of token and path, which never shows a viewer what only another may see.
//
// A program that this machine lacks is an error that names the Debian package it
// is in; the benchmark goes on without.
package contender
