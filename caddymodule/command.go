package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "presence-proxy",
		Usage: `--to <addr> [--from <addr>] [--write-limit <rate>] [--read-limit <rate>] [--exempt <pattern>] [--no-cache] [--ttl <duration>] [--stale-if-error <duration>] [--change-host-header] [--insecure] [--internal-certs] [--trusted-proxies <ranges>] [--access-log] [--debug] [--print-caddyfile]`,
		Short: "Limits and caches presence in front of a Matrix homeserver",
		Long: `
Stands in front of a Matrix homeserver at --to and serves it at --from. Presence
requests are limited by Matrix user, writes to other users' presence are
refused, and presence reads are answered from memory where that is safe. All
other requests pass through untouched.

A --from that is only a port, or an IP address and a port, is served as plain
HTTP, the latter on that address only. A domain name is served as HTTPS with a
certificate that is obtained automatically.

A rate is <events>/<window>, for each user, with an optional burst: "6/1m",
"6/1m burst 3". "off" lifts a limit. In an --exempt pattern, "*" stands for any
run of characters; the homeserver must reserve such names, or anybody can register
one. Both --to and --exempt may be repeated.

For any other option, a Caddyfile is the place: --print-caddyfile prints the
one that does the same as the given flags, and exits.`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Example = `  # In front of a homeserver on this machine, on all interfaces:
  caddy-presence presence-proxy --from :8009 --to http://localhost:8008

  # On loopback only, behind nginx, with tighter limits:
  caddy-presence presence-proxy --from 127.0.0.1:8009 --to http://localhost:8008 \
      --trusted-proxies 127.0.0.1/32 --write-limit "6/1m burst 3" \
      --read-limit 50/1s --exempt "@bridge_*:example.com"

  # As a public site with its own certificate:
  caddy-presence presence-proxy --from matrix.example.com --to http://localhost:8008

  # As a file to go on from:
  caddy-presence presence-proxy --from matrix.example.com --to http://localhost:8008 \
      --print-caddyfile >Caddyfile`
			cmd.Flags().StringP("from", "f", ":8009", "Address on which to serve clients")
			cmd.Flags().StringSliceP("to", "t", nil, "Address of the homeserver (required)")
			cmd.Flags().String("write-limit", "", "Presence writes of a user (default 6/1m burst 5)")
			cmd.Flags().String("read-limit", "", "Presence reads of a user (default 100/1s burst 5000)")
			cmd.Flags().StringSlice("exempt", nil, "User ID pattern of users who are not limited")
			cmd.Flags().Bool("no-cache", false, "Answer no reads from memory")
			cmd.Flags().String("ttl", "", "How long a read is answered from memory (default 30s)")
			cmd.Flags().String("stale-if-error", "", "Up to which age when the homeserver is down (default never)")
			cmd.Flags().BoolP("change-host-header", "c", false, "Send the homeserver's address as Host, not the client's")
			cmd.Flags().Bool("insecure", false, "Don't verify the homeserver's TLS certificate (dangerous)")
			cmd.Flags().BoolP("internal-certs", "i", false, "Use a certificate of Caddy's internal CA")
			cmd.Flags().StringSlice("trusted-proxies", nil, "Proxies before this one whose X-Forwarded-For is believed, as CIDR ranges or private_ranges")
			cmd.Flags().Bool("access-log", false, "Log requests, without access tokens")
			cmd.Flags().BoolP("debug", "v", false, "Log in detail")
			cmd.Flags().Bool("print-caddyfile", false, "Print the equivalent Caddyfile and exit")
			cmd.RunE = caddycmd.WrapCommandFuncForCobra(runPresenceProxy)
		},
	})
}

func runPresenceProxy(flags caddycmd.Flags) (int, error) {
	config, err := proxyCaddyfile(flags)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if flags.Bool("print-caddyfile") {
		_, err := os.Stdout.Write(config)
		return caddy.ExitCodeSuccess, err
	}

	caddy.TrapSignals()
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(config, map[string]any{"filename": "flags"})
	if err != nil {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("configuring from the flags: %w", err)
	}
	var parsed caddy.Config
	if err := json.Unmarshal(adapted, &parsed); err != nil {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("configuring from the flags: %w", err)
	}
	if err := caddy.Run(&parsed); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	to, _ := flags.GetStringSlice("to")
	caddy.Log().Info("serving with presence limited and cached", zap.String("from", flags.String("from")), zap.Strings("to", to))
	select {}
}

