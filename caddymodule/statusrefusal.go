package caddymodule

import (
	"fmt"
	"mime"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/status"
)

// statusRefusal is why a client doesn't get the status page, and what changes that.
type statusRefusal struct{ client, why, how string }

// refuses returns why a client isn't allowed to see the page, or nil.
func (s *StatusPage) refuses(r *http.Request) *statusRefusal {
	address, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	client, err := netip.ParseAddr(address)
	if err != nil {
		if withPort, notPort := netip.ParseAddrPort(address); notPort == nil {
			client, err = withPort.Addr(), nil
		}
	}
	client = client.Unmap().WithZone("")
	switch {
	case err != nil:
		return &statusRefusal{
			client: "an unknown address",
			why:    "The status page is not for an unknown address, as that of a proxy behind a socket which doesn't say for whom it asks.",
			how:    "{\n\tservers {\n\t\ttrusted_proxies_unix\n\t}\n}",
		}
	case !s.allows(client):
		return &statusRefusal{
			client: address,
			why:    fmt.Sprintf("The status page is not for %s: it answers %s.", address, s.allowed()),
			how:    fmt.Sprintf("presence_status {\n\tallow %s %s\n}", strings.Join(s.allow(), " "), client),
		}
	case len(s.Allow) > 0 || !isForwarded(r.Header):
		return nil
	}
	if trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool); !trusted {
		return &statusRefusal{
			client: "clients of an unknown proxy",
			why:    fmt.Sprintf("The request came through a proxy at %s that the server doesn't trust, so it isn't known who asks.", client),
			how:    fmt.Sprintf("{\n\tservers {\n\t\ttrusted_proxies static %s\n\t}\n}", client),
		}
	}
	if !s.allowsNamed(r) {
		return &statusRefusal{
			client: "some clients of a proxy",
			why:    "The request came through a proxy that doesn't say for whom, or that passes on what clients say of themselves, so it isn't known who asks.",
			how:    "{\n\tservers {\n\t\tclient_ip_headers X-Forwarded-For X-Real-IP\n\t\ttrusted_proxies_strict\n\t}\n}",
		}
	}
	return nil
}

// allowsNamed reports whether trusted proxies name somebody, and nobody who isn't allowed. Of several the client may have
// named all but the last.
func (s *StatusPage) allowsNamed(r *http.Request) bool {
	names := caddyServer{}.ClientIPHeaders(r)
	if len(names) == 0 {
		names = []string{"X-Forwarded-For"}
	}
	var named []string
	for _, name := range names {
		for _, list := range r.Header.Values(name) {
			named = append(named, strings.Split(list, ",")...)
		}
	}
	return len(named) > 0 && !slices.ContainsFunc(named, func(text string) bool {
		text = strings.TrimSpace(text)
		address, err := netip.ParseAddr(text)
		if withPort, notPort := netip.ParseAddrPort(text); notPort == nil {
			address, err = withPort.Addr(), nil
		}
		return err != nil || !s.allows(address.Unmap().WithZone(""))
	})
}

func (s *StatusPage) allows(client netip.Addr) bool {
	for _, one := range s.ranges {
		if one.Contains(client) {
			return true
		}
	}
	return false
}

// allowed says who may see the page.
func (s *StatusPage) allowed() string {
	if len(s.Allow) == 0 {
		return "loopback and private addresses only"
	}
	return "only " + strings.Join(s.Allow, ", ")
}

// forwardedFields are those by which proxies and content networks say whose a request is, or that it came
// through them.
var forwardedFields = []string{
	"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Server",
	"X-Real-Ip", "X-Client-Ip", "X-Cluster-Client-Ip", "X-Original-Forwarded-For", "True-Client-Ip",
	"Cf-Connecting-Ip", "Fastly-Client-Ip", "Fly-Client-Ip", "X-Azure-Clientip", "X-Envoy-External-Address",
	"Via", "Cdn-Loop",
}

// isForwarded reports whether a proxy says that the request is somebody else's. A field without a value is one, too:
// the client may have sent that, and the proxy's may be the second.
func isForwarded(h http.Header) bool {
	return slices.ContainsFunc(forwardedFields, func(name string) bool { return h[name] != nil })
}

// write answers 403, and says how to change that.
func (no *statusRefusal) write(w http.ResponseWriter, format string) error {
	switch format {
	case "html":
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(http.StatusForbidden)
		return status.Refused(w, no.client, no.why, no.how)
	case "json", "refresh":
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		return writeJSON(w, map[string]string{"error": no.why})
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusForbidden)
	_, err := fmt.Fprintf(w, "%s\n\nTo change that, in the Caddyfile:\n\n%s\n", no.why, no.how)
	return err
}

// statusFormats are the formats that there are, by media type.
var statusFormats = []struct{ media, format string }{
	{"text/html", "html"}, {"application/json", "json"}, {"text/plain", "text"},
}

// formatOf returns the format that a request asks for, or "" if there is none that it takes. Who
// takes everything alike, as curl does, gets text.
func formatOf(r *http.Request) string {
	switch format := r.URL.Query().Get("format"); format {
	case "html", "json", "text", "refresh":
		return format
	}
	accept := strings.Join(r.Header.Values("Accept"), ",")
	if accept == "" {
		return "text"
	}
	best, most := "", 0.0
	for part := range strings.SplitSeq(accept, ",") {
		media, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		quality := 1.0
		if q, ok := params["q"]; ok {
			if quality, err = strconv.ParseFloat(q, 64); err != nil {
				continue
			}
		}
		for _, one := range statusFormats {
			kind, _, _ := strings.Cut(one.media, "/")
			switch {
			case quality <= most:
			case media == one.media, media == kind+"/*" && one.format != "html":
				best, most = one.format, quality
			case media == "*/*":
				best, most = "text", quality
			}
		}
	}
	return best
}
