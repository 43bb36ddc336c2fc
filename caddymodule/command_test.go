package caddymodule

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

// caddyfileFor runs the command's parsing on args.
func caddyfileFor(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := new(cobra.Command)
	caddycmd.Commands()["presence-proxy"].CobraFunc(cmd)
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	file, err := proxyCaddyfile(caddycmd.Flags{FlagSet: cmd.Flags()})
	return string(file), err
}

func TestProxyFlagsMakeACaddyfile(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want []string
	}{
		"a port":     {[]string{"--to", "http://localhost:8008"}, []string{"http://:8009 {", "reverse_proxy http://localhost:8008 {", "admin off"}},
		"an address": {[]string{"--from", "127.0.0.1:80", "--to", "x:1"}, []string{"http://:80 {", "bind 127.0.0.1"}},
		"IPv6":       {[]string{"--from", "[::1]:80", "--to", "x:1"}, []string{"http://:80 {", "bind ::1"}},
		"a domain":   {[]string{"--from", "matrix.example.com", "--to", "x:1", "--internal-certs"}, []string{"\nmatrix.example.com {", "tls internal"}},
		"limits": {[]string{"--to", "x:1", "--write-limit", "6/1m burst 3", "--read-limit", "off"},
			[]string{"write_limit 6/1m burst 3", "read_limit off"}},
		"exempt": {[]string{"--to", "x:1", "--exempt", "@a:x,@b:x", "--exempt", `@with space*:x`}, []string{`exempt @a:x @b:x "@with space*:x"`}},
		"cache":  {[]string{"--to", "x:1", "--ttl", "1m", "--stale-if-error", "5m"}, []string{"ttl 1m", "stale_if_error 5m"}},
		"off":    {[]string{"--to", "x:1", "--no-cache"}, []string{"cache off"}},
		"upstream": {[]string{"--to", "https://a:1", "--to", "https://b:2", "--insecure", "--change-host-header"},
			[]string{"reverse_proxy https://a:1 https://b:2 {", "tls_insecure_skip_verify", "header_up Host {upstream_hostport}"}},
		"proxies": {[]string{"--to", "x:1", "--trusted-proxies", "10.0.0.0/8,127.0.0.1,private_ranges"}, []string{"trusted_proxies static 10.0.0.0/8 127.0.0.1 private_ranges", "trusted_proxies_strict"}},
		"logs":    {[]string{"--to", "x:1", "--access-log", "--debug"}, []string{"\tdebug", "replace access_token REDACTED"}},
		"a page": {[]string{"--to", "x:1", "--status-address", "127.0.0.1:2020"},
			[]string{"http://127.0.0.1:2020, http://localhost:2020 {", "bind 127.0.0.1", "presence_status"}},
		"a page, IPv6":     {[]string{"--to", "x:1", "--status-address", "[::1]:2020"}, []string{"http://[::1]:2020, http://localhost:2020 {", "bind ::1"}},
		"a page beside it": {[]string{"--to", "x:1", "--from", "10.0.0.1:2020", "--status-address", "127.0.0.1:2020"}, []string{"http://127.0.0.1:2020, http://localhost:2020 {", "bind 127.0.0.1"}},
		"a page elsewhere": {[]string{"--to", "x:1", "--status-address", "10.0.0.1:2020"}, []string{"http://:2020 {", "bind 10.0.0.1", "presence_status"}},
		"a file":           {[]string{"--to", "x:1", "--print-caddyfile"}, []string{"matrix_presence"}},
	} {
		t.Run(name, func(t *testing.T) {
			file, err := caddyfileFor(t, tc.args...)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range tc.want {
				if !strings.Contains(file, want) {
					t.Errorf("no %q in\n%s", want, file)
				}
			}
			_, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(file), map[string]any{"filename": "Caddyfile"})
			if err != nil || len(warnings) > 0 {
				t.Errorf("adapting: %v, warnings %v\n%s", err, warnings, file)
			}
		})
	}
}

func TestProxyFlagsAreRefusedByName(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
	}{
		{nil, "--to is required"},
		{[]string{"--to", "x:1", "--write-limit", "6"}, "--write-limit: "},
		{[]string{"--to", "x:1", "--read-limit", "6/1m burst"}, "--read-limit: "},
		{[]string{"--to", "x:1", "--exempt", "bot"}, "--exempt: "},
		{[]string{"--to", "x:1", "--ttl", "0"}, "--ttl: "},
		{[]string{"--to", "x:1", "--stale-if-error", "long"}, "--stale-if-error: "},
		{[]string{"--to", "x:1", "--ttl", "1m", "--no-cache"}, "--no-cache"},
		{[]string{"--to", "x:1", "--trusted-proxies", "10.0.0.x"}, "--trusted-proxies: "},
		{[]string{"--to", "x:1", "--status-address", "127.0.0.1:8009"}, "--status-address: it is the address of --from"}, // :8009
		{[]string{"--to", "x:1", "--from", "127.0.0.1:1", "--status-address", "127.0.0.1:1"}, "--status-address: "},
		{[]string{"--to", "x:1", "--from", "127.0.0.1:1", "--status-address", "localhost:1"}, "--status-address: "},
		{[]string{"--to", "x:1", "--from", "10.0.0.1:1", "--status-address", "0.0.0.0:1"}, "--status-address: "},
	} {
		if _, err := caddyfileFor(t, tc.args...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: %v, want %q", tc.args, err, tc.want)
		}
	}
}
