package caddymodule

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/status"
)

// provisionPage provisions a page, until the end of the test.
func provisionPage(t testing.TB, page *StatusPage) *StatusPage {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := page.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := page.Cleanup(); err != nil {
			t.Error(err)
		}
	})
	return page
}

// visit asks a page as a client from an address, with these header fields: name, value, and so on.
func (s *StatusPage) visit(t testing.TB, method, target, client string, fields ...string) *http.Response {
	t.Helper()
	recorder := httptest.NewRecorder()
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), recorder, new(caddyhttp.Server))
	caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, client)
	if err := s.ServeHTTP(recorder, r, nil); err != nil {
		handlerErr, ok := err.(caddyhttp.HandlerError)
		if !ok {
			t.Fatal(err)
		}
		recorder.WriteHeader(handlerErr.StatusCode)
	}
	return recorder.Result()
}

const browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"

func TestStatusPageComesInTheFormatThatIsAskedFor(t *testing.T) {
	handle(t, new(Handler))
	page := provisionPage(t, new(StatusPage))
	for _, test := range []struct {
		accept, query string
		status        int
		media, has    string
	}{
		{browser, "", 200, "text/html; charset=utf-8", "<h1>Presence</h1>"},
		{"", "", 200, "text/plain; charset=utf-8", "Mode: enforce"},
		{"*/*", "", 200, "text/plain; charset=utf-8", "Mode: enforce"}, // curl
		{"text/plain", "", 200, "text/plain; charset=utf-8", "Mode: enforce"},
		{"text/*", "", 200, "text/plain; charset=utf-8", "Mode: enforce"},
		{"application/json", "", 200, "application/json", `"caches":`},
		{"application/json;q=0.5, text/html;q=0.4", "", 200, "application/json", `"caches":`},
		{"application/*", "", 200, "application/json", `"caches":`},
		{"image/png", "", 406, "text/plain; charset=utf-8", "?format="},
		{"text/html;q=0", "", 406, "text/plain; charset=utf-8", "?format="},
		{browser, "?format=json", 200, "application/json", `"caches":`},
		{browser, "?format=text", 200, "text/plain; charset=utf-8", "Mode: enforce"},
		{"", "?format=html", 200, "text/html; charset=utf-8", "<h1>Presence</h1>"},
		{"", "?format=refresh", 200, "application/json", `"layout":`},
		{browser, "?format=svg", 200, "text/html; charset=utf-8", "<h1>Presence</h1>"},
	} {
		resp := page.visit(t, "GET", "/"+test.query, "127.0.0.1", "Accept", test.accept)
		body := bodyOf(resp)
		if resp.StatusCode != test.status || resp.Header.Get("Content-Type") != test.media || !strings.Contains(body, test.has) {
			t.Errorf("Accept %q, %q: %d %s %.60q, want %d %s %q", test.accept, test.query, resp.StatusCode, resp.Header.Get("Content-Type"), body,
				test.status, test.media, test.has)
		}
		if resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("Vary") != "Accept" || resp.Header.Get("Content-Security-Policy") != status.Policy {
			t.Errorf("Accept %q: header %v", test.accept, resp.Header)
		}
	}
	resp := page.visit(t, "POST", "/", "127.0.0.1")
	if resp.StatusCode != 405 || resp.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d %v", resp.StatusCode, resp.Header)
	}
}

