package caddymodule

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"text/template"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "presence-proxy",
		Usage: `--to <addr> [--from <addr>] [--write-limit <rate>] [--read-limit <rate>] [--exempt <pattern>] [--no-cache] [--ttl <duration>] [--stale-if-error <duration>] [--change-host-header] [--insecure] [--internal-certs] [--trusted-proxies <ranges>] [--status-address <addr>] [--access-log] [--debug] [--print-caddyfile]`,
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

With --status-address 127.0.0.1:2020 there is a page at http://127.0.0.1:2020/ that
shows what it does, to loopback and private addresses.

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
			cmd.Flags().String("status-address", "", "Address of a page that shows what it does, such as 127.0.0.1:2020 (default none)")
			cmd.Flags().Bool("access-log", false, "Log requests, without access tokens")
			cmd.Flags().BoolP("debug", "v", false, "Log in detail")
			cmd.Flags().Bool("print-caddyfile", false, "Print the equivalent Caddyfile and exit")
			cmd.RunE = caddycmd.WrapCommandFuncForCobra(runPresenceProxy)
		},
	})
}

func runPresenceProxy(flags caddycmd.Flags) (int, error) {
	if err := refuseArgs(flags); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
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

// proxyFile is the configuration that the flags of presence-proxy stand for.
var proxyFile = template.Must(template.New("").Parse(`{
{{- if not .Print}}{{/* Nobody reloads what has no file. */}}
	admin off
	persist_config off
{{- end}}
{{- if .Debug}}
	debug
{{- end}}
{{- /* Errors are logged with the request's URI, too. */}}
	log {
		{{template "without tokens"}}
	}
{{- with .Trusted}}
	servers {
		trusted_proxies static{{range .}} {{.}}{{end}}
		{{- /* Proxies append to X-Forwarded-For: all before the last that is not trusted is the client's word. */}}
		trusted_proxies_strict
	}
{{- end}}
}

{{.Site}} {
{{- with .Bind}}
	bind {{.}}
{{- end}}
{{- if .InternalCerts}}
	tls internal
{{- end}}
{{- if .AccessLog}}
	log {
		{{template "without tokens"}}
	}
{{- end}}
	matrix_presence {
	{{- range .Limits}}
		{{.}}
	{{- end}}
	{{- with .Exempt}}
		exempt{{range .}} {{.}}{{end}}
	{{- end}}
	{{- if .NoCache}}
		cache off
	{{- else if .Durations}}
		cache {
		{{- range .Durations}}
			{{.}}
		{{- end}}
		}
	{{- end}}
	}
	reverse_proxy{{range .To}} {{.}}{{end}} {
	{{- if .ChangeHost}}
		header_up Host {upstream_hostport}
	{{- end}}
		transport http {
		{{- if .Insecure}}
			tls_insecure_skip_verify
		{{- end}}
		{{- /* Caddy's 32 make it dial anew under load, at a fifth more CPU a request. */}}
			keepalive_idle_conns_per_host 256
		}
	}
}
{{- with .Status}}

{{.}} {
	{{- with $.StatusBind}}
	bind {{.}}
	{{- end}}
	presence_status
}
{{- end}}
{{- /* What leaves out the access tokens which old clients send in the query. */}}
{{- define "without tokens"}}format filter {
			request>uri query {
				replace access_token REDACTED
			}
		}{{end}}
`))

// proxyOptions are the flags of presence-proxy, as tokens and lines of a Caddyfile.
type proxyOptions struct {
	Site, Bind          string
	Status, StatusBind  string // of the page, if there is one
	To, Exempt, Trusted []string
	Limits, Durations   []string // lines

	NoCache, ChangeHost, Insecure, InternalCerts, AccessLog, Debug, Print bool
}

// proxyCaddyfile writes the configuration. Values are checked before they go in, so that a
// mistake is reported by its flag.
func proxyCaddyfile(flags caddycmd.Flags) ([]byte, error) {
	o := proxyOptions{
		NoCache: flags.Bool("no-cache"), ChangeHost: flags.Bool("change-host-header"), Insecure: flags.Bool("insecure"),
		InternalCerts: flags.Bool("internal-certs"), AccessLog: flags.Bool("access-log"),
		Debug: flags.Bool("debug"), Print: flags.Bool("print-caddyfile"),
	}
	if err := o.readLists(flags); err != nil {
		return nil, err
	}
	if err := o.readLines(flags); err != nil {
		return nil, err
	}
	if o.NoCache && len(o.Durations) > 0 {
		return nil, errors.New("--no-cache leaves nothing for --ttl and --stale-if-error to apply to")
	}
	site, bind := siteAddress(flags.String("from"))
	o.Site, o.Bind = quote(site), bind
	if address := flags.String("status-address"); address != "" {
		if o.Status, o.StatusBind = statusAddress(address); o.Status == o.Site || overlap(flags.String("from"), address) {
			return nil, errors.New("--status-address: it is the address of --from")
		}
	}
	var file bytes.Buffer
	if err := proxyFile.Execute(&file, o); err != nil {
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	return caddyfile.Format(file.Bytes()), nil
}

// readLists reads the flags that may be repeated.
func (o *proxyOptions) readLists(flags caddycmd.Flags) error {
	for _, list := range []struct {
		flag  string
		into  *[]string
		check func(string) error
	}{
		{"to", &o.To, func(string) error { return nil }},
		{"exempt", &o.Exempt, func(pattern string) error {
			_, err := matrix.ParseUserPattern(pattern)
			return err
		}},
		{"trusted-proxies", &o.Trusted, checkRanges},
	} {
		values, err := flags.GetStringSlice(list.flag)
		if err != nil {
			return err
		}
		for _, value := range values {
			if err := list.check(value); err != nil {
				return fmt.Errorf("--%s: %w", list.flag, err)
			}
			*list.into = append(*list.into, quote(value))
		}
	}
	if len(o.To) == 0 {
		return errors.New("--to is required: the homeserver's address, such as http://localhost:8008")
	}
	return nil
}

func checkRanges(ranges string) error {
	_, notAddress := netip.ParseAddr(ranges)
	_, notRange := netip.ParsePrefix(ranges)
	if notAddress != nil && notRange != nil && ranges != "private_ranges" {
		return fmt.Errorf("%q is no address, no CIDR range such as 10.0.0.0/8, and not private_ranges", ranges)
	}
	return nil
}

// readLines reads the flags that are options of the same names.
func (o *proxyOptions) readLines(flags caddycmd.Flags) error {
	option := func(flag string) string { return strings.ReplaceAll(flag, "-", "_") }
	for _, name := range [...]string{"write-limit", "read-limit"} {
		if value := flags.String(name); value != "" {
			args := strings.Fields(value)
			if _, err := limitFromArgs(args); err != nil {
				return fmt.Errorf("--%s: %w", name, err)
			}
			o.Limits = append(o.Limits, option(name)+" "+strings.Join(args, " "))
		}
	}
	for _, name := range [...]string{"ttl", "stale-if-error"} {
		if value := flags.String(name); value != "" {
			if duration, err := caddy.ParseDuration(value); err != nil || duration <= 0 {
				return fmt.Errorf("--%s: expected a duration above 0, such as 30s, not %q", name, value)
			}
			o.Durations = append(o.Durations, option(name)+" "+value)
		}
	}
	return nil
}

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

// statusAddress is siteAddress for the page. On loopback it answers to the names of that only: a
// web page that has its own name point there learns nothing.
func statusAddress(address string) (site, bind string) {
	parsed, err := netip.ParseAddrPort(address)
	if err == nil && parsed.Addr().IsLoopback() {
		return fmt.Sprintf("http://%s, http://localhost:%d", parsed, parsed.Port()), parsed.Addr().String()
	}
	site, bind = siteAddress(address)
	return quote(site), bind
}

// overlap reports whether two addresses have the same port on an interface of both: what is asked of the one would be
// answered by the other.
func overlap(a, b string) bool {
	interfaceOf := func(address string) (host, port string) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return address, "" // the name of a site
		}
		if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
			host = ""
		} else if host == "localhost" {
			host = "127.0.0.1"
		}
		return host, port
	}
	hostA, portA := interfaceOf(a)
	hostB, portB := interfaceOf(b)
	return portA != "" && portA == portB && (hostA == "" || hostB == "" || hostA == hostB)
}

// quote makes s one token of a Caddyfile.
func quote(s string) string {
	if s != "" && !strings.ContainsAny(s, " \t\n\r\"`{}#") {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
