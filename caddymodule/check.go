package caddymodule

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

// finding is something in a Caddyfile that is legal but unwise.
type finding struct {
	File string `json:"file"`
	Line int    `json:"line"`
	Rule string `json:"rule"`
	Why  string `json:"why"`
}

func (d *directive) finding(rule, why string, args ...any) finding {
	return finding{d.file, d.line, rule, fmt.Sprintf(why, args...)}
}

// check looks for what is unwise. docs/operations.md says more of each rule.
func (f *checkedFile) check() []finding {
	found := f.checkAdmin()
	for _, site := range f.sites {
		found = append(found, checkPage(site)...)
		handlers := site.deep("matrix_presence")
		for _, h := range handlers {
			found = append(found, checkDurations(h)...)
			found = append(found, f.checkSyncLimit(h)...)
		}
		if len(handlers) == 0 {
			continue
		}
		found = append(found, f.checkTrustedProxies(site)...)
		found = append(found, f.checkLogs(site)...)
		if own := site.all("matrix_presence"); len(own) > 0 {
			found = append(found, f.checkRefusals(site)...)
			found = append(found, checkPrefixes(site, own[0])...)
		}
	}
	slices.SortStableFunc(found, func(a, b finding) int { return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line)) })
	return slices.Compact(found) // a snippet that several sites import
}

// checkAdmin: who reaches the admin endpoint can do everything.
func (f *checkedFile) checkAdmin() (found []finding) {
	for _, admin := range f.global.all("admin") {
		if len(admin.args) == 0 || admin.args[0] == "off" {
			continue
		}
		address, err := caddy.ParseNetworkAddress(admin.args[0])
		if err != nil || address.IsUnixNetwork() || address.IsFdNetwork() || isLoopback(address.Host) {
			continue
		}
		found = append(found, admin.finding("admin-open",
			"the admin endpoint at %s is not on loopback: who reaches it can change the whole configuration, and look up users; use localhost:2019 or a unix socket", admin.args[0]))
	}
	return found
}

// isLoopback reports whether a host is this machine, for this machine only.
func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// checkPage: the page has no passwords.
func checkPage(site *directive) (found []finding) {
	if len(site.deep("basic_auth", "basicauth", "forward_auth", "client_auth")) > 0 {
		return nil
	}
	for _, page := range site.deep("presence_status") {
		for _, allow := range page.all("allow") {
			if slices.ContainsFunc(allow.args, func(one string) bool { return strings.HasSuffix(one, "/0") }) {
				found = append(found, allow.finding("page-for-everybody",
					"the status page has no password and is for everybody: put basic_auth or forward_auth before it"))
			}
		}
	}
	return found
}

// checkDurations: of what lives shorter than what it is there for.
func checkDurations(h *directive) (found []finding) {
	defaults := gateway.Defaults()
	duration := func(name string, otherwise time.Duration) (time.Duration, *directive) {
		for _, cache := range h.all("cache") {
			for _, option := range cache.all(name) {
				if d, err := caddy.ParseDuration(cmp.Or(slices.Concat(option.args, []string{""})[0], "x")); err == nil {
					return d, option
				}
			}
		}
		return otherwise, nil
	}
	ttl, ttlAt := duration("ttl", defaults.Rules.TTL)
	settle, settleAt := duration("settle", defaults.Settle)
	stale, staleAt := duration("stale_if_error", 0)
	if at := cmp.Or(ttlAt, settleAt); at != nil && ttl < settle {
		found = append(found, at.finding("ttl-below-settle",
			"ttl %v is shorter than settle %v: after a write nothing new is kept for settle, longer than anything lives", ttl, settle))
	}
	if staleAt != nil && stale <= ttl {
		found = append(found, staleAt.finding("stale-below-ttl",
			"stale_if_error %v is no longer than ttl %v, so nothing is ever served stale", stale, ttl))
	}
	return found
}

// isOther reports whether a homeserver is known not to be Synapse.
func isOther(homeserver string) bool { return homeserver == "dendrite" || homeserver == "tuwunel" }

