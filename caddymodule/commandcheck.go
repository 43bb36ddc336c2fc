package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "presence-check",
		Usage: "[--config <path>] [--adapter caddyfile] [--strict] [--json]",
		Short: "Looks for what is legal but unwise in a Caddyfile",
		Long: `
Prints what in a Caddyfile is legal, and most likely not what you want: file, line, rule,
and why. What Caddy itself refuses is an error, as with "validate".

It exits with 0 unless the file is refused, or with --strict if there is anything
to say.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Example = `  caddy-presence presence-check --config /etc/caddy/Caddyfile --strict`
			cmd.Flags().StringP("config", "c", "Caddyfile", "Configuration file")
			cmd.Flags().StringP("adapter", "a", "caddyfile", "Name of config adapter: there is only this one")
			cmd.Flags().Bool("strict", false, "Exit with 1 if there is anything to say")
			cmd.Flags().Bool("json", false, "Print JSON")
			cmd.RunE = runE(func(flags caddycmd.Flags) error { return runCheck(flags, cmd.OutOrStdout()) })
		},
	})
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
