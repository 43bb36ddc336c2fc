package gateway

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"sync"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/cluster"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/identity"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// serveRevocation forwards a request that may make tokens invalid, at once, and forgets
// whose they are before its sender learns that it succeeded.
//
// What is forgotten is what its sender could end at the homeserver, and nobody else's. A
// password reset by mail carries no token and names no user: whose tokens it ends is not
// known here, and the lifetime of an identity is what bounds it.
func (g *Gateway) serveRevocation(w http.ResponseWriter, r *http.Request, next Next, revocation matrix.Revocation) (err error) {
	ending := g.beginEnding(r, next, revocation)
	if ending.answered != nil && !g.cfg.Observe {
		r = withoutCodings(r)
	}
	isSites := g.isSites(r)
	w, finish := newWatch(w, func(status int) bool {
		return isSuccess(status) && ending.answered != nil || status == http.StatusUnauthorized && !isSites()
	}, func(answer *subresponse) {
		switch {
		case isSuccess(answer.status):
			ending.answered(answer)
		case !saysUnknown(answer):
		case revocation.Scope == matrix.RevokesByRefresh:
			ending.doubt() // it may be about the refresh token only, which has been used then
		default:
			g.refusedRevocation(r, answer)
		}
	})
	defer finish()
	status := 0
	// Also if that panics, because the homeserver's answer breaks off.
	panics := true
	defer func() {
		if panics || mayHaveHappened(g.server, r, status, err) {
			ending.doubt()
		}
	}()
	err = next.ServeHTTP(onStatus(w, func(code int) {
		if status = code; isSuccess(status) {
			ending.succeed(w.Header())
		}
	}), r)
	panics = false
	return err
}

// withoutCodings returns a request for whose answer to come plain, or in the one coding that the
// transport asks for and unpacks: browsers offer codings that nothing here reads.
func withoutCodings(r *http.Request) *http.Request {
	plain := *r
	plain.Header = maps.Clone(r.Header)
	delete(plain.Header, "Accept-Encoding")
	return &plain
}

// saysUnknown tells of an answer with status 401 to a request that may end tokens that it says, or may say, that
// the homeserver doesn't know a token. Without an errcode it asks for a password only.
func saysUnknown(answer *subresponse) bool {
	return answer.header.Get("Content-Encoding") != "" || answer.matrixError() == unknownToken
}

// refusedRevocation notes a request that may end tokens and was answered so. It may have been sent twice, by its
// client or by a proxy, and have succeeded at first.
func (g *Gateway) refusedRevocation(r *http.Request, answer *subresponse) {
	shown, certain := shownCredentials(r)
	for _, c := range shown {
		if certain {
			g.store.refused(c, g.store.identities.LastSession(c), answer)
		} else {
			g.store.doubtHere(c)
		}
	}
}

func isSuccess(status int) bool { return status < http.StatusMultipleChoices }

// mayHaveHappened tells of a request that its answer, or that there is none, doesn't say
// whether the homeserver did what it asks for: the client went away, or the homeserver
// broke off. If no handler answered, or one said that there is no homeserver, nobody did it.
func mayHaveHappened(server Server, r *http.Request, status int, err error) bool {
	switch failed := statusOf(server, err); {
	case status != 0:
		return status == statusClientClosed || status >= http.StatusInternalServerError
	case failed != 0:
		status = failed
		return status == statusClientClosed || status == http.StatusBadGateway || status == http.StatusGatewayTimeout
	case err != nil:
		return false
	}
	// reverse_proxy may have got what it can't pass on, such as a change of protocols.
	return server.HasUpstream(r)
}

// ending is what is to be done about a request that may end tokens. Who acts for whom can
// be asked again, but a write that waits and is dropped is gone: that takes the success of a
// logout. What waits of a token that ended otherwise gets its 401 when it is delivered.
type ending struct {
	// succeed is called when it has succeeded, with the answer's header fields.
	succeed func(header http.Header)

	// doubt is called when nobody knows whether it has. It concerns no token but those that
	// the request shows.
	doubt func()

	// answered is called with the body of its success, where that says something.
	answered func(answer *subresponse)
}

