// Package sidecar builds the repository's own binary and runs it in front of a
// homeserver, as an admin would: by the presence-proxy command or by a
// Caddyfile. Nothing of it runs inside the test, so what a test sees is what a
// client of the finished program sees.
package sidecar
