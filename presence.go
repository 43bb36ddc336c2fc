// Package presence makes the whole module importable by its root path, so that
//
//	xcaddy build --with github.com/caddy-matrix/caddy-matrix-presence
//
// compiles it into Caddy. The code is in package caddymodule.
package presence

import _ "github.com/caddy-matrix/caddy-matrix-presence/caddymodule"