// beginEnding looks at a request that may end tokens before it is sent on. It may ask, in the
// background, whose the request is.
func (g *Gateway) beginEnding(r *http.Request, next Next, revocation matrix.Revocation) ending {
	nothing := func() {}
	shown, certain := shownCredentials(r)
	doubt := func() {
		for _, c := range shown {
			g.doubt(c)
		}
	}
	switch revocation.Scope {
	case matrix.RevokesToken:
		isSites := g.isSites(r)
		return ending{func(http.Header) {
			if isSites() { // anybody's token would do
				doubt()
				return
			}
			for m := range g.stores() {
				for _, c := range shown {
					m.revokeToken(c)
				}
			}
		}, doubt, nil}
	case matrix.RevokesUser:
		return ending{g.endsSessionsOf(r, next, shown, certain), doubt, nil}
	case matrix.RevokesOther:
		isSites := g.isSites(r)
		return ending{func(header http.Header) {
			if isAnAdmins(shown, header) && !isSites() {
				g.revokeUser(revocation.UserID)
			}
		}, nothing, nil}
	case matrix.RevokesByLogin:
		return ending{func(http.Header) {}, nothing, g.learnIssued(r, true, nil)}
	case matrix.RevokesByRefresh:
		named := namedTokens(r, "refresh_token")
		both := func() { doubt(); g.doubtNamed(named()) }
		return ending{func(http.Header) { both(); g.tellRefreshed(named()) }, both, g.learnIssued(r, false, named)}
	case matrix.RevokesNamed:
		named := namedTokens(r, "token")
		end := func() { g.doubtNamed(named()) }
		return ending{func(http.Header) { end() }, end, nil}
	default: // matrix.Registers
		return ending{func(http.Header) {}, nothing, g.learnIssued(r, false, nil)}
	}
}

// isAnAdmins tells of the success of a request that shows these credentials to an admin API that a homeserver
// has given it: not another handler where there is no such API.
func isAnAdmins(shown []matrix.Credential, header http.Header) bool {
	return len(shown) > 0 && saysJSON(header)
}

// namedTokens returns what tells, once a request is being answered, which tokens its body
// names: what ends, or by whose use another ends.
func namedTokens(r *http.Request, member string) (named func() []string) {
	body := newCopied(r, maxNamedBody)
	return sync.OnceValue(func() []string {
		sent, whole := body.take()
		if !whole {
			return nil
		}
		return matrix.NamedTokens(sent, member)
	})
}

// doubtNamed forgets on whose behalf tokens act that a request has named. Nobody can name one
// who doesn't have it, so it may be in doubt whoever has sent the request.
func (g *Gateway) doubtNamed(tokens []string) {
	for _, token := range tokens {
		g.doubt(matrix.Credential{Token: token})
		if access, ok := g.store.identities.Refreshed(token); ok {
			g.store.tell(cluster.TokenEnded, access) // the homeserver has given it out
		}
	}
}

// tellRefreshed tells the other nodes of refresh tokens by which a request has succeeded, so that they aren't made
// up: another may know which access token was given out with one.
func (g *Gateway) tellRefreshed(tokens []string) {
	for _, token := range tokens {
		g.store.tell(cluster.TokenEnded, g.store.identities.TokenKey(matrix.Credential{Token: token}))
	}
}

// maxNamedBody is the size of the largest body in which a token is looked for. It is kept for
// as long as its request takes, and whoever has no account may send as many as they like.
const maxNamedBody = 8 << 10

// shownCredentials returns what a request shows to tell whose it is: one credential, which is
// certain, or if homeservers read it differently, each token that it might be.
func shownCredentials(r *http.Request) (shown []matrix.Credential, certain bool) {
	authorization := r.Header["Authorization"]
	if c, err := matrix.ParseCredential(authorization, r.URL.RawQuery); err == nil {
		return []matrix.Credential{c}, true
	}
	for _, token := range matrix.CandidateTokens(authorization, r.URL.RawQuery) {
		shown = append(shown, matrix.Credential{Token: token})
	}
	return shown, false
}

// endsSessionsOf returns what is to be done when a request has ended sessions of its
// sender's. Who that is has to be found out before the request is sent, as afterwards its
// own token may be one of them, but nothing waits for it:
//
//	1 logout/all: whose it is isn't known; asks, and is sent on
//	2 the homeserver says 200: what is known of the sender by now is forgotten
//	1 whoami, answered before the logout, arrives later: forgotten then
func (g *Gateway) endsSessionsOf(r *http.Request, next Next, shown []matrix.Credential, certain bool) (succeed func(http.Header)) {
	identities := g.store.identities
	var users []string
	for _, c := range shown {
		if userID := identities.Holder(c); userID != "" {
			users = append(users, userID)
		}
	}
	var asked *sender
	if certain && len(users) == 0 {
		asked = g.newSender(r, next, shown[0], g.revokeUser)
		asked.ask(g.newWhoAmI(r, next, shown[0], g.cfg.RejectedLimit))
	}
	return func(http.Header) {
		for _, c := range shown {
			if userID := identities.Holder(c); userID != "" && !slices.Contains(users, userID) {
				users = append(users, userID)
			}
			g.doubt(c)
		}
		for _, userID := range users {
			g.revokeUser(userID)
		}
		if asked != nil {
			asked.may(true)
		}
	}
}

