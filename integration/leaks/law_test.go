package leaks_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// lifetimes are those of the configuration.
type lifetimes struct {
	ttl, forbidden, stale, settle time.Duration
	identity, rejected            time.Duration
	live                          time.Duration // 0: there is no feed
}

// court judges answers by the history of the world.
//
// An answer that ended at t may rest on what was true
//
//   - while its request was under way: the homeserver itself might have
//     answered so;
//   - less than a lifetime before t, if it came from memory;
//   - or less than the longer one of what a feed covers, if it hasn't lost anything since.
//
// Whatever a feed has told of, an answer to a later request can't rest on what was before.
type court struct {
	hs    *homeserver
	rules lifetimes

	// identity is the longest that has been configured: what is known of a
	// token keeps the end that it was given.
	identity time.Duration

	// strict tells that the tables are large enough to forget no refusal.
	strict bool

	revocations []*exchange
	refusals    []refused
	seen        *tally
}

// refused is a refusal of a viewer that was delivered.
type refused struct {
	viewer, target string
	arrived, ended time.Time // at the homeserver, and at the client
}

// window returns the moment after which something may have been true that has a
// lifetime. What ended in the very moment of the request may have come after it.
func window(x *exchange, lifetime time.Duration) time.Time {
	if lo := x.ended.Add(-lifetime); lo.Before(x.began) {
		return lo
	}
	return x.began.Add(-1)
}

// viewers returns for whom the homeserver would have taken the credential, at some
// moment at which that may still be believed.
func (c *court) viewers(x *exchange) (viewers []string) {
	lifetime := c.identity
	if c.hs.troubled(span{x.began, x.ended}) {
		// While the homeserver doesn't tell, who was known may read what is stale.
		lifetime += c.rules.stale
	}
	lo := window(x, lifetime)
	for _, revocation := range c.revocations {
		done, ok := c.hs.effectOf(revocation)
		if !ok || !revocation.ended.Before(x.began) || !c.takesEffect(revocation, done, x) {
			continue
		}
		_, before := c.hs.viewer(done.before, &x.in)
		_, after := c.hs.viewer(done.after, &x.in)
		if before == nil && after != nil && done.at.After(lo) {
			lo = done.at
		}
	}
	lo = latest(lo, c.hs.feed.lastTold(x.began, func(of *told) bool { return of.token != "" && of.token == x.in.shown.token }))
	for w := range c.hs.between(lo, x.ended) {
		if user, no := c.hs.viewer(w, &x.in); no == nil && !slices.Contains(viewers, user) {
			viewers = append(viewers, user)
		}
	}
	return viewers
}

// takesEffect reports whether a revocation must be known at once to a later request: it
// was answered, and whose sessions it ended could be known; or it wasn't but had happened
// before the client went away, and the request shows the same token.
func (c *court) takesEffect(revocation *exchange, done effect, later *exchange) bool {
	own := revocation.in.shown.token == later.in.shown.token
	switch succeeded := revocation.status >= 200 && revocation.status < 300; {
	case succeeded && (revocation.in.path == "logout" || revocation.in.of == ofAdmin):
		return true
	case succeeded:
		// Whose they are may not be known yet. The homeserver is asked meanwhile, unless it
		// reads the credential in more than one way, and may say that the token has ended. By
		// mail nobody is named.
		_, no := c.hs.viewer(done.after, &revocation.in)
		return own || revocation.plain && no == nil && !c.hs.troubled(span{revocation.began, revocation.ended})
	case done.at.After(revocation.ended) || revocation.status != 0 && revocation.status < 500 || revocation.in.of == ofAdmin:
		return false
	}
	return own
}

