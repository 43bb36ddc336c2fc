package caddymodule

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/status"
)

func init() {
	caddy.RegisterModule(StatusPage{})
}

// StatusPage is a page that shows what matrix_presence does, now and in the last ten minutes: what
// the homeserver is spared, how requests are answered, how long the homeserver takes, how full
// the tables are. Each number names its metric.
//
// The page needs no script, and refreshes itself each two seconds where there is one. For
// programs the same is JSON or text, by the Accept field or by ?format=json and ?format=text. It
// answers all paths that it gets, so give it a site, or a matcher.
//
// It has no passwords. Clients whose address isn't allowed get 403 and are told how to change that.
type StatusPage struct {
	// Allow are the addresses and CIDR ranges of clients that may see the page; private_ranges are
	// all private and loopback ones. Default: private_ranges, and then nobody whose request came
	// through a proxy that isn't one of the server's trusted_proxies.
	Allow []string `json:"allow,omitempty"`

	// ShowUsers has the page list the users who were over a limit most often. Their IDs are
	// personal. Default: false.
	ShowUsers bool `json:"show_users,omitempty"`

	ranges  []netip.Prefix
	sampler *sampler
}

// CaddyModule returns the Caddy module information.
func (StatusPage) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.presence_status",
		New: func() caddy.Module { return new(StatusPage) },
	}
}

// Provision reads the ranges and takes the history, which survives a reload.
func (s *StatusPage) Provision(caddy.Context) (err error) {
	if s.ranges, err = s.parseRanges(); err != nil {
		return err
	}
	s.sampler, err = takeSampler()
	return err
}

// parseRanges reads the option allow.
func (s *StatusPage) parseRanges() (ranges []netip.Prefix, err error) {
	for _, one := range s.allow() {
		if err := checkRanges(one); err != nil {
			return nil, fmt.Errorf("checking allow: %w", err)
		}
		for _, text := range expandRanges(one) {
			parsed, err := netip.ParsePrefix(text)
			if addr, notAddr := netip.ParseAddr(text); notAddr == nil {
				parsed, err = netip.PrefixFrom(addr, addr.BitLen()), nil
			}
			if err != nil {
				return nil, fmt.Errorf("checking allow: %w", err)
			}
			ranges = append(ranges, parsed)
		}
	}
	return ranges, nil
}

// allow returns the option, or its default.
func (s *StatusPage) allow() []string {
	if len(s.Allow) == 0 {
		return []string{"private_ranges"}
	}
	return s.Allow
}

// expandRanges returns the ranges that a word of allow stands for.
func expandRanges(word string) []string {
	if word == "private_ranges" {
		return caddyhttp.PrivateRangesCIDR()
	}
	return []string{word}
}

// Cleanup gives the history back.
func (s *StatusPage) Cleanup() error {
	if s.sampler == nil {
		return nil // it was refused
	}
	_, err := samplers.Delete("")
	return err
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (s *StatusPage) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return caddyhttp.Error(http.StatusMethodNotAllowed, errors.New("the status page is only to be read"))
	}
	header := w.Header()
	header.Set("Content-Security-Policy", status.Policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "same-origin")
	for _, file := range []*status.Asset{&status.Style, &status.Script} {
		if path.Base(r.URL.Path) == file.Name {
			header.Set("Content-Type", file.Type)
			header.Set("Cache-Control", "public, max-age=31536000, immutable")
			_, err := w.Write(file.Content)
			return err
		}
	}
	header.Set("Cache-Control", "no-store")
	header.Set("Vary", "Accept")
	format := formatOf(r)
	if why := s.refuses(r); why != nil {
		return why.write(w, format)
	}
	return s.show(w, r, format)
}

// show answers in a format.
func (s *StatusPage) show(w http.ResponseWriter, r *http.Request, format string) error {
	if format == "html" && isWithoutSlash(w, r) {
		return nil
	}
	now := time.Now()
	header := w.Header()
	switch format {
	case "json":
		return writeJSON(w, takeStatus(now))
	case "refresh":
		return writeJSON(w, s.view(now).Refresh())
	case "text":
		header.Set("Content-Type", "text/plain; charset=utf-8")
		_, err := w.Write([]byte(s.view(now).Text()))
		return err
	case "html":
		header.Set("Content-Type", "text/html; charset=utf-8")
		return s.view(now).HTML(w)
	}
	header.Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusNotAcceptable)
	_, err := w.Write([]byte("There is HTML, JSON and text, also by ?format=html, json or text.\n"))
	return err
}

// view returns what is shown now.
func (s *StatusPage) view(now time.Time) *status.View {
	history := s.sampler.look(now)
	if !s.ShowUsers {
		return history.View(nil)
	}
	return history.View(mostLimited())
}

// maxShownUsers is how many users are shown of each cache.
const maxShownUsers = 10

// mostLimited returns who was over a limit most often, by cache.
func mostLimited() map[string][]status.Limited {
	found := make(map[string][]status.Limited)
	for _, m := range allStores() {
		var users []status.Limited
		for limit, sketch := range m.store.TopLimited {
			top, _, _ := sketch.Top()
			for _, u := range top {
				users = append(users, status.Limited{Limit: gateway.LimitNames[limit], UserID: u.UserID, AtLeast: u.AtLeast, AtMost: u.AtMost})
			}
		}
		found[m.name] = mostOf(users)
	}
	return found
}

// mostOf returns the ten users with the most.
func mostOf(users []status.Limited) []status.Limited {
	slices.SortStableFunc(users, func(a, b status.Limited) int { return cmp.Compare(b.AtMost, a.AtMost) })
	return users[:min(maxShownUsers, len(users))]
}

// isWithoutSlash sends a browser to the path with a slash at its end, from which the page's files
// are found beside it, whatever prefix a handler before has taken off.
func isWithoutSlash(w http.ResponseWriter, r *http.Request) bool {
	asked := r.URL
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok && original.URL != nil {
		asked = original.URL
	}
	if strings.HasSuffix(asked.Path, "/") {
		return false
	}
	to := url.URL{Path: "./" + path.Base(asked.Path) + "/", RawQuery: asked.RawQuery}
	w.Header().Set("Location", to.String())
	w.WriteHeader(http.StatusTemporaryRedirect)
	return true
}

// Interface guards
var (
	_ caddy.Provisioner           = (*StatusPage)(nil)
	_ caddy.CleanerUpper          = (*StatusPage)(nil)
	_ caddyhttp.MiddlewareHandler = (*StatusPage)(nil)
)
