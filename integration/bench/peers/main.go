//go:build peers

// Command peers is Caddy with the modules of other people that the benchmark
// compares with: a rate limiter and a general HTTP cache. It has none of ours, and
// what users build has none of theirs. A build tag keeps it out of `go vet ./...` and
// `go test ./...`: it is all of Caddy once more, with nothing of ours to test.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddyserver/cache-handler"
	_ "github.com/mholt/caddy-ratelimit"
)

func main() {
	caddycmd.Main()
}
