package world_test

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/model"
)

// isTrue: what a reader is shown was so within the time that the configuration promises, the
// reader might see it within that, and the token that they showed was good, also if they said of it that
// it is for Caddy only.
func isTrue(p *plan, r *run) string {
	for _, o := range r.outcomes {
		if !o.call.presence || o.call.method != http.MethodGet || o.status != http.StatusOK {
			continue
		}
		if wrong := p.stateIsTrue(r, o); wrong != "" {
			return fmt.Sprintf("%s:\n%v", wrong, o)
		}
	}
	return ""
}

func (p *plan) stateIsTrue(r *run, o *outcome) string {
	state, ok := o.shown()
	path, hs := o.call.path, r.at(o.call)
	if p.site.prefix != "" && !o.call.staging {
		path = strings.Replace(path, "//", "/", 1) // as Caddy does where it takes the prefix away
	}
	target, served := p.dialect.Target(path)
	switch {
	case !o.fromMemory() && !ok:
		return "" // what the homeserver says
	case !ok:
		return "a state that is none"
	case !served:
		return "a state by a path that the homeserver doesn't serve"
	}
	stale := time.Duration(0)
	if strings.Contains(o.cacheStatus(), "stale-if-error") {
		stale = staleTTL
	}
	token, as := o.call.shows(p.dialect)
	if !o.fromMemory() && !strings.Contains(o.cacheStatus(), "fwd=miss") {
		token = o.call.sends(p.dialect) // it was the client's own request
	}
	from := latest(o.ended.Add(-identityTTL-stale), p.woke(r, o))
	for _, other := range r.outcomes {
		if at, ended := r.endsToken(p, other, token); ended && other.ended.Before(o.began) && !o.call.staging {
			from = latest(from, at)
		}
	}
	viewer, guest := "", false
	for at := range hs.Between(from, o.ended) {
		if user, _, no := hs.Viewer(at, token, as); no == nil {
			viewer, guest = user, at.Sessions[token].Guest
		}
	}
	switch {
	case viewer == "":
		return "a state for a token that is nobody's"
	case guest && p.dialect.Name != "tuwunel":
		return "a state for a guest"
	}
	visible, off := false, false
	for at := range hs.Between(latest(o.ended.Add(-ttl-stale), p.woke(r, o)), o.ended) {
		visible = visible || hs.MaySee(at, viewer, target)
		off = off || at.PresenceOff && p.dialect.Name == "synapse"
	}
	if !visible {
		return "a state that the reader may not see"
	}
	age := ttl + stale
	if o.givesWay() {
		age = p.siteAt(r, o.began).olderTTL()
	}
	from = o.began.Add(-age)
	if o.fromMemory() {
		from = o.ended.Add(-age)
	}
	from = latest(from, p.woke(r, o))
	for _, other := range r.outcomes {
		if acknowledges(other, target) && other.call.staging == o.call.staging && other.ended.Before(o.began) {
			from = latest(from, hs.Wrote(target, other.ended))
		}
	}
	if off && state == (model.State{Presence: "offline"}) || hs.Ever(target, state, from, o.ended) {
		return ""
	}
	return fmt.Sprintf("the state was not so within its time: in the last %v it was %q", o.ended.Sub(from), hs.States(target, from, o.ended))
}

// text is the body, unpacked: a login goes without its Accept-Encoding, for its answer to be read.
func (o *outcome) text() []byte {
	if o.header.Get("Content-Encoding") != "gzip" {
		return []byte(o.body)
	}
	packed, err := gzip.NewReader(strings.NewReader(o.body))
	if err != nil {
		return []byte(o.body)
	}
	text, err := io.ReadAll(packed)
	if err != nil {
		return []byte(o.body)
	}
	return text
}

// shown is the presence in an answer.
func (o *outcome) shown() (state model.State, ok bool) {
	var shown struct {
		Presence string
		Message  string `json:"status_msg"`
	}
	err := json.Unmarshal(o.text(), &shown)
	return model.State{Presence: shown.Presence, Message: shown.Message}, err == nil && shown.Presence != ""
}

// woke is when the machine last woke from a suspend before a request, or the zero time. Whatever is
// in memory then is as old as the world outside.
func (p *plan) woke(r *run, o *outcome) (at time.Time) {
	for _, s := range p.steps {
		if began := r.began.Add(s.at); s.machine != nil && s.machine.leap >= hour && began.Before(o.began) {
			at = began
		}
	}
	return at
}

// revoking are the paths by which tokens end.
var revoking = regexp.MustCompile(`/(logout|logout/all|devices/[^/]*|delete_devices|login|deactivate/[^/]*|revoke|refresh)$`)

// endsToken tells that a request was answered by which a token has ended, and when.
func (r *run) endsToken(p *plan, o *outcome, token string) (at time.Time, ended bool) {
	if o.status < 200 || o.status >= 300 || !revoking.MatchString(o.call.path) {
		return time.Time{}, false
	}
	if shown := o.call.sends(p.dialect); strings.HasSuffix(o.call.path, "/refresh") && shown != token {
		return time.Time{}, false // it says nothing of the token that it ends
	}
	// A homeserver may answer in the moment in which the request began.
	for page := range r.hs.Between(o.began.Add(-1), o.ended) {
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
