package caddymodule

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

// configuredSettings are those of the first handler in a configuration.
func configuredSettings(name, adapter string) (*gateway.Settings, error) {
	text, err := os.ReadFile(name) //nolint:gosec // G304: whatever the admin names
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	if adapter != "json" {
		a := caddyconfig.GetAdapter(adapter)
		if a == nil {
			return nil, fmt.Errorf("--adapter: there is no %q", adapter)
		}
		if text, _, err = a.Adapt(text, map[string]any{"filename": name}); err != nil {
			return nil, fmt.Errorf("--config: adapting: %w", err)
		}
	}
	var config any
	if err := json.Unmarshal(text, &config); err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	found := findHandler(config)
	if found == nil {
		return nil, fmt.Errorf("--config: %s has no site with matrix_presence", name)
	}
	var h Handler
	if text, err = json.Marshal(found); err == nil {
		err = json.Unmarshal(text, &h)
	}
	if err != nil {
		return nil, fmt.Errorf("--config: reading matrix_presence: %w", err)
	}
	settings, err := h.settings()
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	return settings, nil
}

// findHandler returns the first handler of ours in a configuration, or nil.
func findHandler(config any) map[string]any {
	switch in := config.(type) {
	case map[string]any:
		if in["handler"] == "matrix_presence" {
			return in
		}
		for _, name := range slices.Sorted(maps.Keys(in)) {
			if found := findHandler(in[name]); found != nil {
				return found
			}
		}
	case []any:
		for _, inner := range in {
			if found := findHandler(inner); found != nil {
				return found
			}
		}
	}
	return nil
}
