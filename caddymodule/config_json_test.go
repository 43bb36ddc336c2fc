package caddymodule

import (
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// What a Caddyfile can't say, or says at its line, has to name the option in JSON.
func TestConfigurationsInJSONThatAreRefused(t *testing.T) {
	bots := []string{"@bot_*:example.com"}
	for want, handler := range map[string]*Handler{
		"class: each needs a name":                   {Classes: []Class{{Match: bots}}},
		"class bots: there are two":                  {Classes: []Class{{Name: "bots", Match: bots}, {Name: "bots", Match: bots}}},
		"class bots: user ID pattern":                {Classes: []Class{{Name: "bots", Match: []string{"bot"}}}},
		"class bots: it needs a match":               {Classes: []Class{{Name: "bots"}}},
		"write_limit of class bots: a limit":         {Classes: []Class{{Name: "bots", Match: bots, WriteLimit: new(Limit)}}},
		"over_limit of class bots: expected":         {Classes: []Class{{Name: "bots", Match: bots, OverLimit: "wait"}}},
		"repeat_writes of class bots: expected":      {Classes: []Class{{Name: "bots", Match: bots, RepeatWrites: "drop"}}},
		"over_limit of class bots: there is nothing": {Classes: []Class{{Name: "bots", Match: bots, WriteLimit: &Limit{Off: true}, OverLimit: "coalesce"}}},
		"preflight: expected local or pass":          {Preflight: "on"},
		"pending must be at least 1":                 {OverLimit: "coalesce", Coalesce: &Coalesce{Pending: -1}},
		"max_age must not be negative":               {OverLimit: "coalesce", Coalesce: &Coalesce{MaxAge: caddy.Duration(-1)}},
	} {
		_, err := handler.settings()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
