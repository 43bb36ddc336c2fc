package contender

import (
	"errors"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/protocol"
)

func TestConfigurationsAreFilledIn(t *testing.T) {
	with := settings{Listen: "127.0.0.1:1001", Admin: "127.0.0.1:1002", Upstream: "127.0.0.1:1003", Dir: "/the/dir", Certificate: "/the/cert.pem", Key: "/the/key.pem"}
	for name, c := range map[string]struct {
		spec Spec
		want []string
	}{
		"respond": {Caddy{Site: Respond()}.Spec(), []string{"http://:1001 {", "admin off", "respond `{"}},
		"respond to reads": {Caddy{Site: RespondToReads()}.Spec(),
			[]string{"@reads method GET", "respond `{", "reverse_proxy 127.0.0.1:1003"}},
		"respond over HTTP/3": {Caddy{Site: Respond(), Protocol: protocol.HTTP3}.Spec(),
			[]string{"https://:1001 {", "tls /the/cert.pem /the/key.pem"}},
		"metrics":  {Caddy{Site: Respond(), Metrics: true}.Spec(), []string{"admin 127.0.0.1:1002", "metrics"}},
		"log":      {Caddy{Site: ReverseProxy(0), Log: true}.Spec(), []string{"output file /the/dir/access.log", "reverse_proxy 127.0.0.1:1003"}},
		"presence": {Caddy{Site: Presence("cache off")}.Spec(), []string{"matrix_presence {\n\t\tcache off\n\t}"}},
		"souin":    {Souin("1h").Spec(), []string{"ttl 1h", "headers Authorization"}},
		"nginx":    {NginxCache(ByTokenAndPath, "1h"), []string{"listen 127.0.0.1:1001;", "server 127.0.0.1:1003;", `"$http_authorization$request_uri"`, "200 403 1h;"}},
		"limit":    {NginxLimit(), []string{"limit_req zone=presence;"}},
		"varnish":  {VarnishCache("1h"), []string{`.port = "1003";`, "beresp.ttl = 1h;"}},
	} {
		text, err := c.spec.render(with)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, want := range c.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in:\n%s", name, want, text)
			}
		}
	}
}

func TestMissingProgramsNameThePackage(t *testing.T) {
	_, err := find("no-such-program", "no-such-package")
	if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "apt-get install no-such-package") {
		t.Errorf("got %v", err)
	}
}
