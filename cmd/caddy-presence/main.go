// Command caddy-presence is Caddy with its standard modules and matrix_presence.
//
// It takes all of Caddy's commands, and presence-proxy, which puts the module in
// front of a homeserver without a configuration file:
//
//	caddy-presence presence-proxy --from :8009 --to http://localhost:8008
package main

import (
	_ "time/tzdata"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-matrix/caddy-matrix-presence/caddymodule"
)

func main() {
	caddycmd.Main()
}