func TestStatusPageIsForThoseWhoAreAllowed(t *testing.T) {
	forwarded := []string{"X-Forwarded-For", "203.0.113.7"}
	for name, test := range map[string]struct {
		allow  []string
		client string
		fields []string
		says   string // "" if the client may see it
	}{
		"loopback":                      {nil, "127.0.0.1", nil, ""},
		"loopback, IPv6":                {nil, "::1", nil, ""},
		"loopback in IPv6":              {nil, "::ffff:127.0.0.1", nil, ""},
		"private":                       {nil, "192.168.3.4", nil, ""},
		"link-local, with a zone":       {[]string{"fe80::/10"}, "fe80::1%eth0", nil, ""},
		"public":                        {nil, "203.0.113.7", nil, "allow private_ranges 203.0.113.7"},
		"public, IPv6":                  {nil, "2001:db8::7", nil, "allow private_ranges 2001:db8::7"},
		"not known":                     {nil, "@", nil, "trusted_proxies_unix"},
		"a proxy that nobody trusts":    {nil, "127.0.0.1", forwarded, "trusted_proxies static 127.0.0.1"},
		"another":                       {nil, "127.0.0.1", []string{"Via", "1.1 varnish"}, "trusted_proxies static 127.0.0.1"},
		"one with a field of its own":   {nil, "127.0.0.1", []string{"X-Real-IP", "203.0.113.7"}, "trusted_proxies static 127.0.0.1"},
		"one after an empty field":      {nil, "127.0.0.1", []string{"X-Forwarded-For", "", "X-Forwarded-For", "203.0.113.7"}, "trusted_proxies static 127.0.0.1"},
		"a proxy that is allowed":       {[]string{"127.0.0.1"}, "127.0.0.1", forwarded, ""},
		"public, allowed":               {[]string{"private_ranges", "203.0.113.0/24"}, "203.0.113.7", nil, ""},
		"private, not allowed any more": {[]string{"203.0.113.0/24"}, "192.168.3.4", nil, "only 203.0.113.0/24"},
		"nor is more than asked for":    {[]string{"203.0.113.0/24", "10.0.0.1"}, "192.168.3.4", nil, "allow 203.0.113.0/24 10.0.0.1 192.168.3.4"},
		"a zone is no part of a range":  {[]string{"203.0.113.0/24"}, "fe80::1%eth0", nil, "allow 203.0.113.0/24 fe80::1\n"},
		"one address":                   {[]string{"203.0.113.7"}, "203.0.113.8", nil, "only 203.0.113.7"},
	} {
		t.Run(name, func(t *testing.T) {
			page := provisionPage(t, &StatusPage{Allow: test.allow})
			for _, accept := range []string{browser, "application/json", "*/*"} {
				resp := page.visit(t, "GET", "/", test.client, append([]string{"Accept", accept}, test.fields...)...)
				body, want := bodyOf(resp), 200
				if test.says != "" {
					want = 403
				}
				if resp.StatusCode != want {
					t.Errorf("%s: %d, want %d", accept, resp.StatusCode, want)
				}
				if accept == "application/json" {
					if !json.Valid([]byte(body)) {
						t.Errorf("no JSON: %s", body)
					}
				} else if !strings.Contains(body, test.says) {
					t.Errorf("%s: it doesn't say %q: %s", accept, test.says, body)
				}
				if want == 403 && strings.Contains(body, "saved_total") {
					t.Errorf("%s: it shows numbers all the same", accept)
				}
			}
		})
	}
}

// Caddy believes the first address that a proxy passes on, unless it is told to be strict: a client may have sent that. And
// if a proxy names nobody, it believes that the proxy itself asks.
func TestStatusPageThatIsForwardedByATrustedProxy(t *testing.T) {
	for name, test := range map[string]struct {
		allow  []string
		client string // as Caddy has it
		fields []string
		want   int
	}{
		"for somebody":                    {nil, "192.168.0.9", []string{"X-Forwarded-For", "192.168.0.9"}, 200},
		"through two":                     {nil, "192.168.0.9", []string{"X-Forwarded-For", "192.168.0.9, 10.0.0.1:4711", "Via", "1.1 x"}, 200},
		"for who calls themselves local":  {nil, "127.0.0.1", []string{"X-Forwarded-For", "127.0.0.1, 203.0.113.7"}, 403},
		"likewise, in two fields":         {nil, "127.0.0.1", []string{"X-Forwarded-For", "127.0.0.1", "X-Forwarded-For", "203.0.113.7"}, 403},
		"for who says nonsense":           {nil, "127.0.0.1", []string{"X-Forwarded-For", "127.0.0.1, unknown"}, 403},
		"for whom it names otherwise":     {nil, "127.0.0.1", []string{"X-Real-IP", "203.0.113.7"}, 403},
		"for who is allowed":              {[]string{"203.0.113.0/24"}, "203.0.113.7", []string{"X-Forwarded-For", "203.0.113.7, 198.51.100.1"}, 200},
		"for the proxy's own, by nothing": {nil, "127.0.0.1", nil, 200},
	} {
		t.Run(name, func(t *testing.T) {
			page := provisionPage(t, &StatusPage{Allow: test.allow})
			r := httptest.NewRequest("GET", "/", nil)
			for i := 0; i+1 < len(test.fields); i += 2 {
				r.Header.Add(test.fields[i], test.fields[i+1])
			}
			recorder := httptest.NewRecorder()
			r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), recorder, new(caddyhttp.Server))
			caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, test.client)
			caddyhttp.SetVar(r.Context(), caddyhttp.TrustedProxyVarKey, true)
			if err := page.ServeHTTP(recorder, r, nil); err != nil || recorder.Code != test.want {
				t.Errorf("%d, %v", recorder.Code, err)
			}
		})
	}
}

