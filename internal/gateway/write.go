package gateway

import (
	"net/http"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/cluster"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// writing is a write that is being decided about, by [policy.DecideWrite]: the facts, and what they
// were found out from.
type writing struct {
	policy.WriteFacts
	presenceWrite
	target string // whose presence it is

	now    time.Time     // at which it is judged
	who    owner         // of the credential
	bad    badBody       // what is wrong with the body
	queued int           // writes of the user that wait
	due    time.Duration // until the user has budget, if there is a limit
	wait   time.Duration // until the client should try again, if there is no budget
	err    error         // why nobody waits for an answer
	trust  trust         // in what is remembered
	told   announcement  // to the other nodes of a cluster
	pass   policy.Pass   // to the homeserver, while presence gives way
}

// writeEnds says how the steps that end a write are counted.
var writeEnds = [policy.WriteSteps]outcome{
	policy.WriteRefuseMissing:   outcomeRejected,
	policy.WriteRefuseUncertain: outcomeRejected,
	policy.WriteRefuseUnknown:   outcomeRejected,
	policy.WriteRefuseOther:     outcomeRefused,
	policy.WriteRefuseBody:      outcomeInvalid,
	policy.WriteLimit:           outcomeLimited,
	policy.WriteShed:            outcomeShed,
	policy.WriteFail:            outcomeFailed,
	policy.WriteCancel:          outcomeCanceled,
	policy.WriteAbsorb:          outcomeAbsorbed,
	policy.WriteCoalesce:        outcomeCoalesced,
	policy.WriteForward:         outcomeForwarded,
}

// presenceWrite is a write that is in order.
type presenceWrite struct {
	policy.PresenceWrite
	credential matrix.Credential
	class      *Class
}

// newWriting returns a write with the facts that cost nothing to find out.
func newWriting(r *http.Request, route matrix.PresenceRoute) (wr writing) {
	credential, err := matrix.ParseCredential(r.Header["Authorization"], r.URL.RawQuery)
	wr.credential, wr.Credential, wr.target = credential, credentialFact(err), route.UserID
	return wr
}

// serveWrite is the life of a PUT of a presence in mode enforce.
func (g *Gateway) serveWrite(w http.ResponseWriter, r *http.Request, next Next, route matrix.PresenceRoute) error {
	g.store.counters.requests[routeWrite].Add(1)
	wr := newWriting(r, route)
	defer func() { wr.pass.Leave(g.store.now()) }()
	step := policy.DecideWrite(&wr.WriteFacts)
	for ; !step.Ends(); step = policy.DecideWrite(&wr.WriteFacts) {
		g.findOutForWrite(step, &wr, r, next)
	}
	defer wr.told.end(r.Context()) // if it isn't forwarded
	g.note(r, writeEnds[step])
	return g.endWrite(step, &wr, w, r, next)
}

// findOutForWrite carries out a step that finds out a fact, while the client waits.
func (g *Gateway) findOutForWrite(step policy.WriteStep, wr *writing, r *http.Request, next Next) {
	switch step {
	case policy.WriteAskOwner:
		if g.cfg.Absorbs {
			wr.trust = g.store.trusts()
		}
		g.noteWriter(wr, g.identify(r, next, wr.credential, g.cfg.RejectedLimit))
		if err := hasLeft(r); err != nil {
			wr.Owner, wr.err = policy.OwnerGone, err
		}
	case policy.WriteReadBody:
		wr.Body = policy.BodyGood
		if wr.PresenceWrite.Body, wr.bad = g.readBody(r); wr.bad.status != 0 {
			wr.Body = policy.BodyBad
		}
	case policy.WriteLookAtQueue:
		wr.now = g.store.now()
		waits := false
		wr.queued, waits = g.store.pendings.Waits(wr.UserID)
		g.behindQueue(wr, waits)
	case policy.WriteCompare:
		g.compareWrite(wr)
	case policy.WriteTakePlace:
		wr.pass, wr.wait = g.enter(wr.UserID, false)
		if wr.Place = placeFact(wr.wait); wr.Place == policy.PlaceFull {
			wr.due = wr.wait
		}
	case policy.WriteTakeBudget:
		told, wait, ok := g.store.takeAndAnnounce(r.Context(), &wr.presenceWrite, wr.now)
		wr.told = told
		g.noteBudget(wr, wait, ok)
	case policy.WriteLetWait:
		wr.Wait = policy.WaitRefused
		if wr.class.WriteLimit != nil && g.letWait(r, next, &wr.presenceWrite, wr.due) {
			wr.Wait = policy.WaitAccepted
		}
	}
}

// noteWriter notes whose the credential of a write is.
func (g *Gateway) noteWriter(wr *writing, who owner) {
	wr.who, wr.wait, wr.Owner = who, max(who.wait, who.shed), who.fact()
	if who.userID == "" {
		return
	}
	wr.UserID, wr.Own = who.userID, who.userID == wr.target
	if wr.Own { // else it goes nowhere, and nothing is kept of it
		wr.Fingerprint = g.store.identities.DeviceOf(wr.credential, who.userID)
	}
	wr.class = g.cfg.ClassOf(who.userID)
	wr.Absorbs, wr.Coalesces, wr.BrownOut = wr.class.Absorb, wr.class.Coalesce, g.cfg.BrownOut
	wr.Announced = g.store.clusters.current.Load() != nil
}

// behindQueue notes whether writes of the user wait. Those go first, together, and are charged for.
func (g *Gateway) behindQueue(wr *writing, waits bool) {
	if !waits {
		wr.Queue = policy.QueueEmpty
		return
	}
	wr.Queue = policy.QueueWaits
	g.store.TopLimited[limitWrite].Add(wr.UserID)
	g.overLimit(wr, crowdedWait)
}

// compareWrite compares a write with what its user last wrote.
func (g *Gateway) compareWrite(wr *writing) {
	wr.Repeat = policy.RepeatChanges
	if wr.trust == trustAll && g.store.repeats.Absorb(&wr.PresenceWrite, g.refresh(), wr.now) {
		wr.Repeat = policy.RepeatNothing
	}
}

// noteBudget notes whether there was an event in a writer's budget, and if not, for how long.
func (g *Gateway) noteBudget(wr *writing, wait time.Duration, ok bool) {
	wr.Budget = policy.BudgetLeft
	if !ok {
		wr.Budget = policy.BudgetEmpty
		g.overLimit(wr, wait)
	}
}

// overLimit notes how long a write has to wait, at least as long as this.
func (g *Gateway) overLimit(wr *writing, wait time.Duration) {
	wr.wait = wait
	if limit := wr.class.WriteLimit; limit != nil {
		wr.due = g.store.writes.Wait(wr.UserID, g.store.ownShare(limit), wr.now)
		if g.store.clusters.current.Load() != nil {
			wr.due = max(wr.due, wait) // the other nodes have used it up
		}
		wr.wait = max(wait, wr.due+time.Duration(wr.queued)*limit.Interval())
	}
}

// endWrite carries out a step that ends a write.
func (g *Gateway) endWrite(step policy.WriteStep, wr *writing, w http.ResponseWriter, r *http.Request, next Next) error {
	switch step {
	case policy.WriteRefuseMissing:
		writeMissingToken(w, r, "Missing access token")
	case policy.WriteRefuseUncertain:
		writeMissingToken(w, r, "Ambiguous access token: send it once, as Authorization: Bearer <token>")
	case policy.WriteRefuseUnknown:
		writeRejection(w, r, wr.who.unknown)
	case policy.WriteRefuseOther:
		writeMatrixError(w, r, http.StatusForbidden, matrixError{
			Errcode: "M_FORBIDDEN", Error: "You can only set your own presence",
		})
	case policy.WriteRefuseBody:
		writeMatrixError(w, r, wr.bad.status, wr.bad.matrixError)
	case policy.WriteLimit:
		writeLimited(w, r, wr.wait)
	case policy.WriteShed:
		writeShed(w, r, wr.wait)
	case policy.WriteFail:
		return g.failWrite(w, r, &wr.who)
	case policy.WriteCancel:
		return wr.err
	case policy.WriteAbsorb, policy.WriteCoalesce:
		writeDone(w, r, writeEnds[step])
	case policy.WriteForward:
		return g.forwardWrite(w, r, next, wr)
	}
	return nil
}

// failWrite answers a write whose sender the homeserver didn't tell.
func (g *Gateway) failWrite(w http.ResponseWriter, r *http.Request, who *owner) error {
	switch {
	case who.refusal != nil:
		writeForClient(w, r, who.refusal)
	case who.barrier != nil:
		return passOn(w, r, who.barrier)
	case who.page != nil:
		return passOn(w, r, who.page)
	default:
		g.writeUnverified(w, r, who.err)
	}
	return nil
}

// forwardWrite sends a write to the homeserver.
func (g *Gateway) forwardWrite(w http.ResponseWriter, r *http.Request, next Next, wr *writing) error {
	if wr.told.store == nil {
		wr.told = g.store.announce(r.Context(), wr.UserID)
	}
	write, began := &wr.presenceWrite, g.store.now()
	fence := g.store.presence.BeginWrite(write.UserID)
	// Also for a gateway that absorbs nothing itself: another of this store may.
	attempt := g.store.repeats.Begin(write.UserID, began)
	acknowledged, known := false, false
	answered := g.beginWrite(&write.PresenceWrite, began)
	// Also when the client went away, or the answer broke off and reverse_proxy
	// panics: the homeserver may have applied it.
	defer func() {
		g.endFence(fence, began, acknowledged, write.Body)
		if !known {
			answered(0)
			g.tellHeirs(write.UserID)
		}
		if acknowledged && write.class.Absorb {
			attempt.End(&write.PresenceWrite)
		} else {
			attempt.End(nil)
		}
	}()
	isLocal := g.isLocal(r)
	w, finish := g.watchRefusal(w, r, write.credential)
	defer finish()
	return g.forward(w, r, next, reasonWrite, func(status int) {
		wr.pass.Leave(g.store.now())
		w.Header().Add("Cache-Status", statusWrite)
		if isLocal(status) {
			status = http.StatusBadGateway // what the homeserver has made of it, nobody has said
		}
		known, acknowledged = true, isSuccess(status)
		answered(status) // before the client hears of it, as the other nodes
		g.tellHeirs(write.UserID)
		wr.told.end(r.Context())
	})
}

// endFence ends the fence of a write of this body, which began by then.
func (g *Gateway) endFence(fence cache.Write, began time.Time, acknowledged bool, body []byte) {
	if acknowledged {
		fence.Acknowledge(body, began, g.store.now(), g.settle())
	} else {
		fence.End(g.store.now(), g.settle())
	}
}

// serveActivity passes on a request by which a homeserver may take its user for active,
// so that what the user last wrote, or their device said by a sync, is no longer what their
// presence is. It is looked at before and after:
//
//	1 message: the device is online as far as we know, nothing changes by it
//	2 sync: the device is unavailable; a reader fetches that, and it is stored
//	1 message: the homeserver acts upon it, the device is online
func (g *Gateway) serveActivity(w http.ResponseWriter, r *http.Request, next Next) error {
	credential, err := matrix.ParseCredential(r.Header["Authorization"], r.URL.RawQuery)
	userID := ""
	if err == nil {
		userID = g.store.identities.LastKnown(credential)
	}
	w, finish := g.watchShown(w, r)
	defer finish()
	if userID == "" {
		// Others may have read the user's presence.
		defer g.mayChange(r, next)()
		return next.ServeHTTP(w, r)
	}
	m, device, began := g.store, g.store.identities.DeviceOf(credential, userID), g.store.now()
	active := func() (changes bool) {
		m.repeats.Disturb(userID)
		if m.needs.absorbs.Load() {
			m.tell(cluster.Active, userID)
		}
		return m.devices.Active(userID, device, g.knownDialect(), began, g.store.now())
	}
	if active() {
		m.tell(cluster.Ends, userID)
		defer func(write cache.Write) {
			write.End(g.store.now(), g.settle())
			m.tell(cluster.Ends, userID)
			g.tellHeirs(userID)
		}(m.presence.BeginWrite(userID))
	}
	defer func() {
		if active() { // a write or a sync began meanwhile, and what it brought may be over
			g.invalidate(userID)
		}
	}()
	return next.ServeHTTP(w, r)
}
