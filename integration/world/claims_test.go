package world_test

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/model"
)

// The laws of what is refused and asked on whose account.

// claims returns what is wrong with what a run refuses, takes and asks, or "".
func claims(p *plan, r *run) string {
	for _, o := range r.outcomes {
		if !o.call.presence || o.call.staging || p.siteAt(r, o.began).observes() {
			continue
		}
		for _, law := range []func(*plan, *run, *outcome) string{takesWhatTheHomeserverTakes, refusesWhomTheHomeserverRefuses, limitsOnesOwnAccount, absorbsWhatIsThere, isStaleInTroubleOnly, showsTheStaleForAnError, givesWayInTroubleOnly} {
			if wrong := law(p, r, o); wrong != "" {
				return fmt.Sprintf("%s:\n%v", wrong, o)
			}
		}
	}
	return asksOnce(p, r)
}

// observes tells that it does nothing but count.
func (s *site) observes() bool { return slices.Contains(s.directives, "mode observe") }

// siteAt is the site as it was at some moment.
func (p *plan) siteAt(r *run, at time.Time) *site {
	now := &p.site
	for _, s := range p.steps {
		if s.reload != nil && s.reload.broken == "" && r.began.Add(s.at).Before(at) {
			now = s.reload
		}
	}
	return now
}

// reloads tells whether there is a reload from a moment to another.
func (p *plan) reloads(r *run, from, to time.Time) bool {
	return slices.ContainsFunc(p.steps, func(s step) bool {
		at := r.began.Add(s.at)
		return s.reload != nil && !at.Before(from) && !at.After(to)
	})
}

// isWell tells that the homeserver behaves well all the time from a moment to another.
func (p *plan) isWell(r *run, from, to time.Time) bool {
	well := true
	for _, s := range p.steps {
		at := r.began.Add(s.at)
		if s.mood == nil || at.After(to) {
			continue
		}
		if at.Before(from) {
			well = true // whatever it was before
		}
		well = well && s.mood.whoami == model.Conduct{} && s.mood.presence == model.Conduct{} && s.mood.other == model.Conduct{}
	}
	return well
}

// tables tells that some are small, or that identities have other lifetimes.
func (p *plan) tables() bool {
	small := func(s *site) bool { return s.tokens > 0 || len(s.identity) > 0 && !slices.Equal(s.identity, fewMadeUp) }
	return small(&p.site) || slices.ContainsFunc(p.steps, func(s step) bool { return s.reload != nil && small(s.reload) })
}

// isPlain tells of a call that its token comes by one header field, that nobody is named beside it
// but by an appservice, which has to, and that nothing is odd about its path. So all homeservers read
// its credential alike: where they don't, writes are refused.
func (c *call) isPlain() bool {
	shown := 0
	for _, field := range c.fields {
		if field[0] == "Authorization" {
			shown++
			if field[1] != "Bearer "+c.token {
				return false
			}
		}
	}
	query := strings.Join(c.query, "&")
	named := c.as != "" && query == "user_id="+url.QueryEscape(c.as)
	return shown == 1 && c.form == nil && !c.hopByHop && !c.who.guest && (query == "" && c.as == "" || named || c.syncs)
}

// isBare tells that nothing else of the site's answers in the homeserver's place.
func (p *plan) isBare() bool { return !p.site.answers }

// happens tells whether the machine, or Caddy, is disturbed from a moment to another.
func (p *plan) happens(r *run, from, to time.Time) bool {
	return slices.ContainsFunc(p.steps, func(s step) bool {
		at := r.began.Add(s.at)
		return s.machine != nil && !at.Before(from) && !at.After(to)
	})
}

// isGood tells that a call's token is good all the time from a moment to another.
func isGood(r *run, c *call, from, to time.Time) bool {
	for at := range r.hs.Between(from, to) {
		if user, _, no := r.hs.Viewer(at, c.token, c.as); no != nil || user != c.user {
			return false
		}
	}
	return true
}

// takesWhatTheHomeserverTakes: a write gets 200 only if it is its user's own and the homeserver
// takes its body, 403 only if it isn't, and 400 only if some homeserver doesn't: it isn't
// recognised at once.
func takesWhatTheHomeserverTakes(p *plan, r *run, o *outcome) string {
	if o.call.method != http.MethodPut || !o.call.isPlain() || !p.isBare() || !p.isWell(r, o.began, o.ended) {
		return ""
	}
	for page := range r.hs.Between(r.began.Add(-1), o.ended) {
		if page.PresenceOff {
			return "" // it takes anything then
		}
	}
	takes, own := p.dialect.Takes(o.call.body), o.call.user == o.call.target
	switch {
	case o.status == http.StatusOK && !takes:
		return "a write is answered with 200 that the homeserver refuses"
	case o.status == http.StatusOK && !own:
		return "a write of another's presence is answered with 200"
	case o.cacheStatus() != "": // the homeserver's own answer
	case o.status == http.StatusBadRequest && !slices.ContainsFunc(model.Dialects, func(d *model.Dialect) bool { return !d.Takes(o.call.body) }):
		return "a write is refused that the homeserver takes"
	case o.status == http.StatusForbidden && own:
		return "somebody may not write their own presence"
	}
	return ""
}

