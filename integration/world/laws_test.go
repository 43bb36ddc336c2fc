package world_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/bubble"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/model"
)

// leftAtOnce tells of two outcomes of a call whose client leaves that in one of them it left. What
// comes in that very moment may come before or after.
func leftAtOnce(o, other *outcome) bool {
	left := func(o *outcome) bool { return o != nil && o.took() >= o.call.patience }
	return o.call.patience > 0 && (left(o) || left(other))
}

// slack is how much longer something may take: HTTP/3 has timers of its own.
const slack = 100 * time.Millisecond

// tookAsLong compares the times of two outcomes of a call. When Caddy reloads, its connections of
// HTTP/3 end in a time that depends on who else has one.
func tookAsLong(o, other *outcome) bool {
	if o.call.protocol == bubble.HTTP3 && o.reloaded {
		return true
	}
	late := o.took() - other.took()
	return -slack < late && late < slack
}

// judge returns what is wrong with the runs of a plan, or "".
func judge(p *plan, direct, ours, peaceful, plain *run) string {
	for _, r := range []*run{direct, ours, peaceful, plain} {
		switch {
		case r.trouble != nil:
			return fmt.Sprintf("Caddy: %v", r.trouble)
		case len(r.tokens) > 0:
			return "a token is in the log: " + r.tokens[0]
		case len(r.panics) > 0:
			return "a panic: " + r.panics[0]
		}
	}
	for _, law := range []func() string{
		func() string { return passes(p, direct, ours) },
		func() string { return leavesOthersAlone(direct, ours, peaceful) },
		func() string { return speaksEachProtocolAlike(direct, ours, plain) },
		func() string { return isTrue(p, ours) },
		func() string { return keepsItsWordAfterRetryAfter(p, ours) },
	} {
		if wrong := law(); wrong != "" {
			return wrong
		}
	}
	return ""
}

// passes: a request that is not about presence is answered as without the module, as soon.
func passes(p *plan, direct, ours *run) string {
	if unhealthy(direct) {
		return "" // what we spare the homeserver makes it look healthier
	}
	others := make(map[[2]any]*outcome)
	for _, o := range direct.outcomes {
		others[[2]any{o.step, o.again}] = o
	}
	for _, o := range ours.outcomes {
		other := others[[2]any{o.step, o.again}]
		if o.call.presence || leftAtOnce(o, other) {
			continue
		}
		if other == nil {
			return fmt.Sprintf("a request that isn't about presence has another course than without the module:\n%v", o)
		}
		if o.status != other.status || o.body != other.body || !tookAsLong(o, other) {
			return fmt.Sprintf("a request that isn't about presence gets another answer than without the module:\n%v\nwithout it\n%v", o, other)
		}
	}
	return ""
}

// leavesOthersAlone: those who have no account change nothing for those who have one, unless Caddy
// itself lets them: with its passive health checks, a request that the homeserver drops ends all.
func leavesOthersAlone(direct, ours, peaceful *run) string {
	if unhealthy(direct) {
		return ""
	}
	others := make(map[[2]any]*outcome)
	for _, o := range peaceful.outcomes {
		others[[2]any{o.step, o.again}] = o
	}
	for _, o := range ours.outcomes {
		other := others[[2]any{o.step, o.again}]
		if o.call.who.hostile || leftAtOnce(o, other) {
			continue
		}
		if other == nil {
			return fmt.Sprintf("somebody without an account changes the course of another's request:\n%v", o)
		}
		if o.status != other.status || o.body != other.body || o.cacheStatus() != other.cacheStatus() || !tookAsLong(o, other) {
			return fmt.Sprintf("somebody without an account changes another's answer:\n%v\nwithout that\n%v", o, other)
		}
	}
	// Whose a request is that isn't about presence is asked for beside it, which may be too late.
	aside := 0
	for _, o := range peaceful.outcomes {
		if !o.call.presence {
			aside++
		}
	}
	if with, without := honest(ours.received), honest(peaceful.received); with > without+aside {
		return fmt.Sprintf("somebody without an account has the homeserver asked on behalf of others: %d times, not %d", with, without)
	}
	return ""
}

// unhealthy tells that Caddy has taken the homeserver for down.
func unhealthy(r *run) bool {
	return slices.ContainsFunc(r.outcomes, func(o *outcome) bool { return o.status == http.StatusServiceUnavailable })
}

// honest counts the requests to the homeserver with a token that is no made-up one.
func honest(received []model.Received) (n int) {
	for _, r := range received {
		if strings.Contains(r.Authorization, bubble.TokenMark) && !strings.Contains(r.Authorization, "made-up") {
			n++
		}
	}
	return n
}

// speaksEachProtocolAlike: an answer doesn't depend on the protocol that asks for it. Caddy
// itself takes larger heads over one than over another.
func speaksEachProtocolAlike(direct, ours, plain *run) string {
	for _, o := range direct.outcomes {
		if o.status == 0 && o.call.patience == 0 || o.status == http.StatusRequestHeaderFieldsTooLarge {
			return "" // what it might have done is not done
		}
	}
	others := make(map[[2]any]*outcome)
	for _, o := range plain.outcomes {
		others[[2]any{o.step, o.again}] = o
	}
	for _, o := range ours.outcomes {
		other := others[[2]any{o.step, o.again}]
		if leftAtOnce(o, other) {
			continue
		}
		if other == nil {
			return fmt.Sprintf("a request has another course over HTTP/1.1:\n%v", o)
		}
		if o.status != other.status || o.body != other.body || o.cacheStatus() != other.cacheStatus() {
			return fmt.Sprintf("a request is answered otherwise over HTTP/1.1:\n%v\nover HTTP/1.1\n%v", o, other)
		}
	}
	return ""
}

