package integration_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/protocol"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

func TestMain(m *testing.M) { suite.Main(m) }

// eachProtocol runs a test on each homeserver over each protocol.
func eachProtocol(t *testing.T, opts homeserver.Options, test func(*testing.T, *homeserver.Homeserver, protocol.Protocol)) {
	suite.EachHomeserver(t, opts, func(t *testing.T, hs *homeserver.Homeserver) {
		for _, p := range protocol.All {
			t.Run(string(p), func(t *testing.T) { test(t, hs, p) })
		}
	})
}

// unlimited are the flags of a sidecar whose limits no test can meet.
var unlimited = []string{"--write-limit", "off", "--read-limit", "off"}

// proxy starts a sidecar for one test. Its log is shown if the test fails.
func proxy(t *testing.T, upstream string, args ...string) *sidecar.Sidecar {
	t.Helper()
	return suite.Sidecar(t)(sidecar.StartProxy(t.Context(), upstream, args...))
}

// siteWith is the Caddyfile of a site in front of upstream, with options of
// matrix_presence.
func siteWith(options, upstream string) string {
	return fmt.Sprintf(`
{
	admin {$ADMIN}
	auto_https off
	servers {
		protocols {$PROTOCOLS}
	}
}
{$SITE} {
	bind 127.0.0.1
	{$TLS}
	matrix_presence {
		%s
	}
	reverse_proxy %s
}
`, options, upstream)
}

// site starts such a site for one test. Its log is shown if the test fails.
func site(t *testing.T, options, upstream string) *sidecar.Sidecar {
	t.Helper()
	return siteOver(t, protocol.HTTP1, upstream, options)
}

// siteOver is site for clients that speak a protocol.
func siteOver(t *testing.T, p protocol.Protocol, upstream string, options ...string) *sidecar.Sidecar {
	t.Helper()
	return suite.Sidecar(t)(sidecar.StartCaddyfileOver(t.Context(), p, siteWith(strings.Join(options, "\n\t\t"), upstream)))
}

// unlimitedSite are the options of a site whose limits no test can meet.
var unlimitedSite = []string{"write_limit off", "read_limit off"}
