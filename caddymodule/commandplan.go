package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
	forecast "github.com/caddy-matrix/caddy-matrix-presence/internal/plan"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name: "presence-plan",
		Usage: "[--users <n>] [--online <share>] [--devices <n>] [--session <duration>] [--rooms <n>x<size>,...] [--opens <n>] [--looks <n>] [--poll <duration>] [--shown <duration>] " +
			"[--lists <share>] [--browsers <share>] [--writes <n>] [--changes <share>] [--sync-every <duration>] [--idles <n>] [--bridge <ghosts>/<every>/<change>] [--load <path>] [--from <source> [--over <duration>]] " +
			"[--profile default|busy] [--config <path> [--adapter <name>]] [--ttl <duration>] [--states <n>] [--permissions <n>] [--tokens <n>] " +
			"[--homeserver synapse|dendrite] [--nodes <n>] [--cores <n>] [--cost <name>=<n>] [--json]",
		Short: "Tells what matrix_presence would save a homeserver, and cost",
		Long: `
Plays the load of a server through the module's own tables and decisions, in virtual time,
and prints how many requests and how much CPU time the homeserver would be spared, and what
the module would need: as ranges, with what they assume.

Say what you know of the server's busiest hour; what you don't say is assumed, and printed.
Rates are those of one device. --load is a file in JSON with the same, and flags come before
it. No server is asked but by --from, and nothing is changed.

With --from the load is a running server's: the metrics page of a Caddy with matrix_presence,
also in mode observe, or an access log, Caddy's in JSON or nginx's format combined. It is a file,
an address of a metrics page, or - for the standard input.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Example = `  # A server of 20,000 users, with the profile for busy servers:
  caddy-presence presence-plan --users 20000 --profile busy

  # With the configuration that you have, and a bridge that writes for 500 users:
  caddy-presence presence-plan --users 20000 --config /etc/caddy/Caddyfile --bridge 500/400ms/1m

  # What has passed a Caddy, or an nginx, with the profile for busy servers:
  caddy-presence presence-plan --from /var/log/caddy/access.log --profile busy

  # What passes a Caddy with the module in mode observe:
  caddy-presence presence-plan --from http://localhost:2019/metrics --users 20000`
			addPlanFlags(cmd)
			cmd.RunE = runE(func(flags caddycmd.Flags) error { return runPlan(cmd, flags) })
		},
	})
}

func addPlanFlags(cmd *cobra.Command) {
	l, f := forecast.DefaultLoad(), cmd.Flags()
	f.Int("users", 0, "Accounts of the server, up to ten million")
	f.Float64("online", l.Online, "Share of them that is online at a time, from 0 to 1")
	f.Float64("devices", l.Devices, "Devices of somebody who is online, from 1 to 8")
	f.Duration("session", time.Duration(l.Session), "For how long somebody stays online")
	f.String("rooms", "10x5,4x50,1x200", "In how many rooms of which size a user is: 4x50 is four rooms of 50 members")
	f.Float64("opens", l.Opens, "Rooms that a device opens in an hour")
	f.Int("looks", l.Looks, "Members whose presence a client asks for when it opens a room, at most")
	f.Duration("poll", time.Duration(l.Poll), "After which time it asks again; 0 is never")
	f.Duration("shown", time.Duration(l.Shown), "For how long the room is shown, and asked for again")
	f.Float64("lists", l.Lists, "Share of openings that get the list of members first, from 0 to 1")
	f.Float64("browsers", l.Browsers, "Share of devices that send a preflight before each read, from 0 to 1")
	f.Float64("writes", l.Writes, "Presence writes of a device in an hour")
	f.Float64("changes", l.Changes, "Share of writes that change something, from 0 to 1")
	f.Duration("sync-every", time.Duration(l.SyncEvery), "Time from one sync of a device to the next")
	f.Float64("idles", l.Idles, "How often in an hour a device goes idle, or comes back, and says so by a sync")
	f.StringArray("bridge", nil, "A bridge: how many users, the time between writes of each, and between changes, such as 500/400ms/1m")
	f.String("load", "", "File in JSON that describes the load")
	f.String("from", "", "Metrics page of a Caddy with matrix_presence, or access log: a file, an http address, or -")
	f.Duration("over", 0, "Time in which the counters of a metrics page were counted (default since its process began)")
	f.String("profile", "default", "Configuration: default, or busy for the profile for busy servers")
	f.StringP("config", "c", "", "Configuration file to take the options from, instead of a profile")
	f.StringP("adapter", "a", "caddyfile", "Name of config adapter to apply; json for none")
	f.Duration("ttl", 0, "How long a read is answered from memory (default as configured)")
	f.Int("states", 0, "Size of the table of presences (default as configured)")
	f.Int("permissions", 0, "Size of the table of permissions (default as configured)")
	f.Int("tokens", 0, "Size of the table of tokens (default as configured)")
	f.String("homeserver", "synapse", "Homeserver: synapse or dendrite")
	f.Int("nodes", 1, "Nodes of a cluster")
	f.Int("cores", 2, "Processors of a node")
	f.StringArray("cost", nil, "A cost that you have measured, such as read=0.9 or read=0.8-1.2; docs/plan.md names them")
	f.Bool("json", false, "Print JSON")
}

