package gateway

import "github.com/caddy-matrix/caddy-matrix-presence/cache"

// What a fetch has brought was asked for by one reader, with one credential. Of the others who have
// waited for it, mayShare says who may have it.

// sharing is what is known of what a fetch has brought, and of a reader who has waited for it.
type sharing struct {
	own         bool // it was made for this reader
	answered    bool // it is an answer, and not that there is none to share
	remembered  bool // by another's, which had come into memory before this one departed
	ofOneClient bool // it may be due to the client that it was made for
	stale       bool // it failed, and this reader can be served a stale answer

	// Whether others may have it. Of a reader's own there is no question, unless it is remembered.
	known         bool // it is still true, and sure, on whose behalf the reader acts
	fresh         bool // it was asked for less than ttl ago
	permitted     bool // the reader's permission is fresh
	perCredential bool // it is about the credential with which it was asked for
	byTarget      bool // it is shared by all readers whose permission was fresh, and not by one credential's
	denied        bool // not byTarget, and since it was asked for the reader has been told otherwise, or may be by now
}

// shareVerdict is what becomes of a reader who has waited for a fetch.
type shareVerdict int

const (
	shareAnswer shareVerdict = iota // gets what it has brought
	shareRetry                      // asks for itself, in turn, or believes what has failed
	shareEnded                      // is no longer somebody whose permission is known
	shareLate                       // gets none: the homeserver takes longer than answers are fresh
	shareAlone                      // asks with its own credential: it may be told something else
)

// mayShare says what becomes of a reader who has waited for a fetch. What another has been told may be
// from any time since it was asked for, until now. It is no better than what is in memory: this
// reader must still be known and permitted, and it must be fresh.
func mayShare(s sharing) shareVerdict {
	switch {
	case s.ofOneClient && !s.own && !s.stale:
		return shareRetry
	case !s.answered, s.own && !s.remembered:
		return shareAnswer
	case !s.known:
		return shareEnded
	case s.own,
		s.fresh && !s.byTarget && !s.denied,
		s.fresh && !s.perCredential && s.permitted:
		return shareAnswer
	case !s.byTarget:
		return shareLate
	}
	return shareAlone
}

// sharing finds out what there is to know for mayShare.
func (g *Gateway) sharing(result *fetched, who reader, own, byTarget, hasStale bool) sharing {
	s := sharing{
		own: own, answered: result.answered(), remembered: result.found != nil, ofOneClient: result.isOfOneClient(),
		byTarget: byTarget,
	}
	s.stale = !s.remembered && result.failed() && hasStale
	if !s.answered || own && !s.remembered {
		return s
	}
	now := g.store.now()
	s.known = g.cached(who.credential, now).userID == who.viewer
	s.fresh, s.perCredential = now.Sub(result.departed) < g.cfg.Rules.TTL, result.perCredential()
	s.permitted = g.lookup(who.viewer, who.target, who.trust, now).Permitted
	s.denied = !byTarget && (g.store.presence.DeniedSince(who.viewer, who.target, result.departed) ||
		!g.store.presence.MembershipHolds(who.viewer, who.target, result.departed))
	return s
}

// perCredential tells that an answer is about the credential with which it was asked
// for, so that nobody else may get it.
func (f *fetched) perCredential() bool {
	if f.found != nil {
		return f.found.Outcome == cache.Denied
	}
	return f.answered() && f.answer == nil
}

// answered tells that it is an answer, and not that there is none to share.
func (f *fetched) answered() bool { return f.found != nil || f.err == nil && !f.failed() && !f.large }