const (
	// rejectedTTL and forbiddenTTL are for how long refusals are told from memory.
	rejectedTTL  = 10 * time.Second
	forbiddenTTL = 5 * time.Second
)

// refusesWhomTheHomeserverRefuses: nobody's token is refused that has been good for some time, and
// nobody gets a refusal who may see a presence for some time.
func refusesWhomTheHomeserverRefuses(p *plan, r *run, o *outcome) string {
	since := o.began.Add(-rejectedTTL)
	target, served := p.dialect.Target(o.call.path)
	if !served || !o.call.isPlain() || !p.isBare() || !p.isWell(r, since, o.ended) || p.happens(r, since, o.ended) || !isGood(r, o.call, since, o.ended) {
		return ""
	}
	switch o.status {
	case http.StatusUnauthorized:
		return "a good token is refused"
	case http.StatusForbidden, http.StatusNotFound:
		if o.call.method != http.MethodGet {
			return ""
		}
		for page := range r.hs.Between(o.began.Add(-forbiddenTTL), o.ended) {
			if page.PresenceOff || !r.hs.MaySee(page, o.call.user, target) {
				return ""
			}
		}
		return "a presence is refused to somebody who may see it"
	}
	return ""
}

var limits = regexp.MustCompile(`(read|write)_limit (off|(\d+)/(\w+)(?: burst (\d+))?)`)

// limitOf returns a limit of a site's: no burst if it is none.
func (s *site) limitOf(kind string) (interval time.Duration, burst int) {
	interval, burst = 10*time.Millisecond, 5000
	if kind == "write" {
		interval, burst = 10*time.Second, 5
	}
	for _, match := range limits.FindAllStringSubmatch(strings.Join(s.directives, "\n"), -1) {
		if match[1] != kind {
			continue
		}
		if interval, burst = 0, 0; match[2] != "off" {
			events, _ := strconv.Atoi(match[3])
			window, _ := time.ParseDuration(match[4])
			interval, burst = window/time.Duration(events), events
			if match[5] != "" {
				burst, _ = strconv.Atoi(match[5])
			}
		}
	}
	return interval, burst
}

// limitsOnesOwnAccount: whoever has an account gets a 429 for what they did themselves, and by
// the limit that there is now. As long as a token isn't known, unknown ones behind the same address
// may have used up what there is for all of these.
func limitsOnesOwnAccount(p *plan, r *run, o *outcome) string {
	if said := p.everSaid(); strings.Contains(said, "class") || strings.Contains(said, "exempt") || p.happens(r, r.began, o.ended) {
		return ""
	}
	if o.status != http.StatusTooManyRequests || o.cacheStatus() != "" || !p.isBare() || !p.isWell(r, r.began, o.ended) || o.call.who.hostile || !o.call.isPlain() || p.reloads(r, o.began, o.ended) || !isGood(r, o.call, r.began, o.ended) {
		return ""
	}
	if sharesItsAddress(p, r, o) && showsUnknownTokens(p, r, o) {
		return ""
	}
	kind := "read"
	if o.call.method == http.MethodPut {
		kind = "write"
	}
	interval, burst := p.siteAt(r, o.began).limitOf(kind)
	used := 0
	for _, other := range r.outcomes {
		if other != o && other.call.presence && other.call.user == o.call.user && (other.call.method == http.MethodPut) == (kind == "write") && !other.began.After(o.ended) {
			used++
		}
	}
	least := burst
	for _, s := range p.steps {
		if s.reload != nil {
			_, burst := s.reload.limitOf(kind)
			least = min(least, burst)
		}
	}
	_, first := p.site.limitOf(kind)
	seconds, _ := strconv.Atoi(o.header.Get("Retry-After"))
	switch {
	case burst == 0:
		return "there is no limit, and somebody is over it"
	case used < min(least, first):
		return fmt.Sprintf("somebody is over the limit after %d requests", used)
	case !strings.Contains(p.everSaid(), "coalesce") && time.Duration(seconds-1)*time.Second >= interval:
		return fmt.Sprintf("somebody has to wait for longer than %v, in which there is another event", interval)
	}
	return ""
}

