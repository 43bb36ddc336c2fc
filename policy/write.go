package policy

// WriteFacts is what is known of a write of a presence.
type WriteFacts struct {
	Credential CredentialFact

	Owner OwnerFact // by [WriteAskOwner]
	// Likewise: the owner writes their own presence, and what applies to them: repeats are
	// absorbed, and writes over the limit may wait.
	Own, Absorbs, Coalesces bool

	// BrownOut says, of the configuration, that presence gives way while the homeserver is slow.
	BrownOut bool
	// Announced says that other nodes hear of the write, with the charge for it, before it is sent.
	Announced bool

	Body   BodyFact   // by [WriteReadBody]
	Queue  QueueFact  // by [WriteLookAtQueue]
	Repeat RepeatFact // by [WriteCompare]
	Place  PlaceFact  // by [WriteTakePlace], while presence gives way
	Budget BudgetFact // by [WriteTakeBudget]
	Wait   WaitFact   // by [WriteLetWait]
}

// QueueFact is what is known of writes of the same user that were acknowledged and wait.
type QueueFact uint8

const (
	QueueUnasked QueueFact = iota
	QueueEmpty
	QueueWaits
)

// RepeatFact is what a write does to what its user last wrote.
type RepeatFact uint8

const (
	RepeatUnasked RepeatFact = iota
	RepeatNothing            // it changes nothing
	RepeatChanges            // or it isn't sure
)

// WaitFact is whether a write over the limit may wait.
type WaitFact uint8

const (
	WaitUnasked  WaitFact = iota
	WaitAccepted          // it does
	WaitRefused           // it can't: there is no room, it would take too long, or the homeserver may refuse it
)

// WriteStep is what is to be done about a write.
type WriteStep uint8

// Steps that find out a fact.
const (
	WriteAskOwner    WriteStep = iota // in memory, then the homeserver
	WriteReadBody                     // may wait for the client
	WriteLookAtQueue                  // of what waits of the user's
	WriteCompare                      // with what the user last wrote
	WriteTakePlace                    // among those that go to the homeserver while presence gives way
	WriteTakeBudget                   // of the owner's write_limit
	WriteLetWait                      // if that can be

	writeFacts // how many there are
)

// Steps that end the request.
const (
	WriteRefuseMissing   WriteStep = writeFacts + iota // 401: there is no token
	WriteRefuseUncertain                               // 401: homeservers read the credential differently
	WriteRefuseUnknown                                 // the homeserver's 401 to an unknown token
	WriteRefuseOther                                   // 403: it is another's presence
	WriteRefuseBody                                    // 400 or 413
	WriteLimit                                         // 429
	WriteShed                                          // 429, because presence gives way
	WriteFail                                          // the homeserver could not be asked, or refuses the owner
	WriteCancel                                        // nobody waits for an answer
	WriteAbsorb                                        // 200: the homeserver has heard it
	WriteCoalesce                                      // 200: it waits
	WriteForward                                       // to the homeserver

	WriteSteps // how many there are
)

// Ends tells that a step ends the request.
func (s WriteStep) Ends() bool { return s >= writeFacts }

// DecideWrite says what to do about a write. Whatever is uncertain is refused.
func DecideWrite(f *WriteFacts) WriteStep {
	switch {
	case f.Credential == CredentialMissing:
		return WriteRefuseMissing
	case f.Credential == CredentialUncertain:
		return WriteRefuseUncertain

	case f.Owner == OwnerUnasked:
		return WriteAskOwner
	case f.Owner == OwnerGone:
		return WriteCancel
	case f.Owner == OwnerLimited:
		return WriteLimit
	case f.Owner == OwnerShed:
		return WriteShed
	case f.Owner == OwnerRejected:
		return WriteRefuseUnknown
	case f.Owner != OwnerKnown:
		return WriteFail

	// Ownership comes before the budget, so that nobody spends another's, and before the body, as in
	// Synapse and Dendrite.
	case !f.Own:
		return WriteRefuseOther

	// A repeat costs no budget, what waits has to be one that is taken, and nobody keeps a place, or has other nodes
	// hold one open, while they send: all four need the body first. Else the budget comes first.
	case f.Body == BodyUnread && (f.Absorbs || f.Coalesces || f.BrownOut || f.Announced):
		return WriteReadBody
	case f.Body == BodyBad:
		return WriteRefuseBody

	// Behind a write that waits, so do all others: also where none may wait itself, at another site or
	// after a reload. Nothing is a repeat of what hasn't been sent.
	case f.Queue == QueueUnasked:
		return WriteLookAtQueue
	case f.Queue == QueueWaits:
		return decideLimitedWrite(f)

	case f.Repeat == RepeatUnasked && f.Absorbs:
		return WriteCompare
	case f.Repeat == RepeatNothing:
		return WriteAbsorb

	// A write that has no place costs no budget: it waits, and pays when it is sent.
	case f.Place == PlaceUnasked:
		return WriteTakePlace
	case f.Place == PlaceFull:
		return decideLimitedWrite(f)

	case f.Budget == BudgetUnasked:
		return WriteTakeBudget
	case f.Budget == BudgetEmpty:
		return decideLimitedWrite(f)

	case f.Body == BodyUnread:
		return WriteReadBody
	}
	return WriteForward
}

// decideLimitedWrite is about a write that can't be sent now.
func decideLimitedWrite(f *WriteFacts) WriteStep {
	switch {
	case f.Coalesces && f.Wait == WaitUnasked:
		return WriteLetWait
	case f.Wait == WaitAccepted:
		return WriteCoalesce
	case f.Place == PlaceFull:
		return WriteShed
	}
	return WriteLimit
}
