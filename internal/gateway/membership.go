package gateway

import (
	"net/http"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/cluster"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// serveMembership passes a request on by which memberships of rooms may change. Who may see whom
// then is asked for anew before anybody is told that it has succeeded.
//
// What ends is what is known of those whose membership its sender has changed at the homeserver. If
// it isn't known whether that has happened, it may have, of the sender's own.
func (g *Gateway) serveMembership(w http.ResponseWriter, r *http.Request, next Next, change matrix.MembershipChange) (err error) {
	if !g.watchesMemberships() {
		return g.serveOther(w, r, next)
	}
	named := func() []string { return nil }
	switch change.Scope {
	case matrix.ChangesUser:
		named = func() []string { return []string{change.UserID} }
	case matrix.ChangesNamed:
		body := newCopied(r, g.maxMembershipBody(r))
		named = func() []string {
			sent, _ := body.take()
			return matrix.NamedUsers(sent)
		}
	}
	ofSender := func(succeeded bool) {}
	if change.Scope == matrix.ChangesSender {
		ofSender = g.endsMembershipsOf(r, next)
	}
	isLocal, status := g.isLocal(r), 0
	panics := true
	defer func() {
		if panics || mayHaveHappened(g.server, r, status, err) {
			ofSender(false)
		}
	}()
	err = g.serveOther(onStatus(w, func(code int) {
		if status = code; !isSuccess(code) || isLocal(code) {
			return
		}
		if change.Admin {
			if shown, _ := shownCredentials(r); !isAnAdmins(shown, w.Header()) {
				return
			}
		}
		ofSender(true)
		for _, userID := range named() {
			g.membershipChanged(userID)
		}
		if change.Scope == matrix.ChangesAll {
			for m := range g.stores() {
				m.presence.AllMembershipsChanged(m.now(), g.settle())
				m.tell(cluster.Membership, "")
			}
		}
	}), r, next)
	panics = false
	return err
}

// maxEvent is the size in bytes of the largest event, and so of a reason to kick somebody.
const maxEvent = 64 << 10

// maxMembershipBody is the size of the largest body in which it is looked for whom a request names. Who has an
// account may give a long reason.
func (g *Gateway) maxMembershipBody(r *http.Request) int64 {
	shown, certain := shownCredentials(r)
	if certain && g.store.identities.Holder(shown[0]) != "" {
		return maxEvent
	}
	return maxNamedBody
}

// membershipChanged ends what is known of whom a user may see and who may see them, here and at the
// other nodes.
func (g *Gateway) membershipChanged(userID string) {
	for m := range g.stores() {
		m.presence.MembershipChanged(userID, m.now(), g.settle())
		m.tell(cluster.Membership, userID)
	}
}

// endsMembershipsOf returns what is to be done when the sender of a request has joined or left a
// room, or may have. Whose it is, if that isn't known, is asked while the request is served: nothing waits for it.
func (g *Gateway) endsMembershipsOf(r *http.Request, next Next) (end func(succeeded bool)) {
	shown, certain := shownCredentials(r)
	var asked *sender
	if certain && g.store.identities.Holder(shown[0]) == "" {
		asked = g.newSender(r, next, shown[0], g.membershipChanged)
		asked.askMeanwhile(g.newWhoAmI(r, next, shown[0], g.cfg.RejectedLimit))
	}
	return func(succeeded bool) {
		known := false
		for _, c := range shown {
			if userID := g.store.identities.Holder(c); userID != "" {
				g.membershipChanged(userID)
				known = true
			}
		}
		if asked != nil && !known {
			asked.may(succeeded)
		}
	}
}
