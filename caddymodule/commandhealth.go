package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/status"
)

func init() {
	registerCommand("presence-health", "[--json] [--address <interface>] [--config <path> [--adapter <name>]]",
		"Tells whether matrix_presence runs, for probes", `
Exits with 0 if the running Caddy has at least one site with matrix_presence, and
with 1 if it has none, doesn't have the module, or doesn't answer.

A homeserver that is down doesn't make it unhealthy: to restart this process
would lose what is remembered, and help nobody. Ask for
/_matrix/client/versions through it to know about both.`,
		`  # As a probe of a container:
  HEALTHCHECK CMD ["/usr/bin/caddy-presence", "presence-health"]`, nil, runHealth)
}

// registerCommand registers a command that asks the admin endpoint.
func registerCommand(name, usage, short, long, example string, flags func(cmd *cobra.Command), run func(caddycmd.Flags, io.Writer) error) {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name: name, Usage: usage, Short: short, Long: long,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Example = example
			addAdminFlags(cmd)
			if flags != nil {
				flags(cmd)
			}
			cmd.RunE = runE(func(flags caddycmd.Flags) error { return run(flags, cmd.OutOrStdout()) })
		},
	})
}

// runE returns what cobra runs. It makes the exit code from the error: without one it would be 0.
func runE(run func(caddycmd.Flags) error) func(*cobra.Command, []string) error {
	return caddycmd.WrapCommandFuncForCobra(func(flags caddycmd.Flags) (int, error) {
		if err := run(flags); err != nil {
			return caddy.ExitCodeFailedStartup, err
		}
		return caddy.ExitCodeSuccess, nil
	})
}

// refuseArgs refuses what follows a command's flags. Caddy's own commands overlook it, but one that answers
// about something else than the file that was named misleads.
func refuseArgs(flags caddycmd.Flags) error {
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: only flags are expected", flags.Arg(0))
	}
	return nil
}

// health is what presence-health says.
type health struct {
	Healthy bool     `json:"healthy"`
	Problem string   `json:"problem,omitempty"`
	Caches  []string `json:"caches"`
}

func runHealth(flags caddycmd.Flags, out io.Writer) error {
	is := health{Caches: []string{}}
	err := is.find(flags)
	if err != nil {
		is.Problem = err.Error()
	}
	is.Healthy = err == nil
	if flags.Bool("json") {
		return errors.Join(err, json.NewEncoder(out).Encode(is))
	}
	if err == nil {
		_, err = fmt.Fprintf(out, "healthy: %s\n", strings.Join(is.Caches, ", "))
	}
	return err
}

// find asks the admin endpoint.
func (is *health) find(flags caddycmd.Flags) error {
	if err := refuseArgs(flags); err != nil {
		return err
	}
	client, err := newAdminClient(flags)
	if err != nil {
		return err
	}
	var d status.Document
	if err := client.ask("status", nil, &d); err != nil {
		return err
	}
	for _, c := range d.Caches {
		is.Caches = append(is.Caches, c.Name)
	}
	if len(is.Caches) == 0 {
		return client.noSite()
	}
	return nil
}