// isTrue: what a reader is shown was so within the time that the configuration promises, the
// reader might see it within that, and the token was good.
func isTrue(p *plan, r *run) string {
	for _, o := range r.outcomes {
		if !o.call.presence || o.call.staging || o.call.method != http.MethodGet || o.status != http.StatusOK {
			continue
		}
		if wrong := p.stateIsTrue(r, o); wrong != "" {
			return fmt.Sprintf("%s:\n%v", wrong, o)
		}
	}
	return ""
}

const (
	ttl         = 30 * time.Second
	identityTTL = 2 * time.Minute
)

func (p *plan) stateIsTrue(r *run, o *outcome) string {
	var shown struct {
		Presence, Message string
		Ago               int64 `json:"last_active_ago"`
	}
	var body map[string]any
	if json.Unmarshal([]byte(o.body), &body) != nil || json.Unmarshal([]byte(o.body), &shown) != nil {
		return "a state that is no JSON"
	}
	shown.Message, _ = body["status_msg"].(string)
	stale := time.Duration(0)
	if strings.Contains(o.cacheStatus(), "stale-if-error") {
		stale = 5 * time.Minute
	}
	token := o.call.token
	from := o.ended.Add(-identityTTL - stale)
	for _, other := range r.outcomes {
		if at, ended := r.endsToken(other, token); ended && other.ended.Before(o.began) {
			from = latest(from, at)
		}
	}
	viewer := ""
	for at := range r.hs.Between(from, o.ended) {
		if user, _, no := r.hs.Viewer(at, token, o.call.as); no == nil {
			viewer = user
		}
	}
	if viewer == "" {
		return "a state for a token that is nobody's"
	}
	visible := false
	for at := range r.hs.Between(o.ended.Add(-ttl-stale), o.ended) {
		visible = visible || r.hs.MaySee(at, viewer, o.call.target)
	}
	if !visible {
		return "a state that the reader may not see"
	}
	from = o.began.Add(-ttl - stale)
	if o.fromMemory() {
		from = o.ended.Add(-ttl - stale)
	}
	for _, other := range r.outcomes {
		if acknowledges(other, o.call.target) && other.ended.Before(o.began) {
			from = latest(from, r.hs.Wrote(o.call.target, other.ended, true))
		}
	}
	if state := (model.State{Presence: shown.Presence, Message: shown.Message}); !r.hs.Ever(o.call.target, state, from, o.ended) {
		return fmt.Sprintf("the state was not so within its time: in the last %v it was %q", o.ended.Sub(from), r.hs.States(o.call.target, from, o.ended))
	}
	return ""
}

// revoking are the paths by which tokens end.
var revoking = regexp.MustCompile(`/(logout|logout/all|devices/[^/]*|delete_devices|login|deactivate/[^/]*|revoke)$`)

// endsToken tells that a request was answered by which a token has ended, and when.
func (r *run) endsToken(o *outcome, token string) (at time.Time, ended bool) {
	if o.status < 200 || o.status >= 300 || !revoking.MatchString(o.call.path) {
		return time.Time{}, false
	}
	for page := range r.hs.Between(o.began, o.ended) {
		if _, good := page.Sessions[token]; good && !page.Until.IsZero() && !page.Until.After(o.ended) {
			return page.Until, true
		}
	}
	return time.Time{}, false
}

// acknowledges tells that the homeserver has acknowledged a write of a presence.
func acknowledges(o *outcome, target string) bool {
	return o.call.presence && o.call.method == http.MethodPut && o.call.target == target && o.status == http.StatusOK &&
		strings.Contains(o.cacheStatus(), "fwd=")
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// keepsItsWordAfterRetryAfter: who waits as long as a 429 says gets through, if nobody has used
// the budget meanwhile and it has not been lowered.
func keepsItsWordAfterRetryAfter(p *plan, r *run) string {
	for i, o := range r.outcomes {
		if !o.again || o.status != http.StatusTooManyRequests {
			continue
		}
		before := r.outcomes[i-1]
		if disturbed(p, r, before, o) {
			continue
		}
		return fmt.Sprintf("a request gets a 429 after the time that a 429 said to wait:\n%v\n%v", before, o)
	}
	return ""
}

// disturbed tells that something else has happened between two calls that may have used the
// budget.
func disturbed(p *plan, r *run, from, to *outcome) bool {
	for _, s := range p.steps {
		if at := r.began.Add(s.at); s.reload != nil && at.After(from.began) && at.Before(to.ended) {
			return !raises(s.reload)
		}
	}
	for _, o := range r.outcomes {
		if o != from && o != to && o.call.presence && o.ended.After(from.began) && o.began.Before(to.ended) &&
			(o.call.user == to.call.user || o.call.who.address.Equal(to.call.who.address)) {
			return true
		}
	}
	return false
}

// raises tells that a site's limits are as large as any.
func raises(s *site) bool { return strings.Contains(strings.Join(s.directives, "\n"), "limit off") }