// since returns from when on what a lifetime is about must have been true of a viewer and the target. The
// longer one is of what a feed covers.
func (c *court) since(x *exchange, viewer string, lifetime, covered time.Duration) time.Time {
	lo := window(x, lifetime)
	if whole := c.hs.feed.wholeAt(x.began); c.rules.live > 0 && !whole.IsZero() {
		if live := latest(window(x, covered), whole); live.Before(lo) {
			lo = live
		}
	}
	return latest(lo, c.hs.feed.lastTold(x.began, func(of *told) bool { return of.who == viewer || of.who == x.in.target }))
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// permitted returns when a viewer could last see the target within a lifetime.
func (c *court) permitted(x *exchange, viewer string, lo time.Time) (last time.Time, ok bool) {
	for w := range c.hs.between(lo, x.ended) {
		if c.hs.maySee(w, viewer, x.in.target) {
			if w.until.IsZero() || w.until.After(x.ended) {
				return x.ended, true
			}
			return w.until, true
		}
	}
	return time.Time{}, false
}

// judge returns what is wrong with an answer, or "".
func (c *court) judge(x *exchange) string {
	if x.holdsToken() {
		return "a token is in the answer"
	}
	if x.status == 0 {
		return ""
	}
	if x.method == http.MethodGet || x.method == http.MethodHead {
		if x.isPassing() {
			return "" // the homeserver's, byte for byte
		}
		c.seen.reads++
		if x.status < 400 {
			return c.judgeState(x)
		}
	} else if x.in.of == ofPresence {
		if wrong := c.judgeWrite(x); wrong != "" {
			return wrong
		}
	}
	return c.judgeError(x)
}

// isPassing tells of a request that isn't about presence, to which the homeserver has an answer.
func (x *exchange) isPassing() bool {
	return x.parsed && x.in.of == ofAccount && (x.in.path == "sync" || listRoute.MatchString(x.in.path))
}

// judgeState judges an answer to a read that is no error.
func (c *court) judgeState(x *exchange) string {
	switch {
	case !x.parsed || x.in.of != ofPresence:
		if x.in.of == ofAccount && x.in.path == "account/whoami" && !strings.Contains(x.answer, stateMark) {
			return ""
		}
		return "an answer where the homeserver has none"
	case x.method == http.MethodHead && x.answer != "":
		return "a body in answer to HEAD"
	}
	viewers := c.viewers(x)
	fromMemory := strings.Contains(x.cacheStatus(), "; hit")
	c.seen.state(x, fromMemory)
	if len(viewers) == 0 {
		return "a state for a credential that is nobody's"
	}

	lifetime := c.rules.ttl
	if strings.Contains(x.cacheStatus(), "stale-if-error") {
		// The viewer must have been permitted when the state was true.
		age := c.rules.stale
		if x.method == http.MethodGet {
			age = x.age()
		}
		if age > c.rules.stale {
			return "a state that is too stale"
		}
		lifetime += age
	}
	var entitled []string
	var oldest time.Duration
	for _, viewer := range viewers {
		lo := c.since(x, viewer, lifetime, c.rules.live+lifetime-c.rules.ttl)
		if c.strict {
			for _, r := range c.refusals {
				if r.viewer == viewer && r.target == x.in.target && r.ended.Before(x.began) && r.arrived.After(lo) {
					lo = r.arrived
				}
			}
		}
		if last, ok := c.permitted(x, viewer, lo); ok {
			entitled = append(entitled, viewer)
			if fromMemory && x.age() > lifetime {
				c.seen.byFeed++
			}
			oldest = max(oldest, x.ended.Sub(last))
		}
	}
	if len(entitled) == 0 {
		return fmt.Sprintf("a state that none of %q may see", viewers)
	}
	if fromMemory {
		c.seen.age(c, x, oldest)
	}
	if x.method == http.MethodHead {
		return ""
	}
	var state struct {
		Message string `json:"status_msg"`
	}
	if err := json.Unmarshal([]byte(x.answer), &state); err != nil {
		return "a state that is none: " + err.Error()
	}
	for _, viewer := range entitled {
		if !c.hs.perViewer {
			viewer = ""
		}
		if state.Message == stateMark+x.in.target+" for "+viewer {
			return ""
		}
	}
	return fmt.Sprintf("a state of somebody else's, or for somebody else; entitled are %q to %s", entitled, x.in.target)
}

// age returns how long a state has been in memory, which last_active_ago has grown by.
func (x *exchange) age() time.Duration {
	var state struct {
		Ago int64 `json:"last_active_ago"`
	}
	if json.Unmarshal([]byte(x.answer), &state) != nil {
		return 0
	}
	return time.Duration(state.Ago+1)*time.Millisecond - activeAgo // rounded up
}

// judgeWrite judges the answer to a write. Whether it arrived is for the homeserver to
// see.
func (c *court) judgeWrite(x *exchange) string {
	viewers := c.viewers(x)
	switch {
	case x.status >= 300:
		c.seen.writesRefused++
	case !slices.Contains(viewers, x.in.target):
		return fmt.Sprintf("a write of another's presence succeeded; it is by one of %q", viewers)
	default:
		c.seen.writes++
	}
	return ""
}

// judgeError judges whom an error is for.
func (c *court) judgeError(x *exchange) string {
	if strings.Contains(x.answer, stateMark) {
		return "a state in an error"
	}
	var body struct {
		Errcode string
		Stamp   *stamp
	}
	if json.Unmarshal([]byte(x.answer), &body) != nil || body.Stamp == nil {
		return ""
	}
	s := body.Stamp
	own := s.Token == fingerprint(x.in.shown.token)
	if s.Viewer != "" { // the credential was good
		if viewers := c.viewers(x); !own && !slices.Contains(viewers, s.Viewer) {
			return fmt.Sprintf("a refusal of %s for %q", s.Viewer, viewers)
		}
		if s.Target != x.in.target {
			return "a refusal for another target"
		}
		c.seen.refusals++
		if strings.Contains(x.cacheStatus(), "; hit") {
			c.seen.refusalsFromMemory++
		}
		if x.method == http.MethodGet && strings.Contains(x.cacheStatus(), "fwd=miss") {
			c.refusals = append(c.refusals, refused{s.Viewer, s.Target, c.hs.arrival(s.N), x.ended})
		}
		return ""
	}
	if strings.Contains(x.cacheStatus(), "; hit") && body.Errcode == c.hs.hidden.errcode && slices.Contains(c.viewers(x), s.Would) {
		// To a read, that an appservice may not act for a user looks like that the
		// user may not see the target, and is kept as that.
		return ""
	}
	if !own {
		return "an error for another's token"
	}
	// To an ordinary token they mean nothing, and the device to some homeservers. Requests of ours leave out
	// what means nothing once that is known.
	means := c.hs.now().sessions[x.in.shown.token].appservice
	otherDevice := s.Device != x.in.shown.device && !c.hs.deviceless
	if means && body.Errcode != unknownToken.errcode && (s.User != x.in.shown.user || otherDevice) {
		return "an error for other parameters of this token"
	}
	c.seen.credentialsRefused++
	return ""
}

// judgeRefusal judges the refusal of a read of which all is known: it was alone, its
// spelling is plain and the homeserver is well.
func (c *court) judgeRefusal(x *exchange) string {
	if !x.alone || !x.plain || x.in.of != ofPresence || x.method != http.MethodGet || x.status < 400 || x.status == 429 ||
		c.hs.troubled(span{x.began, x.ended}) {
		return ""
	}
	w := c.hs.now()
	user, no := c.hs.viewer(w, &x.in)
	switch {
	case no != nil:
		// It is revoked, at once or once its lifetime is over. What is kept of the
		// viewer may be told until then.
		if x.status != no.status && len(c.viewers(x)) == 0 {
			return fmt.Sprintf("status %d, where the homeserver says %d", x.status, no.status)
		}
		if x.status == no.status {
			c.seen.revokedRefused++
		}
	case x.status == 401:
		for w := range c.hs.between(window(x, c.rules.rejected), x.ended) {
			if _, no := c.hs.viewer(w, &x.in); no != nil {
				return ""
			}
		}
		return "a good token is rejected"
	case x.status == c.hs.hidden.status:
		if c.hs.feed.lastTold(x.began, func(of *told) bool { return of.who == user || of.who == x.in.target }).After(window(x, c.rules.ttl)) {
			c.seen.refetched++
		}
		for w := range c.hs.between(c.since(x, user, c.rules.forbidden, c.rules.live), x.ended) {
			if !c.hs.maySee(w, user, x.in.target) {
				return ""
			}
		}
		return "a refusal outlives its lifetime"
	default:
		return fmt.Sprintf("status %d to %s, who may", x.status, user)
	}
	return ""
}