func runPlan(cmd *cobra.Command, flags caddycmd.Flags) error {
	if err := refuseArgs(flags); err != nil {
		return err
	}
	question, err := planQuestion(cmd, flags)
	if err != nil {
		return err
	}
	progress := &planProgress{out: cmd.ErrOrStderr(), begun: time.Now()}
	question.Progress = progress.tell
	answer, err := answerPlan(cmd, flags, question, progress)
	progress.end()
	if err != nil {
		return err
	}
	if flags.Bool("json") {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(answer)
	}
	return answer.WriteTable(cmd.OutOrStdout())
}

// planQuestion reads the flags.
func planQuestion(cmd *cobra.Command, flags caddycmd.Flags) (*forecast.Question, error) {
	q := &forecast.Question{
		Load: forecast.DefaultLoad(), Homeserver: flags.String("homeserver"), Nodes: flags.Int("nodes"), Cores: flags.Int("cores"),
	}
	if err := readPlanLoad(&q.Load, cmd, flags); err != nil {
		return nil, err
	}
	var err error
	if q.Costs, err = forecast.DefaultCosts(q.Homeserver); err != nil {
		return nil, fmt.Errorf("--homeserver: %w", err)
	}
	costs, _ := cmd.Flags().GetStringArray("cost")
	for _, cost := range costs {
		if err := q.Costs.Set(cost); err != nil {
			return nil, fmt.Errorf("--cost: %w", err)
		}
	}
	q.Settings, q.Profile, err = planSettings(cmd, flags)
	return q, err
}

// readPlanLoad reads the description of the load: a file, and then flags that are given.
func readPlanLoad(l *forecast.Load, cmd *cobra.Command, flags caddycmd.Flags) error {
	if name := flags.String("load"); name != "" {
		file, err := os.Open(name) //nolint:gosec // G304: whatever the admin names
		if err != nil {
			return fmt.Errorf("--load: %w", err)
		}
		defer file.Close() //nolint:errcheck // it was read
		if err := l.ReadLoad(file); err != nil {
			return fmt.Errorf("--load %s: %w", name, err)
		}
	}
	given := cmd.Flags().Changed
	for flag, into := range map[string]*float64{
		"online": &l.Online, "devices": &l.Devices, "opens": &l.Opens, "lists": &l.Lists, "browsers": &l.Browsers,
		"writes": &l.Writes, "changes": &l.Changes, "idles": &l.Idles,
	} {
		if given(flag) {
			*into = flags.Float64(flag)
		}
	}
	for flag, into := range map[string]*int{"users": &l.Users, "looks": &l.Looks} {
		if given(flag) {
			*into = flags.Int(flag)
		}
	}
	for flag, into := range map[string]*forecast.Duration{"session": &l.Session, "poll": &l.Poll, "shown": &l.Shown, "sync-every": &l.SyncEvery} {
		if given(flag) {
			*into = forecast.Duration(flags.Duration(flag))
		}
	}
	if !given("users") && l.Users == 0 && flags.String("from") == "" {
		return errors.New("--users is required: how many accounts the server has; or a --load that says so, or --from a running one")
	}
	return readPlanLists(l, cmd, flags)
}

