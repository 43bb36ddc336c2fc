package gateway

import (
	"cmp"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/identity"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/passing"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// What is learned from answers that pass by is what the homeserver says in them, and as of when
// their requests departed. An answer that the site's own handlers or a cache behind them have given
// teaches nothing, nor does one to a request that homeservers may read in several ways.

// learns tells whether answers are read while they pass.
func (t tenant) learns() bool { return t.cfg.learns() }

// rules are those for what is remembered. That a room permits anything is known of homeservers
// that are known.
func (g *Gateway) rules() *cache.Rules {
	return g.lookups.of(g.learns() && g.knownDialect() != Auto, g.brownOut() >= policy.BrownOutSpare)
}

// overhear has the answer to a request read while it passes, if there is something to learn. What
// it returns must be called when that is over.
func (g *Gateway) overhear(w http.ResponseWriter, r *http.Request, next Next, method string) (http.ResponseWriter, func()) {
	path := r.URL.Path
	if method != http.MethodGet && method != http.MethodPut && method != http.MethodPost || !strings.HasPrefix(path, matrix.ClientPrefix) {
		return w, nil
	}
	switch {
	case strings.Contains(path, "/user/"):
		if route, ok := matrix.ParseOwnRoute(method, r.URL.EscapedPath()); ok {
			return g.hearOwn(w, r, next, route)
		}
	case method != http.MethodGet || r.Header["Range"] != nil:
	case strings.HasSuffix(path, "members"):
		if route, ok := matrix.ParseMemberListRoute(r.URL.EscapedPath(), r.URL.RawQuery); ok {
			return g.hearMembers(w, r, next, route)
		}
	case strings.HasSuffix(path, "/account/whoami"):
		if matrix.IsWhoAmI(r.URL.EscapedPath()) {
			return g.hearWhoAmI(w, r)
		}
	}
	return w, nil
}

// own returns what tells of the answer to a client's request, once that begins, whether it is a 200
// that the homeserver has given now: not the site, nor a cache between.
func (g *Gateway) own(w http.ResponseWriter, r *http.Request) func(status int) bool {
	isLocal := g.isLocal(r)
	return func(status int) bool {
		return status == http.StatusOK && !isLocal(status) && len(w.Header()["Age"]) == 0
	}
}

// hear returns a response writer that has an answer read by what begin returns. Of names who gets it.
func (g *Gateway) hear(w http.ResponseWriter, of string, begin func(status int) passing.Reader) *hearer {
	h := &hearer{responseWriter: responseWriter{w}, begin: begin, panicked: g.store.panicked}
	h.place.places, h.place.of = g.store.heard, of
	return h
}

// memberLesson is a list of members that is being read. Whose it is may be asked meanwhile.
type memberLesson struct {
	gateway  *Gateway
	roomID   string
	departed time.Time

	mu     sync.Mutex // guards all below
	viewer string
	keys   []cache.UserKey
	whole  bool
}

// teach remembers the list once it has come and it is known to whom.
func (l *memberLesson) teach(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
	if !l.whole || l.viewer == "" {
		return
	}
	m := l.gateway.store
	if m.presence.Listed(l.viewer, l.roomID, l.keys, l.departed) {
		m.counters.learned[learnedList].Add(1)
	}
	l.keys, l.whole = nil, false
}

// hearMembers learns who is joined to a room.
func (g *Gateway) hearMembers(w http.ResponseWriter, r *http.Request, next Next, route matrix.MemberListRoute) (http.ResponseWriter, func()) {
	c, err := matrix.ParseCredential(r.Header["Authorization"], r.URL.RawQuery)
	if err != nil || g.cfg.excludesRoom(route.RoomID) {
		return w, nil
	}
	g.askSoftwareInTime(r, next)
	known := g.knownDialect() != Auto
	// Whoever it claims to be of, it is once the homeserver has served it.
	l := &memberLesson{gateway: g, roomID: route.RoomID, departed: g.store.now(), viewer: g.claimed(c)}
	identify := func(_ func(userID string), over func()) { over() }
	if l.viewer == "" && known {
		identify = g.identifier(r, next, c)
	}
	create := passing.NewJoinedMembers
	if route.Events {
		create = passing.NewMembers
	}
	limit := g.cfg.Sizes.Rooms
	list := create(func(userID []byte) {
		if len(l.keys) < limit { // nobody else looks at them until the list is whole
			l.keys = append(l.keys, g.store.presence.MemberKey(userID))
		}
	})
	isOwn := g.own(w, r)
	served, end := g.serves(c, l.viewer, l.departed)
	var h *hearer
	h = g.hear(w, cmp.Or(l.viewer, g.newClient(r, nil).name), func(status int) passing.Reader {
		if !isOwn(status) {
			return nil
		}
		if served(); !known || l.viewer != "" && g.store.presence.KnowsList(l.viewer, l.roomID, g.rules(), l.departed) || !h.place.take() {
			return nil
		}
		h.place.hold()
		// It is what the reads that come next would ask. Of a made-up token nothing is asked.
		identify(func(userID string) {
			g.store.presence.LetIn(userID, l.departed, false)
			l.teach(func() { l.viewer = userID })
		}, h.place.leave)
		return list
	})
	return h, func() {
		defer end()
		if h.end(); list.Whole() {
			h.guard(func() { l.teach(func() { l.whole = true }) })
		}
	}
}

// serves returns what is to be called when the homeserver has answered a request with 200 that
// takes a token: its user isn't locked, and it is of who it claims to be, if that isn't known yet, or
// hasn't ended. What end is must be called in any case when the answer is over.
func (g *Gateway) serves(c matrix.Credential, userID string, departed time.Time) (served, end func()) {
	switch {
	case userID == "":
		return func() {}, func() {}
	case c.UserID == "" && c.DeviceID == "" && g.aging(c, departed):
		// Synapse's tokens of guests name nobody, see register_device_inner in its handlers/register.py.
		noGuest := g.knownDialect() == synapse && g.store.claims.user(c.Token) == userID
		learn, end := g.learnsOwner(c, departed)
		return func() { learn(identity.WhoAmI{UserID: userID}, noGuest) }, end
	}
	return func() { g.store.presence.LetIn(userID, departed, false) }, func() {}
}

// aging tells that it isn't known whose a credential is, or won't be soon.
func (g *Gateway) aging(c matrix.Credential, now time.Time) bool {
	known := g.cached(c, now.Add(g.cfg.Lifetimes.Identity/2))
	return !known.known()
}

// asksForNews returns what notes, when a sync departs and when its answer begins, what its user asks for, and
// tells whether the answer may be one that was given before. Another node may have passed that on.
func (g *Gateway) asksForNews(r *http.Request, viewer string) (repeats func() bool) {
	m := g.store
	since, ok := matrix.ParseSince(r.URL.RawQuery)
	batches := []string{since}
	if !ok { // it teaches nothing, but Synapse may give its answer to one that does
		batches = matrix.EachSince(r.URL.RawQuery)
	}
	timeout := matrix.ParseSyncQuery(g.knownDialect(), r.URL.RawQuery).Timeout
	return func() bool {
		repeats := !ok || m.clusters.current.Load() != nil
		for _, since := range batches {
			repeats = m.batches.repeats(viewer, since, time.Now(), timeout) || repeats
		}
		return repeats
	}
}

// passNews is for a GET or HEAD of a sync, whatever is learned from it: Synapse may give the answer to any of them again
// to another that asks for the same. What it returns must be called when that is over, unless it is nil.
func (g *Gateway) passNews(w http.ResponseWriter, r *http.Request, next Next, route matrix.SyncRoute) (http.ResponseWriter, func()) {
	c, err := matrix.ParseCredential(r.Header["Authorization"], r.URL.RawQuery)
	if err == nil && g.learns() && route == matrix.Sync && methodOf(r) == http.MethodGet && r.Header["Range"] == nil {
		return g.hearSync(w, r, next, c)
	}
	viewer := ""
	if err == nil {
		viewer = g.store.identities.LastKnown(c)
	}
	repeats := g.asksForNews(r, viewer)
	repeats()
	return onStatus(w, func(int) { repeats() }), nil
}

// hearSync learns whom a sync shows to its user, and who has changed.
func (g *Gateway) hearSync(w http.ResponseWriter, r *http.Request, next Next, c matrix.Credential) (http.ResponseWriter, func()) {
	m, departed := g.store, g.store.now()
	viewer, dialect := m.identities.LastKnown(c), g.knownDialect()
	repeats := g.asksForNews(r, viewer)
	again := repeats()
	isOwn := g.own(w, r)
	claimed := viewer
	if claimed == "" {
		claimed = g.claimed(c)
	}
	served, end := g.serves(c, claimed, departed)
	h := g.hear(w, viewer, func(status int) passing.Reader {
		if !isOwn(status) {
			return nil
		}
		repeats() // from now on the homeserver has an answer that it may give again
		if served(); again || viewer == "" || dialect == Auto {
			return nil
		}
		return passing.NewSyncAnswer(dialect != Tuwunel, func(sender string, content []byte) {
			m.counters.learned[learnedPresence].Add(1)
			if len(sender) <= matrix.MaxUserID && m.presence.Told(viewer, sender, content, departed) {
				m.counters.learned[learnedChange].Add(1)
			}
		})
	})
	return h, func() {
		h.end()
		end()
	}
}

// hearOwn learns whose a token is by a request that the homeserver serves only to the user whom its
// path names. An appservice's request for another user says nothing.
func (g *Gateway) hearOwn(w http.ResponseWriter, r *http.Request, next Next, route matrix.OwnRoute) (http.ResponseWriter, func()) {
	c, err := matrix.ParseCredential(r.Header["Authorization"], r.URL.RawQuery)
	departed, dialect := g.store.now(), g.knownDialect()
	if g.askSoftwareInTime(r, next); err != nil || c.UserID != "" || c.DeviceID != "" || !route.Proves(dialect) || !g.aging(c, departed) {
		return w, nil
	}
	isOwn := g.own(w, r)
	learn, end := g.learnsOwner(c, departed)
	return onStatus(w, func(status int) {
		if isOwn(status) {
			learn(identity.WhoAmI{UserID: route.UserID}, true)
		}
	}), end
}

// learnsOwner returns what remembers whose a credential is, once the homeserver says so in its answer to
// a request that departed then, and whether that is known to be no guest; and what is to be called in
// any case when the answer is over.
func (g *Gateway) learnsOwner(c matrix.Credential, departed time.Time) (learn func(who identity.WhoAmI, noGuest bool), end func()) {
	m := g.store
	under, revision := m.identities.Begin(c), m.identities.Revision()
	return func(who identity.WhoAmI, noGuest bool) {
		under.Learn(who, revision, departed)
		m.identities.Accept(c)
		m.presence.LetIn(who.UserID, departed, noGuest)
		m.counters.learned[learnedIdentity].Add(1)
	}, under.End
}

// hearWhoAmI learns whose a token is when a client asks for that itself.
func (g *Gateway) hearWhoAmI(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, func()) {
	c, err := matrix.ParseCredential(r.Header["Authorization"], r.URL.RawQuery)
	departed := g.store.now()
	if err != nil || !g.aging(c, departed) {
		return w, nil
	}
	learn, end := g.learnsOwner(c, departed)
	w, finish := newWatch(w, g.own(w, r), func(answer *subresponse) {
		if who, ok := parseWhoAmI(answer); ok {
			g.store.claims.note(c, who.UserID)
			learn(identity.WhoAmI{UserID: who.UserID, DeviceID: who.DeviceID}, !who.Guest)
		}
	})
	return w, func() {
		finish()
		end()
	}
}

// whoAmIAnswer is a homeserver's answer to whose a token is.
type whoAmIAnswer struct {
	UserID   string `json:"user_id"`
	DeviceID string `json:"device_id"`
	Guest    bool   `json:"is_guest"` // on tuwunel: deactivated
}

func parseWhoAmI(answer *subresponse) (who whoAmIAnswer, ok bool) {
	return who, answer.decode(&who) && who.UserID != ""
}

// learnsIssued returns what learns from the homeserver's answer to a request that gives a token out
// whose that is: nobody has revoked it, unless its user's tokens have ended since the request left.
// What it is called with may say whose other tokens end by the answer.
func (g *Gateway) learnsIssued(r *http.Request) func(status int, userID, token, revokes string) {
	identities, isLocal := g.store.identities, g.isLocal(r)
	revision, departed := identities.Revision(), g.store.now()
	mayBeGuest := strings.Contains(strings.ToLower(r.URL.RawQuery), "kind")
	return func(status int, userID, token, revokes string) {
		under := identities.Begin(matrix.Credential{Token: token})
		defer under.End()
		holds, asOf := under.Holds(userID, revision), revision
		if revokes != "" {
			before := identities.Revision()
			g.revokeUser(revokes)
			asOf = identities.Revision()
			holds = holds && asOf.IsNextTo(before)
		}
		if !holds || !g.learns() || status != http.StatusOK || isLocal(status) ||
			token == "" || userID == "" || len(userID) > matrix.MaxUserID {
			if token != "" {
				identities.IssuedTo(userID, token)
			}
			return
		}
		identities.LearnIssued(userID, token, asOf, departed)
		g.store.presence.LetIn(userID, departed, !mayBeGuest)
		g.store.counters.learned[learnedIdentity].Add(1)
	}
}

// roomRefusedInterval is for how long no other room is logged that counts no more.
const roomRefusedInterval = time.Minute

// roomRefused logs that a room counts no more, unless there is none.
func (g *Gateway) roomRefused(roomID string) {
	if roomID != "" && g.store.refusedRooms.due(g.store.clock.Stamp(), roomRefusedInterval) {
		g.logger.Warn("the homeserver refuses a presence to a user who is joined to a room with its owner, so that room permits nothing "+
			"until it has been on trial again: if it is one of exclude_rooms_from_presence, name it in learn", "room", roomID)
	}
}