// revokeToken forgets a credential that the homeserver has ended, here and at the other nodes,
// and drops what waits of it. Its device may have other tokens, which have ended with it (Synapse).
func (m *Store) revokeToken(c matrix.Credential) {
	m.identities.Settle(c, m.settled())
	holder := m.identities.Holder(c)
	known := m.revokeTokenOf(c, m.identities.LastSession(c))
	m.tell(cluster.TokenEnded, m.identities.TokenKey(c))
	if !known && holder != "" {
		m.identities.RevokeUser(holder)
		m.tell(cluster.UserEnded, holder)
	}
}

// revokeTokenOf is revokeToken for a credential whose user may have been forgotten since. It reports
// whether its user was known: then the other nodes are told of that user.
func (m *Store) revokeTokenOf(c matrix.Credential, was identity.Session) (known bool) {
	if was.UserID != "" {
		m.devices.Forget(was.UserID, was.Device) // it wants nothing any more
	}
	if holder := cmp.Or(was.UserID, m.identities.Holder(c)); holder != "" {
		m.identities.SettleUser(holder, m.settled()) // for the device's other tokens
	}
	userID := m.identities.RevokeToken(c)
	if userID != "" {
		m.tell(cluster.UserEnded, userID)
	}
	m.pendings.DropToken(c, was.UserID)
	return userID != ""
}

// doubt has the homeserver asked again whose a credential is, here and at the other nodes.
func (m *Store) doubt(c matrix.Credential) {
	m.settleIf(m.isKnown(c), c)
	m.identities.Doubt(c)
}

// doubtHere is doubt at this node only: what a homeserver has refused may not have ended. What it refuses to one of an
// appservice's users is nothing to the others.
func (m *Store) doubtHere(c matrix.Credential) {
	c = m.identities.Effective(c)
	if c.UserID == "" && c.DeviceID == "" && m.isKnown(c) {
		m.identities.Settle(c, m.settled())
	}
	m.identities.Doubt(c)
}

// isKnown tells that the homeserver knows a token, or has, as it said itself or by the answer that gave it out.
func (m *Store) isKnown(c matrix.Credential) bool {
	return m.identities.WasKnown(c) || m.identities.Holder(c) != ""
}

// settleIf has nothing remembered of a token that has ended, or may have, until all of the homeserver's
// processes know, here and at the other nodes. Nothing is done for one that isn't known:
// anybody can make tokens up. It must be called before what ends the token here.
func (m *Store) settleIf(isKnown bool, c matrix.Credential) {
	if isKnown {
		m.identities.Settle(c, m.settled())
		m.tell(cluster.TokenEnded, m.identities.TokenKey(c))
	}
}

// doubt is that of the store, and of those that may have taken its place meanwhile.
func (t tenant) doubt(c matrix.Credential) {
	for m := range t.stores() {
		m.doubt(c)
	}
}

// revokeUser is likewise.
func (t tenant) revokeUser(userID string) {
	for m := range t.stores() {
		m.identities.SettleUser(userID, m.settled())
		m.revokeUser(userID)
	}
}

// revokeUser forgets a user whose sessions have ended, and what their devices want, here and at the
// other nodes.
func (m *Store) revokeUser(userID string) {
	m.endSessionsOf(userID)
	m.tell(cluster.UserEnded, userID)
}

// endSessionsOf is revokeUser for this node.
func (m *Store) endSessionsOf(userID string) {
	m.identities.RevokeUser(userID)
	m.devices.ForgetUser(userID)
}

// learnIssued returns what is to be learned from an answer that gives an access token out:
// with which refresh token, for which older one, and to whom. If it is a login, that one's other
// tokens may have ended by it.
func (g *Gateway) learnIssued(r *http.Request, login bool, used func() []string) func(answer *subresponse) {
	teach := g.learnsIssued(r)
	return func(answer *subresponse) {
		var issued struct {
			UserID       string `json:"user_id"`
			AccessToken  string `json:"access_token"`
			RefreshToken string `json:"refresh_token"`
		}
		if !answer.decode(&issued) {
			return
		}
		identities := g.store.identities
		if used != nil {
			// It names nobody. What ends in /oauth2/token may be something else's, which names whom it likes.
			if issued.AccessToken != "" {
				identities.Issued(issued.AccessToken, issued.RefreshToken, used()...)
			}
			return
		}
		revokes := ""
		if login {
			revokes = issued.UserID // one of whose devices it may have taken over
		}
		teach(answer.status, issued.UserID, issued.AccessToken, revokes)
		if issued.AccessToken != "" && issued.RefreshToken != "" {
			identities.Issued(issued.AccessToken, issued.RefreshToken)
		}
	}
}