// Its files lie beside it, whatever prefix somebody has given it, or taken off.
func TestStatusPageSendsABrowserToWhereItsFilesAre(t *testing.T) {
	page := provisionPage(t, new(StatusPage))
	for target, want := range map[string]string{
		"/": "", "/status/": "", "/status": "./status/", "/a/status?x=1": "./status/?x=1",
	} {
		if got := page.visit(t, "GET", target, "127.0.0.1", "Accept", browser).Header.Get("Location"); got != want {
			t.Errorf("%s goes to %q, want %q", target, got, want)
		}
	}
	if resp := page.visit(t, "GET", "/status", "127.0.0.1"); resp.StatusCode != 200 {
		t.Errorf("a program is sent elsewhere: %d", resp.StatusCode)
	}
	for _, file := range []status.Asset{status.Style, status.Script} {
		// Also for who isn't allowed to see numbers: the page that says so needs it.
		resp := page.visit(t, "GET", "/status/"+file.Name, "203.0.113.7")
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != file.Type || !strings.Contains(resp.Header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %d %v", file.Name, resp.StatusCode, resp.Header)
		}
	}
}

func TestStatusPageShowsUsersOnlyIfItMay(t *testing.T) {
	p := handle(t, &Handler{WriteLimit: &Limit{Events: 1, Window: caddy.Duration(time.Hour)}})
	for range 3 {
		p.Put("alice-token", alice, `{"presence":"online"}`)
	}
	for _, shows := range []bool{false, true} {
		page := provisionPage(t, &StatusPage{ShowUsers: shows})
		for _, format := range []string{"html", "text", "refresh", "json"} {
			body := bodyOf(page.visit(t, "GET", "/?format="+format, "127.0.0.1"))
			if strings.Contains(body, alice) != (shows && format != "json") {
				t.Errorf("show_users %v, %s: %s", shows, format, body)
			}
		}
	}
}

// It costs nothing while nobody looks: the goroutine that takes samples ends.
func TestStatusIsSampledWhileSomebodyLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := handle(t, new(Handler))
		page := provisionPage(t, new(StatusPage))
		samples := func() (known bool) {
			page.sampler.mu.Lock()
			defer page.sampler.mu.Unlock()
			return page.sampler.stop != nil
		}
		time.Sleep(time.Hour)
		if samples() {
			t.Error("samples are taken, and nobody has looked")
		}
		look := func() string { return bodyOf(page.visit(t, "GET", "/?format=text", "127.0.0.1")) }
		look()
		time.Sleep(time.Second / 2) // not just when a sample is taken
		for range 20 {
			p.Get("bob-token", alice)
			time.Sleep(time.Second)
		}
		if text := look(); !samples() || !strings.Contains(text, `1.00/s`) {
			t.Errorf("while somebody looks: %s", text)
		}
		time.Sleep(lookedAtFor + 2*status.Step)
		if samples() {
			t.Error("samples are taken a minute after the last look")
		}
		look()
		if !samples() {
			t.Error("who looks again has no samples taken")
		}
	})
}

// Before the old page is cleaned up, the new one has the same history.
func TestStatusHistorySurvivesAReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := handle(t, new(Handler))
		old := new(StatusPage)
		if err := old.Provision(caddy.Context{Context: context.Background()}); err != nil {
			t.Fatal(err)
		}
		old.visit(t, "GET", "/", "127.0.0.1")
		p.Get("bob-token", alice)
		time.Sleep(11 * time.Second) // not just when a sample is taken
		page := provisionPage(t, new(StatusPage))
		if err := old.Cleanup(); err != nil {
			t.Fatal(err)
		}
		if text := bodyOf(page.visit(t, "GET", "/", "127.0.0.1")); !strings.Contains(text, "0.10/s") {
			t.Errorf("nothing is known of before: %s", text)
		}
		// A request of the old one that is still under way gets its answer.
		if resp := old.visit(t, "GET", "/", "127.0.0.1"); resp.StatusCode != 200 {
			t.Errorf("%d", resp.StatusCode)
		}
	})
}

func TestStatusPageRefusesWhatIsNoRange(t *testing.T) {
	for _, allow := range []string{"somewhere", "10.0.0.0/99", ""} {
		page := &StatusPage{Allow: []string{allow}}
		if err := page.Provision(caddy.Context{Context: context.Background()}); err == nil || !strings.Contains(err.Error(), "checking allow") {
			t.Errorf("%q: %v", allow, err)
		}
		if err := page.Cleanup(); err != nil {
			t.Errorf("cleaning up what was refused: %v", err)
		}
	}
}
