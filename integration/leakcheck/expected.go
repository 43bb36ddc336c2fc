package main

// caddymodule is the package whose tests run a Caddy.
const caddymodule = "github.com/caddy-matrix/caddy-matrix-presence/caddymodule"

// Caddy makes a configuration for a test by ProvisionContext, which gives no way
// to end it, as its Stop and its reloads do.
const noEnd = "belongs to a configuration from caddy.ProvisionContext"

// expected are the goroutines that a package's tests may leave behind.
var expected = []struct {
	in       string // the package
	function string // somewhere on the goroutine's stack
	why      string
}{
	{caddymodule, "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy.(*metricsUpstreamsHealthyUpdater).init.func1", noEnd},
	{caddymodule, "github.com/caddyserver/certmagic.(*Cache).maintainAssets", noEnd},
}
