package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/status"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "presence-check",
		Usage: "[--config <path>] [--adapter caddyfile] [--address <interface>] [--strict] [--json]",
		Short: "Looks for what is legal but unwise in a Caddyfile",
		Long: `
Prints what in a Caddyfile is legal, and most likely not what you want: file, line, rule,
and why. What Caddy itself refuses is an error, as with "validate".

It needs no running Caddy. With --address it asks one which homeserver it has, and says
nothing about Synapse if that is another.

It exits with 0 unless the file is refused, or with --strict if there is anything
to say.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Example = `  caddy-presence presence-check --config /etc/caddy/Caddyfile --strict`
			cmd.Flags().StringP("config", "c", "Caddyfile", "Configuration file")
			cmd.Flags().StringP("adapter", "a", "caddyfile", "Name of config adapter: there is only this one")
			cmd.Flags().String("address", "", "Address of the administration listener of a running Caddy, to ask which homeserver it has (default: ask none)")
			cmd.Flags().Bool("strict", false, "Exit with 1 if there is anything to say")
			cmd.Flags().Bool("json", false, "Print JSON")
			cmd.RunE = runE(func(flags caddycmd.Flags) error { return runCheck(flags, cmd.OutOrStdout()) })
		},
	})
}

// askHomeservers returns which homeservers a running Caddy has, as far as it knows.
func askHomeservers(client *adminClient) (homeservers []string, err error) {
	var d status.Document
	if err := client.ask("status", nil, &d); err != nil {
		return nil, err
	}
	for _, cache := range d.Caches {
		homeservers = append(homeservers, cache.Homeserver)
	}
	return homeservers, nil
}

func runCheck(flags caddycmd.Flags, out io.Writer) error {
	if err := refuseArgs(flags); err != nil {
		return err
	}
	if adapter := flags.String("adapter"); adapter != "caddyfile" {
		return fmt.Errorf("--adapter: presence-check reads Caddyfiles only, not %q", adapter)
	}
	name := flags.String("config")
	text, err := os.ReadFile(name) //nolint:gosec // G304: whatever the admin names
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	file, err := readCheckedFile(name, text)
	if err != nil {
		return err
	}
	if address := flags.String("address"); address != "" {
		if file.homeservers, err = askHomeservers(&adminClient{address, adminTimeout}); err != nil {
			return err
		}
	}
	found := append([]finding{}, file.check()...)
	if flags.Bool("json") {
		err = json.NewEncoder(out).Encode(found)
	} else {
		for _, f := range found {
			_, printed := fmt.Fprintf(out, "%s:%d: %s: %s\n", f.File, f.Line, f.Rule, f.Why)
			err = errors.Join(err, printed)
		}
	}
	if err == nil && flags.Bool("strict") && len(found) > 0 {
		return fmt.Errorf("%d things to look at", len(found))
	}
	return err
}
