package bubble

import (
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"  // the Caddyfile adapter
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/standard" // the directives of a site
	_ "github.com/caddyserver/caddy/v2/modules/caddytls"           // certificates
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"        // the default storage
	_ "github.com/caddyserver/caddy/v2/modules/logging"            // the formats of logs
	_ "github.com/caddyserver/caddy/v2/modules/metrics"            // the directive metrics

	_ "github.com/caddy-matrix/caddy-matrix-presence/caddymodule" // what is tested
)

// Options are the global options of a Caddyfile that keep Caddy to the bubble. The logs are
// those of Caddyfile.example, and more is logged: below INFO, rewrites and
// forward_auth have fields of their own.
const Options = `
	admin off
	persist_config off
	storage_check off
	storage_clean_interval off
	auto_https off
	grace_period 1m
	log {
		output journal
		level DEBUG
		format filter {
			wrap json
			request>uri query {
				replace access_token REDACTED
			}
			uri query {
				replace access_token REDACTED
			}
			request>headers>X-Forwarded-Uri delete
		}
	}
`

// Log is the log of a site, as that of Caddyfile.example.
const Log = `
	log {
		output journal
		format filter {
			wrap json
			request>uri query {
				replace access_token REDACTED
			}
		}
	}
`

// Load starts Caddy with a Caddyfile, or reloads it. Its logs go to the journal from now on.
func Load(caddyfile string, to *Journal) error {
	journal.Store(to)
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), nil)
	if err != nil {
		return fmt.Errorf("adapting the Caddyfile: %w", err)
	}
	if err := caddy.Load(config, true); err != nil {
		return fmt.Errorf("loading the Caddyfile: %w", err)
	}
	return nil
}

// Restart has Caddy end, with all that it remembers, and begin anew.
func Restart(caddyfile string, to *Journal) error {
	if err := caddy.Stop(); err != nil {
		return fmt.Errorf("stopping Caddy: %w", err)
	}
	return Load(caddyfile, to)
}

// Quit stops Caddy.
func Quit() error {
	err := caddy.Stop()
	stopBehind()
	return err
}

// Stop stops Caddy, and waits for what it does by and by.
func Stop() error {
	err := Quit()
	time.Sleep(10 * time.Minute)
	return err
}
