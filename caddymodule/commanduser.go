package caddymodule

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

func init() {
	registerCommand("presence-user", "<user ID> [--reset] [--forget] [--cache <name>] [--json] [--address <interface>] [--config <path> [--adapter <name>]]",
		"Shows what matrix_presence knows of a user", `
Shows what is left of a user's budgets, what their devices asked for, what is
kept of their presence, who may see it, and which of their writes wait.

With --reset the user gets full budgets. With --forget all else that is known of
the user is dropped, and asked for anew when it is needed: their presence, who may
see whom, whose their tokens are, what their devices asked for. Writes that wait
stay. What is shown then is what is left.`,
		`  caddy-presence presence-user @alice:example.com

  # Somebody has used up their budget, and should not have to wait:
  caddy-presence presence-user @alice:example.com --reset`,
		func(cmd *cobra.Command) {
			cmd.Flags().Bool("reset", false, "Give the user full budgets")
			cmd.Flags().Bool("forget", false, "Drop what is known of the user, but for their budgets")
			cmd.Flags().String("cache", "", "Name of the cache, as in the metrics' labels (default all)")
		}, runUser)
	registerCommand("presence-purge", "<user ID> | --all [--cache <name>] [--json] [--address <interface>] [--config <path> [--adapter <name>]]",
		"Drops what matrix_presence has cached", `
Drops what is cached of a user, or with --all of everybody: presences, and who may
see whom. It is asked for anew when it is needed. Budgets, tokens and writes that
wait stay.`,
		`  caddy-presence presence-purge @alice:example.com
  caddy-presence presence-purge --all --cache matrix.example.com`,
		func(cmd *cobra.Command) {
			cmd.Flags().Bool("all", false, "Drop what is cached of everybody")
			cmd.Flags().String("cache", "", "Name of the cache, as in the metrics' labels (default all)")
		}, runPurge)
}

func runUser(flags caddycmd.Flags, out io.Writer) error {
	if flags.NArg() != 1 {
		return errors.New("expected one user ID, such as @alice:example.com")
	}
	client, err := newAdminClient(flags)
	if err != nil {
		return err
	}
	q := adminQuestion{UserID: flags.Arg(0), Cache: flags.String("cache")}
	for _, action := range []string{"reset", "forget"} {
		if flags.Bool(action) {
			if err := client.ask(action, q, new(adminDone)); err != nil {
				return err
			}
		}
	}
	var users []cacheUser
	if err := client.ask("users", q, &users); err != nil {
		return err
	}
	if flags.Bool("json") {
		return json.NewEncoder(out).Encode(users)
	}
	if len(users) == 0 {
		return client.noSite()
	}
	for _, u := range users {
		if _, err := io.WriteString(out, u.text()); err != nil {
			return err
		}
	}
	return nil
}

func runPurge(flags caddycmd.Flags, out io.Writer) error {
	all := flags.Bool("all")
	if all == (flags.NArg() > 0) || flags.NArg() > 1 {
		return errors.New("expected either one user ID, such as @alice:example.com, or --all")
	}
	client, err := newAdminClient(flags)
	if err != nil {
		return err
	}
	var done adminDone
	if err := client.ask("purge", adminQuestion{UserID: flags.Arg(0), All: all, Cache: flags.String("cache")}, &done); err != nil {
		return err
	}
	if flags.Bool("json") {
		return json.NewEncoder(out).Encode(done)
	}
	if len(done.Caches) == 0 {
		return client.noSite()
	}
	_, err = fmt.Fprintf(out, "purged: %s\n", strings.Join(done.Caches, ", "))
	return err
}

// text is what presence-user says of a user.
func (u cacheUser) text() string {
	var b strings.Builder
	line := func(label, format string, args ...any) {
		fmt.Fprintf(&b, "  %-12s %s\n", label, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(&b, "%s in %s\n", u.UserID, u.Cache)
	line("presence", "%s", presenceText(u.Presence))
	line("permissions", "sees %d users, is forbidden to see %d, is seen by %d; listed in %d rooms",
		u.Permissions.Sees, u.Permissions.Forbidden, u.Permissions.SeenBy, u.Permissions.Rooms)
	for _, budget := range u.Budgets {
		text := fmt.Sprintf("%d of %d left, one more each %s", budget.Left, budget.Burst, ago(budget.Refill))
		if budget.Wait > 0 {
			text += ", the next in " + ago(budget.Wait)
		}
		line(budget.Limit+" limit", "%s", text)
	}
	if len(u.Budgets) == 0 {
		line("limits", "none")
	}
	line("tokens", "%d known", u.Tokens)
	for _, device := range u.Devices {
		line("device", "asked for %s %s ago", cmp.Or(device.Presence, "no presence"), ago(device.Ago))
	}
	line("writes", "%d wait", u.WaitingWrites)
	return b.String()
}

// presenceText says what is kept of a presence.
func presenceText(p gateway.InspectedPresence) string {
	var state struct {
		Presence string `json:"presence"`
		Message  string `json:"status_msg"`
	}
	text := "not kept"
	if err := json.Unmarshal(p.State, &state); err == nil && state.Presence != "" {
		text = state.Presence
		if state.Message != "" {
			text += fmt.Sprintf(" %q", state.Message)
		}
		text += fmt.Sprintf(", kept for %s", ago(p.Age))
		if p.Fresh > 0 {
			text += ", fresh for " + ago(p.Fresh)
		} else {
			text += ", no longer fresh"
		}
	}
	if !p.Settled {
		text += "; a write is under way, waits or settles"
	}
	return text
}

// ago writes a time in seconds.
func ago(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d >= time.Second:
		return d.Round(100 * time.Millisecond).String()
	default:
		return d.Round(time.Millisecond).String()
	}
}
