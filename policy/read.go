package policy

// ReadFacts is what is known of a read of somebody's presence.
type ReadFacts struct {
	// Of the configuration: answers are kept, some class has a read_limit, and a stale answer may be
	// served while the homeserver is down.
	Cached, Limited, StaleIfError bool

	Credential CredentialFact
	Canonical  bool // the path is in the spelling that clients use, and answers are kept for

	Body   BodyFact   // by [ReadLookForBody]
	Owner  OwnerFact  // by [ReadAskOwner], and then [ReadStaleOwner]
	Budget BudgetFact // by [ReadTakeBudget], or [ReadTakeBudgets]
	Client BudgetFact // by [ReadCheckClient]
	Found  FoundFact  // by [ReadLookUp]
	Place  PlaceFact  // by [ReadTakePlace]

	// BrownOut is the level at which the read was looked up. Failing tells that the homeserver fails, and not
	// only is slow, so that a request of ours would fail too.
	BrownOut BrownOutLevel
	Failing  bool

	Fetched FetchFact // by [ReadFetch]
	Stale   bool      // likewise: the fetch failed, and there is a stale answer
}

// FoundFact is what memory has for a read.
type FoundFact uint8

const (
	FoundUnasked   FoundFact = iota
	FoundAnswer              // a fresh presence, or a fresh 403 or 404
	FoundNothing             // nothing fresh
	FoundUncached            // the answer was too large, or not for all, a moment ago
	FoundForOrigin           // the homeserver names the origin of each reader in its answers
	FoundOlder               // a presence that is no longer fresh, for a viewer with permission, while presence gives way
)

// FetchFact is what a request of ours has brought for a read.
type FetchFact uint8

const (
	FetchUnasked  FetchFact = iota
	FetchOwn                // an answer, by a request that was made for this reader
	FetchShared             // an answer, by a request that was made for another
	FetchFound              // no request: the answer had come into memory meanwhile
	FetchNothing            // nothing in time, or too many are under way
	FetchFailed             // an error
	FetchLarge              // an answer that isn't kept in whole
	FetchEnded              // meanwhile it is no longer sure whose the credential is
	FetchCanceled           // the client left meanwhile
	FetchShed               // no request: presence gives way
)

// ReadStep is what is to be done about a read.
type ReadStep uint8

// Steps that find out a fact.
const (
	ReadLookForBody ReadStep = iota // may wait for the client
	ReadAskOwner                    // in memory, then the homeserver
	ReadStaleOwner                  // in memory, also if it is older, by as much as an answer may be
	ReadTakeBudget                  // of the owner's read_limit
	ReadTakeBudgets                 // likewise of the owner of each token that an uncertain credential has
	ReadCheckClient                 // whether too many of the client's tokens were made up, unless this one was ever known
	ReadLookUp                      // in memory
	ReadFetch                       // by a request of ours, or of another reader's
	ReadTakePlace                   // among those that go to the homeserver while presence gives way

	readFacts // how many there are
)

// Steps that end the request. To pass it on is to send it to the homeserver as it came.
const (
	ReadRefuseMissing ReadStep = readFacts + iota // 401: there is no token
	ReadRefuseUnknown                             // the homeserver's 401 to an unknown token
	ReadLimit                                     // 429
	ReadShed                                      // 429, because presence gives way

	ReadPassOff         // nothing is kept
	ReadPassSpelling    // its path isn't in the spelling that clients use
	ReadPassUncertain   // homeservers read its credential differently
	ReadPassUnknown     // the homeserver doesn't tell whose it is
	ReadPassRefused     // the homeserver refuses its owner
	ReadPassRequest     // it has a body, or asks for another protocol
	ReadPassOrigin      // the answer is for its origin
	ReadPassUncacheable // the answer isn't kept
	ReadPassBusy        // our own request takes too long, or there are too many
	ReadPassLarge       // our own request brought too much

	ReadAnswer      // from memory
	ReadAnswerOlder // from memory, because presence gives way
	ReadAnswerStale // from memory, because the homeserver fails
	ReadForward     // what our own request brought
	ReadShare       // what another reader's request brought
	ReadFail        // the error that our own request brought
	ReadCancel      // nobody waits for an answer

	ReadSteps // how many there are
)

// Ends tells that a step ends the request.
func (s ReadStep) Ends() bool { return s >= readFacts }

