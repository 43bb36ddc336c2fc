package plan

import (
	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// reading is a read that is being decided about.
type reading struct {
	policy.ReadFacts
	request *Request
	found   cache.Found
	brought bool // it was sent in the place of a question
}

// flightKey tells which readers may share a fetch, see internal/gateway/fetch.go.
type flightKey struct {
	target     *User
	generation uint64
	settling   bool
	credential [16]byte
}

// flight is a fetch, and those who wait for it. Next begins when it is done.
type flight struct {
	readers []*reading
	next    *flight
}

// serveRead is the life of a read, by the module's own decisions.
func (n *node) serveRead(r *Request) {
	rd := &reading{request: r}
	rd.Cached, rd.Limited, rd.StaleIfError = n.cfg.Cached, n.limitsReads, n.cfg.Rules.StaleIfError > 0
	rd.Credential, rd.Canonical, rd.Body = policy.CredentialCertain, true, policy.BodyGood
	n.decideRead(rd)
}

// decideRead goes on with a read until it has to wait, or ends.
func (n *node) decideRead(rd *reading) {
	r := rd.request
	for {
		step := policy.DecideRead(&rd.ReadFacts)
		switch step {
		case policy.ReadAskOwner:
			if who := n.cachedOwner(r.By, n.agenda.now); who.known {
				rd.Owner = policy.OwnerKnown
				continue
			}
			n.identify(r.By, rd, func(who owner) {
				rd.noteOwner(who)
				n.decideRead(rd)
			})
			return
		case policy.ReadTakeBudget:
			rd.Budget = takeBudget(n.budgets.reads, n.cfg.ClassOf(r.By.User.ID).ReadLimit, r.By.User.ID, n.agenda.now)
		case policy.ReadLookUp:
			n.lookUp(rd)
		case policy.ReadFetch:
			if rd.brought {
				rd.Fetched = policy.FetchOwn
				continue
			}
			n.fetch(rd)
			return
		case policy.ReadTakePlace:
			rd.Place = policy.PlaceTaken
		default:
			n.endRead(rd, step)
			return
		}
	}
}

func (rd *reading) noteOwner(who owner) {
	switch {
	case who.known:
		rd.Owner = policy.OwnerKnown
	case who.rejected:
		rd.Owner = policy.OwnerRejected
	default:
		rd.Owner = policy.OwnerLimited
	}
}

// lookUp looks into memory.
func (n *node) lookUp(rd *reading) {
	rd.Found = policy.FoundNothing
	if rd.brought {
		return
	}
	rd.found = n.presence.Lookup(rd.request.By.User.ID, rd.request.Target.ID, &n.rules, n.agenda.now)
	rd.Found = gateway.FactOf(rd.found.Outcome)
}

// fetch has a read wait for a fetch, its own or another's.
func (n *node) fetch(rd *reading) {
	key := flightKey{target: rd.request.Target, generation: rd.found.Ticket.Generation(), settling: rd.found.Ticket.Settling()}
	if !rd.found.Permitted || n.rules.PerViewer {
		key.credential = rd.request.By.fingerprint
	}
	current := n.flights[key]
	switch {
	case current == nil:
		f := &flight{readers: []*reading{rd}}
		n.flights[key] = f
		n.depart(key, f)
	case rd.found.Ticket.Settled():
		current.readers = append(current.readers, rd)
	case current.next == nil:
		current.next = &flight{readers: []*reading{rd}}
	default:
		current.next.readers = append(current.next.readers, rd)
	}
}

// depart sends a fetch for the first of its readers, unless the answer has come meanwhile.
func (n *node) depart(key flightKey, f *flight) {
	by, target := f.readers[0].request.By.User, f.readers[0].request.Target
	found := n.presence.Lookup(by.ID, target.ID, &n.rules, n.agenda.now)
	if found.Outcome == cache.Hit || found.Outcome == cache.Denied {
		n.land(key, f, policy.FetchFound)
		return
	}
	n.counts.Upstream[ForFetch]++
	n.agenda.in(readTakes, func() {
		n.remember(by, target, found.Ticket, n.homeserver.read(by, target, n.agenda.now))
		n.land(key, f, policy.FetchOwn)
	})
}

// land ends a fetch for all who wait for it, and lets the next begin.
func (n *node) land(key flightKey, f *flight, brought policy.FetchFact) {
	if delete(n.flights, key); f.next != nil {
		n.flights[key] = f.next
	}
	for i, rd := range f.readers {
		rd.Fetched = brought
		if i > 0 && brought == policy.FetchOwn {
			rd.Fetched = policy.FetchShared
		}
		n.decideRead(rd)
	}
	if f.next != nil {
		n.depart(key, f.next)
	}
}

// remember keeps what the homeserver answered: nil for a 403.
func (n *node) remember(viewer, target *User, ticket cache.Ticket, answer *cache.Answer) {
	if answer == nil {
		n.presence.RoomRefused(viewer.ID, ticket, &n.rules)
		n.presence.Deny(viewer.ID, ticket, &cache.Denial{Status: forbidden, Body: forbiddenBody}, &n.rules)
		return
	}
	if n.watchesSyncs() && !n.presence.Overtaken(ticket) {
		body := []byte(answer.Body)
		n.repeats.Observe(target.ID, body, n.dialect())
		n.devices.Observe(target.ID, body, n.dialect(), n.agenda.now)
	}
	n.presence.Allow(viewer.ID, ticket, answer, &n.rules, n.agenda.now)
}

// What a homeserver says to who may not see a presence.
const (
	forbidden     = 403
	forbiddenBody = `{"errcode":"M_FORBIDDEN","error":"You are not allowed to see their presence."}`
)

// endRead counts how a read was answered.
func (n *node) endRead(rd *reading, step policy.ReadStep) {
	outcome := Forwarded
	switch step {
	case policy.ReadAnswer, policy.ReadAnswerOlder, policy.ReadAnswerStale:
		outcome = Hit
	case policy.ReadForward:
		outcome = Miss
	case policy.ReadShare:
		outcome = Collapsed
	case policy.ReadLimit, policy.ReadShed:
		outcome = Limited
	case policy.ReadRefuseUnknown, policy.ReadRefuseMissing:
		outcome = Rejected
	default: // as it came
		n.counts.Upstream[ForFetch]++
		if rd.request.By.Unknown {
			n.homeserver.did[RejectToken]++
		} else {
			n.homeserver.read(rd.request.By.User, rd.request.Target, n.agenda.now)
		}
	}
	n.end(Read, outcome)
}
