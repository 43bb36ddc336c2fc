package caddymodule

import (
	"context"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

// flushing is told by Caddy that a configuration is about to end. By the time of Cleanup
// the servers have waited for all requests under way, as a rule without a limit: for a
// long poll longer than some process managers wait for the process.
type flushing struct{ gateway *gateway.Gateway }

// Handle implements caddyevents.Handler.
func (f flushing) Handle(context.Context, caddy.Event) error {
	f.gateway.Flush()
	return nil
}

// flushWhenStopping has what waits delivered when the configuration ends.
func flushWhenStopping(ctx caddy.Context, g *gateway.Gateway) error {
	if serverOf(ctx) == nil {
		return nil // not in Caddy's HTTP app
	}
	app, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("getting the events app: %w", err)
	}
	if err := app.(*caddyevents.App).On("stopping", flushing{g}); err != nil {
		return fmt.Errorf("subscribing to the end of the configuration: %w", err)
	}
	return nil
}
