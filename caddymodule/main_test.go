package caddymodule

import (
	"testing"

	"go.uber.org/goleak"
)

// Caddy makes a configuration for a test by ProvisionContext, which gives no way to end it,
// as its Stop and its reloads do. So these of its goroutines stay.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy.(*metricsUpstreamsHealthyUpdater).init.func1"),
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.(*Cache).maintainAssets"),
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"),                    // looks every five seconds whether it may end
		goleak.IgnoreAnyFunction("go.opentelemetry.io/otel/sdk/trace.(*batchSpanProcessor).processQueue"), // of the directive tracing
	)
}