// proxyCaddyfile writes the configuration that the flags of presence-proxy stand
// for. Values are checked before they go in, so that a mistake is reported
// by its flag.
func proxyCaddyfile(flags caddycmd.Flags) ([]byte, error) {
	to, err := flags.GetStringSlice("to")
	if err != nil {
		return nil, err
	}
	if len(to) == 0 {
		return nil, errors.New("--to is required: the homeserver's address, such as http://localhost:8008")
	}
	exempt, err := flags.GetStringSlice("exempt")
	if err != nil {
		return nil, err
	}
	for _, pattern := range exempt {
		if _, err := matrix.ParseUserPattern(pattern); err != nil {
			return nil, fmt.Errorf("--exempt: %w", err)
		}
	}
	trusted, err := flags.GetStringSlice("trusted-proxies")
	if err != nil {
		return nil, err
	}
	for _, ranges := range trusted {
		_, notAddress := netip.ParseAddr(ranges)
		_, notRange := netip.ParsePrefix(ranges)
		if notAddress != nil && notRange != nil && ranges != "private_ranges" {
			return nil, fmt.Errorf("--trusted-proxies: %q is no address, no CIDR range such as 10.0.0.0/8, and not private_ranges", ranges)
		}
	}

	var file strings.Builder
	line := func(tokens ...string) {
		for i, token := range tokens {
			if i > 0 {
				file.WriteByte(' ')
			}
			file.WriteString(token)
		}
		file.WriteByte('\n')
	}

	line("{")
	if !flags.Bool("print-caddyfile") {
		// Nobody reloads what has no file.
		line("admin off")
		line("persist_config off")
	}
	if flags.Bool("debug") {
		line("debug")
	}
	// Also errors are logged with the request's URI.
	line("log {")
	line(withoutTokens)
	line("}")
	if len(trusted) > 0 {
		line("servers {")
		line(append([]string{"trusted_proxies", "static"}, quoteAll(trusted)...)...)
		// Proxies append to X-Forwarded-For: all before the last that is not
		// trusted is the client's word.
		line("trusted_proxies_strict")
		line("}")
	}
	line("}")
	line()

	site, bind := siteAddress(flags.String("from"))
	line(quote(site), "{")
	if bind != "" {
		line("bind", bind)
	}
	if flags.Bool("internal-certs") {
		line("tls internal")
	}
	if flags.Bool("access-log") {
		line("log {")
		line(withoutTokens)
		line("}")
	}

	line("matrix_presence {")
	for _, name := range [...]string{"write-limit", "read-limit"} {
		if value := flags.String(name); value != "" {
			args := strings.Fields(value)
			if _, err := limitFromArgs(args); err != nil {
				return nil, fmt.Errorf("--%s: %w", name, err)
			}
			line(append([]string{strings.ReplaceAll(name, "-", "_")}, args...)...)
		}
	}
	if len(exempt) > 0 {
		line(append([]string{"exempt"}, quoteAll(exempt)...)...)
	}
	durations := make([]string, 0, 2)
	for _, name := range [...]string{"ttl", "stale-if-error"} {
		if value := flags.String(name); value != "" {
			if duration, err := caddy.ParseDuration(value); err != nil || duration <= 0 {
				return nil, fmt.Errorf("--%s: expected a duration above 0, such as 30s, not %q", name, value)
			}
			durations = append(durations, strings.ReplaceAll(name, "-", "_")+" "+value)
		}
	}
	switch {
	case flags.Bool("no-cache") && len(durations) > 0:
		return nil, errors.New("--no-cache leaves nothing for --ttl and --stale-if-error to apply to")
	case flags.Bool("no-cache"):
		line("cache off")
	case len(durations) > 0:
		line("cache {")
		for _, duration := range durations {
			line(duration)
		}
		line("}")
	}
	line("}")

	line(append(append([]string{"reverse_proxy"}, quoteAll(to)...), "{")...)
	if flags.Bool("change-host-header") {
		line("header_up Host {upstream_hostport}")
	}
	line("transport http {")
	if flags.Bool("insecure") {
		line("tls_insecure_skip_verify")
	}
	// Caddy's 32 make it dial anew under load, at a fifth more CPU a request.
	line("keepalive_idle_conns_per_host 256")
	line("}")
	line("}")
	line("}")
	return caddyfile.Format([]byte(file.String())), nil
}

// withoutTokens is a log format that leaves out the access tokens which old clients
// send in the query.
const withoutTokens = `format filter {
request>uri query {
replace access_token REDACTED
}
}`

// siteAddress turns a --from into a Caddyfile's site address and, for an IP
// address, what to bind to.
func siteAddress(from string) (site, bind string) {
	if strings.HasPrefix(from, ":") {
		return "http://" + from, ""
	}
	if address, err := netip.ParseAddrPort(from); err == nil {
		return fmt.Sprintf("http://:%d", address.Port()), address.Addr().String()
	}
	return from, ""
}

// quote makes s one token of a Caddyfile.
func quote(s string) string {
	if s != "" && !strings.ContainsAny(s, " \t\n\r\"`{}#") {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func quoteAll(values []string) []string {
	quoted := make([]string, len(values))
	for i, value := range values {
		quoted[i] = quote(value)
	}
	return quoted
}