// showsUnknownTokens tells that somebody behind a call's address has shown a token before that the
// homeserver doesn't know.
func showsUnknownTokens(p *plan, r *run, o *outcome) bool {
	return slices.ContainsFunc(r.outcomes, func(other *outcome) bool {
		return p.comesFrom(other.call, o.call) && other.began.Before(o.ended) &&
			slices.ContainsFunc(other.call.tokens(), func(token string) bool {
				for page := range r.hs.Between(other.began, other.ended) {
					if _, known := page.Sessions[token]; !known {
						return true
					}
				}
				return false
			})
	})
}

// everSaid is all that the directive says, now or after a reload.
func (p *plan) everSaid() string {
	all := slices.Clone(p.site.directives)
	for _, s := range p.steps {
		if s.reload != nil {
			all = append(all, s.reload.directives...)
		}
	}
	return strings.Join(all, "\n")
}

// absorbsWhatIsThere: a write that isn't sent on, because it repeats what is there, is there: the homeserver
// shows at that moment what it would show after the write. What has changed behind our back is not known.
func absorbsWhatIsThere(p *plan, r *run, o *outcome) string {
	behind := slices.ContainsFunc(p.steps, func(s step) bool { return s.behind != nil && r.began.Add(s.at).Before(o.ended) })
	if o.lacks == "" || behind || p.site.staging || !p.isWell(r, r.began, o.ended) || p.happens(r, r.began, o.ended) {
		return ""
	}
	return "a write is said to be there already, and the homeserver shows " + o.lacks
}

// isStaleInTroubleOnly: what is stale is shown if the homeserver is in trouble, and not because of
// what a client has sent.
func isStaleInTroubleOnly(p *plan, r *run, o *outcome) string {
	if strings.Contains(o.cacheStatus(), "stale-if-error") && p.isBare() && p.isWell(r, o.began, o.ended) && !p.mayGiveWay(r, o.ended) {
		return "what is stale is shown, and the homeserver is well"
	}
	return ""
}

// givesWay tells of an answer that it is what it is because presence gives way.
func (o *outcome) givesWay() bool { return strings.Contains(o.cacheStatus(), "detail=brown-out") }

// mayGiveWay tells that presence may have given way until a moment: it may at some site, and the homeserver was
// in trouble before. How far depends on chance, also how soon it is back.
func (p *plan) mayGiveWay(r *run, until time.Time) bool {
	return strings.Contains(p.everSaid(), "brown_out on") && !p.isWell(r, r.began, until)
}

// givesWayInTroubleOnly: presence gives way after the homeserver was in trouble, where the site says so, and whoever is
// refused for that may try again soon.
func givesWayInTroubleOnly(p *plan, r *run, o *outcome) string {
	if !o.givesWay() {
		return ""
	}
	on := slices.Contains(p.siteAt(r, o.began).directives, "brown_out on") || p.reloads(r, o.began, o.ended)
	seconds, _ := strconv.Atoi(o.header.Get("Retry-After"))
	switch {
	case !on:
		return "presence gives way at a site that doesn't say so"
	case p.isBare() && p.isWell(r, r.began, o.ended):
		return "presence gives way, and the homeserver has always been well"
	case o.status != http.StatusTooManyRequests && !(o.status == http.StatusOK && o.fromMemory()):
		return "presence gives way by an answer that isn't documented"
	case o.status == http.StatusTooManyRequests && (seconds < 1 || seconds > 10):
		return "presence gives way for how long nobody knows"
	}
	return ""
}