// readPlanLists reads the flags for rooms and bridges.
func readPlanLists(l *forecast.Load, cmd *cobra.Command, flags caddycmd.Flags) error {
	if cmd.Flags().Changed("rooms") {
		l.Rooms = nil
		for kind := range strings.SplitSeq(flags.String("rooms"), ",") {
			n, size, _ := strings.Cut(kind, "x")
			perUser, badNumber := strconv.ParseFloat(n, 64)
			members, badSize := strconv.Atoi(size)
			if badNumber != nil || badSize != nil {
				return fmt.Errorf("--rooms: expected how many of which size, such as 10x5,4x50, not %q", kind)
			}
			l.Rooms = append(l.Rooms, forecast.RoomKind{PerUser: perUser, Size: members})
		}
	} else if !cmd.Flags().Changed("load") && l.Users > 0 {
		fitRooms(l)
	}
	bridges, _ := cmd.Flags().GetStringArray("bridge")
	for _, text := range bridges {
		parts := strings.Split(text, "/")
		if len(parts) != 3 {
			return fmt.Errorf("--bridge: expected users/time between writes/time between changes, such as 500/400ms/1m, not %q", text)
		}
		ghosts, badGhosts := strconv.Atoi(parts[0])
		every, badEvery := caddy.ParseDuration(parts[1])
		changes, badChanges := caddy.ParseDuration(parts[2])
		if err := errors.Join(badGhosts, badEvery, badChanges); err != nil {
			return fmt.Errorf("--bridge: expected such as 500/400ms/1m, not %q: %w", text, err)
		}
		l.Bridges = append(l.Bridges, forecast.Bridge{Ghosts: ghosts, Every: forecast.Duration(every), Changes: forecast.Duration(changes)})
	}
	return nil
}

// fitRooms makes rooms that were not described no larger than the server. Who is alone on one opens none.
func fitRooms(l *forecast.Load) {
	for i := range l.Rooms {
		l.Rooms[i].Size = max(2, min(l.Rooms[i].Size, l.Users))
	}
	if l.Users < 2 {
		l.Rooms, l.Opens = nil, 0
	}
}

// planSettings are those of a profile or of a configuration, with what flags change in them.
func planSettings(cmd *cobra.Command, flags caddycmd.Flags) (settings *gateway.Settings, name string, err error) {
	given := cmd.Flags().Changed
	switch config := flags.String("config"); {
	case config != "" && given("profile"):
		return nil, "", errors.New("--profile and --config: both say how the module is configured; give one")
	case config != "":
		name = "configuration"
		settings, err = configuredSettings(config, flags.String("adapter"))
	default:
		name = flags.String("profile")
		settings, err = forecast.Profile(name)
	}
	if err != nil {
		return nil, "", err
	}
	if given("ttl") {
		if settings.Rules.TTL = flags.Duration("ttl"); settings.Rules.TTL <= 0 || settings.Rules.TTL > 24*time.Hour {
			return nil, "", fmt.Errorf("--ttl: must be above 0 and up to 24h, not %v", settings.Rules.TTL)
		}
	}
	for flag, into := range map[string]*int{"states": &settings.Sizes.States, "permissions": &settings.Sizes.Permissions, "tokens": &settings.Sizes.Tokens} {
		if given(flag) {
			if *into = flags.Int(flag); *into < 1 {
				return nil, "", fmt.Errorf("--%s: must be at least 1, not %d", flag, *into)
			}
		}
	}
	return settings, name, nil
}