// checkSyncLimit: Synapse has a limit of its own.
func (f *checkedFile) checkSyncLimit(h *directive) []finding {
	mayBeSynapse := !isOther(h.option("homeserver")) &&
		(len(f.homeservers) == 0 || slices.ContainsFunc(f.homeservers, func(one string) bool { return !isOther(one) }))
	for _, option := range h.all("sync_presence") {
		if h.option("sync_presence") == "limit" && mayBeSynapse {
			return []finding{option.finding("synapse-limit",
				"on Synapse, sync_presence limit needs rc_presence raised in homeserver.yaml: its default drops the presence of most syncs without a word")}
		}
	}
	return nil
}

// checkTrustedProxies: behind a proxy, all clients have one address.
func (f *checkedFile) checkTrustedProxies(site *directive) []finding {
	if len(f.global.deep("trusted_proxies")) > 0 {
		return nil
	}
	for _, bind := range site.all("bind") {
		if len(bind.args) > 0 && !slices.ContainsFunc(bind.args, func(host string) bool { return !isLoopback(host) && !strings.HasPrefix(host, "unix/") }) {
			return []finding{bind.finding("trusted-proxies", whyTrustedProxies)}
		}
	}
	for _, address := range site.args {
		address = strings.TrimSuffix(address, ",")
		host, isHTTP := strings.CutPrefix(address, "http://")
		host, _, _ = strings.Cut(host, "/")
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		if isHTTP || host == "" || isLoopback(host) {
			return []finding{site.finding("trusted-proxies", whyTrustedProxies)}
		}
	}
	return nil
}

const whyTrustedProxies = "without TLS, or on loopback, another proxy is in front, and without trusted_proxies all its clients have one address: " +
	"set servers { trusted_proxies static …; trusted_proxies_strict } in the global options"

// checkLogs: old clients send their token in the query.
func (f *checkedFile) checkLogs(site *directive) (found []finding) {
	const why = "old clients send access_token in the query, and it is logged: filter request>uri, as Caddyfile.example does"
	filters := func(log *directive) bool { return log.says("access_token") || log.says("discard") }
	for _, log := range site.all("log") {
		if !filters(log) {
			found = append(found, log.finding("token-in-log", why))
		}
	}
	logs := f.global.all("log")
	for _, log := range logs {
		if !filters(log) {
			found = append(found, log.finding("token-in-log", why))
		}
	}
	if len(logs) == 0 {
		found = append(found, site.finding("token-in-log", "errors are logged with the request's URI, in which old clients send access_token: "+
			"set log { format filter … } in the global options, as Caddyfile.example does"))
	}
	return found
}

// checkRefusals: what is answered from memory doesn't reach what stands behind.
func (f *checkedFile) checkRefusals(site *directive) (found []finding) {
	for _, order := range f.global.all("order") {
		if len(order.args) > 0 && order.args[0] == "matrix_presence" {
			return nil // somebody has thought of it
		}
	}
	behind := site.all("respond", "error", "abort", "rate_limit")
	for _, block := range site.all("handle", "handle_path", "route") {
		if block.mayMatch() {
			behind = append(behind, block.deep("respond", "error", "abort", "rate_limit", "basic_auth", "basicauth", "forward_auth")...)
		}
	}
	for _, d := range behind {
		if d.mayMatch() && d.refuses() {
			found = append(found, d.finding("refusal-behind",
				"%s stands behind matrix_presence: what is answered from memory doesn't reach it; put both into a route, in their order", d.name))
		}
	}
	return found
}

// refuses reports whether a directive may refuse a request.
func (d *directive) refuses() bool {
	if d.name != "respond" {
		return true
	}
	return slices.ContainsFunc(d.args, func(arg string) bool {
		status, err := strconv.Atoi(arg)
		return err == nil && status >= 400
	})
}

// checkPrefixes: a handler that takes a prefix off hides the paths from one before it.
func checkPrefixes(site, own *directive) []finding {
	for _, block := range site.all("handle_path") {
		if len(block.deep("reverse_proxy")) > 0 {
			return []finding{own.finding("hidden-by-prefix",
				"handle_path, in line %d, takes a prefix off behind matrix_presence, which sees the whole path and does nothing: put it into that block", block.line)}
		}
	}
	return nil
}
