package caddymodule

import (
	"context"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
)

// running is told when a handler's configuration has started. What goes on behind requests begins then: a configuration
// that is only checked, or that fails, changes no file, and nothing of what is remembered.
type running struct{ handler *Handler }

// Handle implements caddyevents.Handler. A cluster comes before a snapshot, in which it must not look for identities.
func (r running) Handle(context.Context, caddy.Event) error {
	h := r.handler
	h.pooled.beginMembers()
	if h.keeper != nil {
		h.keeper.Begin(h.pooled.since == h.plan.id)
	}
	return nil
}

// exiting is told when it is about to end. If the process does too, what is remembered is written at once: Caddy
// waits for long polls now, and whatever runs it may not wait for so long.
type exiting struct{ handler *Handler }

// Handle implements caddyevents.Handler.
func (e exiting) Handle(context.Context, caddy.Event) error {
	if e.handler.keeper != nil && caddy.Exiting() {
		e.handler.keeper.Ending()
	}
	return nil
}

// followRun has what goes on behind requests begin when the configuration has started.
func (h *Handler) followRun(ctx caddy.Context) error {
	if serverOf(ctx) == nil { // not in Caddy's HTTP app
		h.pooled.beginMembers()
		return nil
	}
	app, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("getting the events app: %w", err)
	}
	for event, handler := range map[string]caddyevents.Handler{"started": running{h}, "stopping": exiting{h}} {
		if err := app.(*caddyevents.App).On(event, handler); err != nil {
			return fmt.Errorf("subscribing to the event %s: %w", event, err)
		}
	}
	return nil
}
