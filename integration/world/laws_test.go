package world_test

import (
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
// HTTP/3 end in a time that depends on who else has one. A request whose answer is lost is sent again
// for as many connections as idle.
func tookAsLong(o, other *outcome) bool {
	lost := func(o *outcome) bool { return o.status == http.StatusBadGateway && o.body == "" }
	if o.call.protocol == bubble.HTTP3 && o.reloaded || lost(o) && lost(other) {
		return true
	}
	late := o.took() - other.took()
	return -slack < late && late < slack
}

// saysTheSame compares two outcomes of a call. The error for a word that isn't taken names those that
// are, which depends on whether it is known by then which homeserver it is.
func saysTheSame(o, other *outcome) bool {
	return o.status == other.status && o.cacheStatus() == other.cacheStatus() &&
		(o.body == other.body || o.status == http.StatusBadRequest && strings.Contains(o.body, "must be one of") && strings.Contains(other.body, "must be one of"))
}

// isOfAnotherMoment tells of two outcomes of a read that they show one state, of which the homeserver was asked
// at different times, as after somebody had to wait.
func isOfAnotherMoment(o, other *outcome) bool {
	return o.status == http.StatusOK && other.status == http.StatusOK && sinceActive.ReplaceAllString(o.body, "") == sinceActive.ReplaceAllString(other.body, "")
}

var sinceActive = regexp.MustCompile(`"last_active_ago":\d+,?`)

// judge returns what is wrong with the runs of a plan, or "".
func judge(p *plan, direct, ours, peaceful, plain *run) string {
	for _, r := range []*run{direct, ours, peaceful, plain} {
		switch {
		case r.trouble != nil:
			return fmt.Sprintf("Caddy: %v", r.trouble)
		case len(r.tokens) > 0:
			return "a token is in the log: " + r.tokens[0]
		case len(r.panics) > 0 && len(direct.panics) == 0: // intercept does, of a request that nothing answers
			return "a panic: " + r.panics[0]
		}
	}
	for _, law := range []func() string{
		func() string { return passes(p, direct, ours) },
		func() string { return worksWhereItWorks(p, direct, ours) },
		func() string { return leavesItHealthy(p, direct, ours) },
		func() string { return leavesOthersAlone(p, direct, ours, peaceful) },
		func() string { return speaksEachProtocolAlike(p, direct, ours, plain) },
		func() string { return isTrue(p, ours) },
		func() string { return claims(p, ours) },
		func() string { return keepsItsWordAfterRetryAfter(p, ours) },
		func() string { return countsRight(p, ours) },
		func() string { return dropsItsOwnOnly(p, ours) },
		func() string { return staysSmall(p, ours) },
		func() string { return asksLittle(p, direct, ours) },
		func() string { return endsAlike(p, direct, ours) },
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
	others := byStep(direct)
	for _, o := range ours.outcomes {
		other := others[[2]any{o.step, o.again}]
		if o.call.presence || leftAtOnce(o, other) {
			continue
		}
		if other == nil {
			return fmt.Sprintf("a request that isn't about presence has another course than without the module:\n%v", o)
		}
		if o.status != other.status || string(o.text()) != string(other.text()) || !tookAsLong(o, other) {
			return fmt.Sprintf("a request that isn't about presence gets another answer than without the module:\n%v\nwithout it\n%v", o, other)
		}
	}
	return ""
}

// byStep are the outcomes of a run by their step, and whether they are a repeat.
func byStep(r *run) map[[2]any]*outcome {
	by := make(map[[2]any]*outcome)
	for _, o := range r.outcomes {
		by[[2]any{o.step, o.again}] = o
	}
	return by
}

// worksWhereItWorks: a request about presence that gets an answer without the module is no error of a
// server's with it, as long as the homeserver is well.
func worksWhereItWorks(p *plan, direct, ours *run) string {
	if unhealthy(direct) || unhealthy(ours) {
		return ""
	}
	others := byStep(direct)
	for _, o := range ours.outcomes {
		other := others[[2]any{o.step, o.again}]
		if !o.call.presence || o.call.staging || other == nil || leftAtOnce(o, other) || !p.isWell(ours, o.began, o.ended) {
			continue
		}
		failed := func(o *outcome) bool { return o.status == 0 || o.status >= http.StatusInternalServerError }
		if failed(o) && !failed(other) {
			return fmt.Sprintf("a request about presence fails that doesn't without the module:\n%v\nwithout it\n%v", o, other)
		}
	}
	return ""
}

// leavesItHealthy: if nothing fails without the module, Caddy's health checks take the homeserver for down
// with it neither. A homeserver that itself fails like that, and only later, may have been asked with it
// only: a read that had to wait for a whoami comes then.
func leavesItHealthy(p *plan, direct, ours *run) string {
	if slices.ContainsFunc(p.steps, func(s step) bool { return s.mood != nil && s.mood.failsLikeCaddy() }) {
		return ""
	}
	fails := func(o *outcome) bool { return o.status == 0 || o.status >= http.StatusInternalServerError }
	if slices.ContainsFunc(direct.outcomes, fails) || !unhealthy(ours) {
		return ""
	}
	return "Caddy takes the homeserver for down, which it doesn't without the module"
}

// leavesOthersAlone: those who have no account change nothing for those who have one, unless Caddy
// itself lets them: with its passive health checks, a request that the homeserver drops ends all.
func leavesOthersAlone(p *plan, direct, ours, peaceful *run) string {
	if unhealthy(direct) || unhealthy(ours) || p.tiny() {
		return ""
	}
	others, waited := byStep(peaceful), false
	for _, o := range ours.outcomes {
		other := others[[2]any{o.step, o.again}]
		if o.call.who.hostile || leftAtOnce(o, other) || o.call.presence && p.mayGiveWay(ours, o.ended) || sharesItsAddress(p, ours, o) || other != nil && sharesItsAddress(p, peaceful, other) {
			continue
		}
		if other == nil {
			return fmt.Sprintf("somebody without an account changes the course of another's request:\n%v", o)
		}
		inTime := tookAsLong(o, other)
		waited = waited || !inTime
		if !saysTheSame(o, other) && !(waited && isOfAnotherMoment(o, other)) || !inTime && !waitsItsTurn(p, ours, o, peaceful, other) {
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
	if with, without := honest(ours.received), honest(peaceful.received); with > without+aside && !p.mayGiveWay(ours, ours.ended()) {
		return fmt.Sprintf("somebody without an account has the homeserver asked on behalf of others: %d times, not %d", with, without)
	}
	return ""
}

// tiny tells that tables are so small that what has room in them is chance: their parts are chosen
// by a hash that is another each time.
func (p *plan) tiny() bool {
	return p.site.tokens > 0 || slices.ContainsFunc(p.steps, func(s step) bool { return s.reload != nil && s.reload.tokens > 0 })
}

// sharesItsAddress tells of a call that its token is unknown, not yet known or perhaps forgotten: it has
// its address's budget, which those without an account may have used up.
func sharesItsAddress(p *plan, r *run, o *outcome) bool {
	limited := o.status == http.StatusTooManyRequests || o.again
	return limited && (!isKnown(p, r, o) || p.tables() || !isGood(r, o.call, o.began, o.ended))
}

// isKnown tells of a call that its token has been used with success since Caddy began, and that the homeserver
// then said whose it is. In mode observe nothing waits for that.
func isKnown(p *plan, r *run, o *outcome) bool {
	since := p.restarted(r, o.began)
	return slices.ContainsFunc(r.outcomes, func(other *outcome) bool {
		return other.call.token == o.call.token && other.call.presence && other.status == http.StatusOK && other.began.After(since) && other.ended.Before(o.began) &&
			!p.siteAt(r, other.began).observes() && !strings.Contains(other.cacheStatus(), "unknown-identity")
	})
}

// comesFrom tells of a call that it is from the address of another, as far as Caddy knows.
func (p *plan) comesFrom(c, other *call) bool {
	return p.site.door == bubble.Unix || c.who.address.Equal(other.who.address)
}

const (
	// askedAtOnce is of how many unknown tokens of one address the homeserver is asked at a time.
	askedAtOnce = 8

	// askTimeout is for how long it is asked about one.
	askTimeout = 10 * time.Second
)

// waitsItsTurn tells of a call whose token isn't known yet that it is later by no more than it takes to
// ask about the made-up tokens of its own address that came in the minute before: so many have a
// place at a time, and the next ones wait until one is free. Whose token is known never waits for these. Its own neighbours,
// too, are unknown where the address's budget was used up when they came before. If more unknown tokens than there are
// places came from its address in the other run, who of them waits is chance.
func waitsItsTurn(p *plan, r *run, o *outcome, calm *run, without *outcome) bool {
	ahead := 0
	for _, other := range r.outcomes {
		if other.call.who.hostile && p.comesFrom(other.call, o.call) && !other.began.After(o.ended) && other.began.After(o.began.Add(-time.Minute)) {
			ahead++
		}
	}
	if beside := unknownBeside(p, r, o); beside > askedAtOnce {
		ahead += beside
	}
	early := 0
	if beside := unknownBeside(p, calm, without); beside > askedAtOnce {
		ahead, early = ahead+beside, beside
	}
	late := o.took() - without.took()
	return !isKnown(p, r, o) && late >= -turns(early) && late <= turns(ahead)
}

// turns is how long it takes at most to ask about so many tokens of one address.
func turns(tokens int) time.Duration {
	return time.Duration((tokens+askedAtOnce-1)/askedAtOnce) * askTimeout
}

// unknownBeside counts the calls from an outcome's address that were under way beside it, it among them, and whose
// tokens weren't known.
func unknownBeside(p *plan, r *run, o *outcome) (n int) {
	for _, other := range r.outcomes {
		if p.comesFrom(other.call, o.call) && !other.began.After(o.ended) && !other.ended.Before(o.began) && !isKnown(p, r, other) {
			n++
		}
	}
	return n
}

// failsLikeCaddy tells of a homeserver that it answers as Caddy does that has taken it for down.
func (m *mood) failsLikeCaddy() bool {
	says := m.presence.Says
	return says != nil && says.Status == http.StatusServiceUnavailable && says.Body == ""
}

// unhealthy tells that Caddy has taken the homeserver for down.
func unhealthy(r *run) bool {
	return slices.ContainsFunc(r.outcomes, func(o *outcome) bool {
		return o.status == http.StatusServiceUnavailable && (o.body == "" || o.body == "sorry")
	})
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
func speaksEachProtocolAlike(p *plan, direct, ours, plain *run) string {
	if p.tiny() || unhealthy(ours) || unhealthy(plain) {
		return ""
	}
	for _, o := range direct.outcomes {
		if o.status == 0 && o.call.patience == 0 && !o.call.cutOff || o.status == http.StatusRequestHeaderFieldsTooLarge {
			return "" // what it might have done is not done
		}
		if o.reloaded && o.call.slow {
			return "" // Caddy drops what it hasn't read, by one protocol and not by another
		}
	}
	others := byStep(plain)
	for _, o := range ours.outcomes {
		other := others[[2]any{o.step, o.again}]
		if o.call.presence && p.mayGiveWay(ours, o.ended) {
			continue
		}
		if leftAtOnce(o, other) || o.call.slow && (o.reloaded || other != nil && other.reloaded) {
			continue // Caddy closes a connection of HTTP/1.1 on which a body is still to come, also behind an answer
		}
		if other == nil {
			return fmt.Sprintf("a request has another course over HTTP/1.1:\n%v", o)
		}
		if !saysTheSame(o, other) {
			return fmt.Sprintf("a request is answered otherwise over HTTP/1.1:\n%v\nover HTTP/1.1\n%v", o, other)
		}
	}
	return ""
}

// keepsItsWordAfterRetryAfter: who waits as long as a 429 says gets through, if nobody has used
// the budget meanwhile.
func keepsItsWordAfterRetryAfter(p *plan, r *run) string {
	for i, o := range r.outcomes {
		if !o.again || o.status != http.StatusTooManyRequests || strings.Contains(o.cacheStatus(), "fwd=") {
			continue
		}
		before := r.outcomes[i-1]
		if disturbed(p, r, before, o) || sharesItsAddress(p, r, o) || before.givesWay() || o.givesWay() {
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
			// What was announced is good under another limit, too, but for writes that wait meanwhile.
			return strings.Contains(p.everSaid(), "coalesce")
		}
	}
	for _, o := range r.outcomes {
		if o != from && o != to && o.call.presence && o.ended.After(from.began) && o.began.Before(to.ended) &&
			(o.call.user == to.call.user || p.comesFrom(o.call, to.call)) {
			return true
		}
	}
	return false
}