// DecideRead says what to do about a read. We never make the homeserver less available than it is:
// where something isn't known, its own answer to the read is the right one. But what would be passed on
// needs a place while presence gives way.
func DecideRead(f *ReadFacts) ReadStep {
	if f.BrownOut < BrownOutHold {
		return decideRead(f)
	}
	if f.Body == BodyUnread {
		return ReadLookForBody
	}
	step := decideRead(f)
	switch {
	case !step.passesOn():
	case f.Body == BodyBad: // its client would decide how long it takes the place of others
		return ReadShed
	case f.Place == PlaceUnasked:
		return ReadTakePlace
	case f.Place == PlaceFull:
		return ReadShed
	}
	return step
}

// passesOn tells that a step sends the read to the homeserver as it came.
func (s ReadStep) passesOn() bool { return s >= ReadPassOff && s <= ReadPassLarge }

func decideRead(f *ReadFacts) ReadStep {
	switch {
	case !f.Cached && !f.Limited:
		return ReadPassOff
	case f.Credential == CredentialMissing && f.Canonical:
		return ReadRefuseMissing
	case f.Credential == CredentialMissing:
		return ReadPassSpelling
	case f.Credential == CredentialUncertain:
		return decideUncertainRead(f)

	// Before anything is looked up: what is known may change until the body comes.
	case f.Body == BodyUnread && f.Cached && f.Canonical:
		return ReadLookForBody

	case f.Owner == OwnerUnasked:
		return ReadAskOwner
	case (f.Owner == OwnerDown || f.Owner == OwnerShed && f.Failing) && f.StaleIfError:
		return ReadStaleOwner // as long as a stale answer is good enough, so is who was asking for it
	case f.Owner == OwnerGone:
		return ReadCancel
	case f.Owner == OwnerRejected && f.Canonical:
		return ReadRefuseUnknown
	case f.Owner == OwnerLimited:
		return ReadLimit
	case f.Owner == OwnerShed:
		return ReadShed
	case f.Owner == OwnerRefused:
		return ReadPassRefused
	case f.Owner != OwnerKnown:
		return decideAnonymousRead(f, ReadPassUnknown)

	// Every spelling counts, with a body and without: the homeserver would serve it.
	case f.Budget == BudgetUnasked:
		return ReadTakeBudget
	case f.Budget == BudgetEmpty:
		return ReadLimit

	case !f.Cached:
		return ReadPassOff
	case !f.Canonical:
		return ReadPassSpelling
	case f.Body == BodyBad:
		return ReadPassRequest
	}
	return decideCachedRead(f)
}

// decideUncertainRead is about a read whose credential homeservers read differently. It is charged
// to the user of every token that it might be, so that such spellings are no way around a limit.
func decideUncertainRead(f *ReadFacts) ReadStep {
	switch {
	case f.Limited && f.Budget == BudgetUnasked:
		return ReadTakeBudgets
	case f.Budget == BudgetEmpty:
		return ReadLimit
	case f.Owner == OwnerGone:
		return ReadCancel
	}
	return decideAnonymousRead(f, ReadPassUncertain)
}

// decideAnonymousRead is about a read whose sender isn't known. It is passed on, unless its
// client makes tokens up.
func decideAnonymousRead(f *ReadFacts, pass ReadStep) ReadStep {
	switch f.Client {
	case BudgetUnasked:
		return ReadCheckClient
	case BudgetEmpty:
		return ReadLimit
	}
	return pass
}

// decideCachedRead is about a read within its owner's budget that memory may answer.
func decideCachedRead(f *ReadFacts) ReadStep {
	switch f.Found {
	case FoundUnasked:
		return ReadLookUp
	case FoundAnswer:
		return ReadAnswer
	case FoundUncached:
		return ReadPassUncacheable
	case FoundForOrigin:
		return ReadPassOrigin
	case FoundOlder:
		return ReadAnswerOlder
	}
	switch {
	case f.Fetched == FetchUnasked:
		return ReadFetch
	case f.Fetched == FetchCanceled:
		return ReadCancel
	case f.Fetched == FetchEnded:
		return decideAnonymousRead(f, ReadPassUnknown)
	case f.Fetched == FetchFound:
		return ReadAnswer
	case f.Stale:
		return ReadAnswerStale
	case f.Fetched == FetchShed:
		return ReadShed
	case f.Fetched == FetchNothing:
		return ReadPassBusy
	case f.Fetched == FetchFailed:
		return ReadFail
	case f.Fetched == FetchLarge:
		return ReadPassLarge
	case f.Fetched == FetchShared:
		return ReadShare
	}
	return ReadForward
}