// showsTheStaleForAnError: who was shown a state is shown it again for so long if the homeserver
// fails, and nothing has come between.
func showsTheStaleForAnError(p *plan, r *run, o *outcome) string {
	now := p.siteAt(r, o.began)
	isRead := func(o *outcome) bool {
		return o.call.method == http.MethodGet && o.call.presence && o.call.isPlain() && !o.call.unknownLength && len(o.call.query) == 0 &&
			!slices.Contains(o.call.values, "route=read by HEAD") && strings.HasPrefix(o.call.target, "@") && len(o.call.target) < 255
	}
	if !isRead(o) || o.status < 500 || o.status == http.StatusServiceUnavailable || !strings.Contains(strings.Join(now.cache, "\n"), "stale_if_error 5m") {
		return ""
	}
	before := slices.IndexFunc(r.outcomes, func(other *outcome) bool {
		return isRead(other) && other.status == http.StatusOK && strings.Contains(other.cacheStatus(), "stored") && other.call.token == o.call.token &&
			other.call.target == o.call.target && other.ended.Before(o.began) && other.began.After(o.ended.Add(-4*time.Minute)) && !other.call.staging
	})
	if before < 0 || !isGood(r, o.call, r.began, o.ended) || !p.isBare() || p.happens(r, r.began, o.ended) || p.tables() {
		return ""
	}
	since := r.outcomes[before].began
	if p.reloads(r, r.began, o.ended) || slices.ContainsFunc(r.outcomes, func(other *outcome) bool {
		return other != r.outcomes[before] && other.call.method != http.MethodGet && !other.ended.Before(since) && !other.call.who.hostile ||
			other.call.syncs || (other.status == http.StatusUnauthorized || other.status == http.StatusForbidden) && (other.call.token == o.call.token || other.call.target == o.call.target)
	}) || slices.ContainsFunc(p.steps, func(s step) bool { return s.behind != nil }) {
		return ""
	}
	return fmt.Sprintf("nothing stale is shown for an error, though it was stored by step %d", r.outcomes[before].step)
}

// asksOnce: the homeserver is asked once in a lifetime whose a token is, unless its user or an
// admin may have ended it, or it has refused a request with it.
func asksOnce(p *plan, r *run) string {
	if !p.isBare() || p.tables() {
		return ""
	}
	type credential struct{ token, query string }
	last := make(map[credential]model.Received)
	for _, asked := range r.received {
		if !strings.HasSuffix(asked.Path, "/account/whoami") {
			continue
		}
		token, _ := strings.CutPrefix(asked.Authorization, "Bearer ")
		of := credential{token, asked.Query}
		before, ok := last[of]
		last[of] = asked
		switch gap := asked.At.Sub(before.At); {
		case !ok || gap >= identityTTL:
		case gap < rejectedTTL && p.isRefusedAllTheTime(r, token, before.At, asked.At):
			return fmt.Sprintf("the homeserver is asked again about a locked account that it has refused %v ago, at %v", gap, asked.At.Sub(r.began))
		case !p.mayAskAgain(r, token, asked.Query, before.At, asked.At):
			return fmt.Sprintf("the homeserver is asked again whose a token is that it has told %v ago: %s?%s at %v",
				gap, asked.Path, asked.Query, asked.At.Sub(r.began))
		}
	}
	return ""
}

// isRefusedAllTheTime tells that an account is locked all the time from a moment to another, and
// that nothing but a read may have asked about it.
func (p *plan) isRefusedAllTheTime(r *run, token string, from, to time.Time) bool {
	for page := range r.hs.Between(from, to) {
		if s, known := page.Sessions[token]; !known || s.Appservice || !page.Locked[s.User] {
			return false
		}
	}
	return p.isWell(r, from, to) && !p.reloads(r, from, to) && !p.happens(r, from, to) && !slices.ContainsFunc(r.outcomes, func(o *outcome) bool {
		return o.call.token == token && (o.call.method != http.MethodGet || !o.call.isPlain() || strings.HasSuffix(o.call.path, "/whoami")) &&
			!o.began.After(to) && !o.ended.Before(from)
	})
}

// mayAskAgain tells that there is a reason to ask again whose a token is.
func (p *plan) mayAskAgain(r *run, token, query string, from, to time.Time) bool {
	i := slices.IndexFunc(r.outcomes, func(o *outcome) bool { return o.call.token == token })
	if i < 0 || r.outcomes[i].call.who.hostile || !p.isWell(r, from, to) || p.happens(r, from, to) {
		return true
	}
	who := r.outcomes[i].call.who
	values, _ := url.ParseQuery(query)
	for page := range r.hs.Between(from, to) {
		if _, _, no := r.hs.Viewer(page, token, values.Get("user_id")); no != nil || slices.ContainsFunc(append(who.ghosts, who.user), func(user string) bool { return page.Locked[user] }) {
			return true
		}
	}
	return slices.ContainsFunc(r.outcomes, func(o *outcome) bool {
		if o.began.After(to) || o.ended.Before(from) {
			return false
		}
		shown := slices.Contains(o.call.tokens(), token)
		mayEnd := revoking.MatchString(o.call.path) || strings.HasSuffix(o.call.path, "/whoami")
		return shown && isRefused(o) || mayEnd && (shown || o.call.who == who || o.call.who.name == "admin")
	})
}

// isRefused tells that the homeserver, and not we, refused what a request shows, or may have.
func isRefused(o *outcome) bool {
	return o.status == 0 || o.status == http.StatusUnauthorized && (!o.call.presence || o.cacheStatus() != "")
}
