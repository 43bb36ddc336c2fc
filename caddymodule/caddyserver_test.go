package caddymodule

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// What was found out about the client from all of its fields holds for its requests of
// ours, which have less of them.
func TestClientsAddressIsTheSameForOurRequests(t *testing.T) {
	p := handle(t, new(Handler))
	r := request("GET", statusPath(alice), "bob-token", "")
	r.Header.Set("X-Forwarded-For", "192.0.2.1, "+strings.Repeat("198.51.100.1, ", 100)+"198.51.100.1")
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), new(caddyhttp.Server))
	caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, "192.0.2.1")
	caddyhttp.SetVar(r.Context(), caddyhttp.TrustedProxyVarKey, true)
	if err := p.handler.ServeHTTP(httptest.NewRecorder(), r, p.HS); err != nil {
		t.Fatal(err)
	}
	for _, got := range p.HS.Seen {
		if ip, trusted := caddyhttp.GetVar(got.Context(), caddyhttp.ClientIPVarKey), caddyhttp.GetVar(got.Context(), caddyhttp.TrustedProxyVarKey); ip != "192.0.2.1" || trusted != true {
			t.Errorf("%s is of %v, trusted %v", got.URL, ip, trusted)
		}
	}
}
