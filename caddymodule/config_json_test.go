package caddymodule

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// What a Caddyfile can't say, or says at its line, has to name the option in JSON.
func TestConfigurationsInJSONThatAreRefused(t *testing.T) {
	const hour = caddy.Duration(time.Hour)
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
		// A limit that can't be computed.
		"write_limit of class bots: a burst of 1000000 is too large to be refilled at 1 events in 1h0m0s: at most 640447": {Classes: []Class{{Name: "bots", Match: bots, WriteLimit: &Limit{Events: 1, Window: hour, Burst: 1_000_000}}}},
		"read_limit: a window of 10000h0m0s is too long to refill 1 events in":                                            {ReadLimit: &Limit{Events: 1, Window: 10_000 * hour}},
		"rejected_limit: a burst of 1000000 is too large":                                                                 {Identity: &Identity{RejectedLimit: &Limit{Events: 1, Window: hour, Burst: 1_000_000}}},
		"sync_limit: a burst of":                             {SyncPresence: "limit", SyncLimit: &Limit{Events: math.MaxInt, Window: hour}},
		"checking sync_presence: 'off' is named 'strip' now": {SyncPresence: "off"},
		"preflight: expected local or pass":                  {Preflight: "on"},
		"pending must be at least 1":                         {OverLimit: "coalesce", Coalesce: &Coalesce{Pending: -1}},
		"max_age must not be negative":                       {OverLimit: "coalesce", Coalesce: &Coalesce{MaxAge: caddy.Duration(-1)}},
	} {
		_, err := handler.settings()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// Whoever has the old word is told the new one, also in JSON, which Caddy reads strictly.
func TestRenamedOptionInJSON(t *testing.T) {
	for _, config := range []string{`{"sync": "limit"}`, `{"sync": "off"}`, `{"sync": null}`} {
		var h Handler
		if err := caddy.StrictUnmarshalJSON([]byte(config), &h); err != nil {
			t.Fatal(err)
		}
		if _, err := h.settings(); err == nil || !strings.Contains(err.Error(), "checking sync: it is named sync_presence now") {
			t.Errorf("%s: %v", config, err)
		}
	}
}
