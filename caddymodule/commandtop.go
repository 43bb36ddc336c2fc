package caddymodule

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/status"
)

func init() {
	registerCommand("presence-top", "[--once] [--users] [--json] [--address <interface>] [--config <path> [--adapter <name>]]",
		"Shows what matrix_presence does", `
Shows the counters of the running Caddy each two seconds: how many a second now,
on average, and in all. Each line names its metric.

With --once it shows them once: then nothing is known of now. With --json it
prints the document of the admin endpoint /matrix_presence/status, one in a line.`,
		`  # Once, for a script: how many requests the homeserver was spared
  caddy-presence presence-top --once --json | jq '.caches[].metrics.saved_total'`,
		func(cmd *cobra.Command) {
			cmd.Flags().Bool("once", false, "Show it once")
			cmd.Flags().Bool("users", false, "Show the users who were over a limit most often")
		}, runTop)
}

func runTop(flags caddycmd.Flags, out io.Writer) error {
	if err := refuseArgs(flags); err != nil {
		return err
	}
	client, err := newAdminClient(flags)
	if err != nil {
		return err
	}
	t := &top{client: client, out: out, problems: os.Stderr, asJSON: flags.Bool("json"), users: flags.Bool("users")}
	text, err := t.look()
	if err != nil {
		return err
	}
	if err := t.show(text); err != nil || flags.Bool("once") {
		return err
	}
	for {
		time.Sleep(status.Step)
		if err := t.again(); err != nil {
			return err
		}
	}
}

// top is a view that is made anew.
type top struct {
	client        *adminClient
	out, problems io.Writer
	asJSON, users bool
	history       status.History
}

// again shows the status once more. If Caddy doesn't answer, it may be restarting: that is said where a program that reads
// the output doesn't take it for that, and what was shown stays.
func (t *top) again() error {
	text, problem := t.look()
	if problem != nil {
		_, err := fmt.Fprintf(t.problems, "\n%v\n", problem)
		return err
	}
	return t.show(text)
}

func (t *top) show(text string) error {
	_, err := io.WriteString(t.out, text)
	return err
}

// look asks for the status, and returns what there is to show.
func (t *top) look() (text string, err error) {
	var d status.Document
	if err := t.client.ask("status", nil, &d); err != nil {
		return "", err
	}
	if t.asJSON {
		line, err := json.Marshal(&d)
		return string(line) + "\n", err
	}
	limited := make(map[string][]status.Limited)
	if t.users {
		var lists []limitedUsers
		if err := t.client.ask("limited_users", nil, &lists); err != nil {
			return "", err
		}
		for _, list := range lists {
			for _, u := range list.Users {
				limited[list.Cache] = append(limited[list.Cache], status.Limited{Limit: list.Limit, UserID: u.UserID, AtLeast: u.AtLeast, AtMost: u.AtMost})
			}
		}
		for cache, users := range limited {
			limited[cache] = mostOf(users)
		}
	}
	t.history.Add(&d)
	text = t.history.View(limited).Text()
	if isTerminal(t.out) {
		text = onScreen(text, screenHeight())
	}
	return text, nil
}

// isTerminal reports whether somebody watches.
func isTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// onScreen writes over what was there before, without a flicker. What doesn't fit is left out. A
// height of 0 isn't known.
func onScreen(text string, height int) string {
	const home, endOfLine, below = "\x1b[H", "\x1b[K", "\x1b[J"
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if height > 2 && len(lines) > height-1 {
		lines = append(lines[:height-2], "… and more: make the window higher, or use --once")
	}
	return home + strings.Join(lines, endOfLine+"\n") + endOfLine + "\n" + below
}

// screenHeight is how many lines the terminal has, or 0.
func screenHeight() (height int) {
	cmd := exec.Command("stty", "size")
	cmd.Stdin = os.Stdin
	size, err := cmd.Output()
	if err != nil {
		return 0
	}
	_, _ = fmt.Sscan(string(size), &height) // what is no number is 0
	return height
}
