package policy

// Two decisions say what becomes of a presence request: [DecideRead] and [DecideWrite]. Both are
// pure, and are tables to be read from top to bottom: the first case that holds decides.
//
// A decision is a step. Some steps end the request. The others find out one more fact, because it
// costs something (a question to the homeserver, a body to wait for, an event of a budget), and then
// the decision is made again with it. So what is found out, when, and in which order, is written down
// in the two tables only.
//
// There are two executors. In mode enforce a step is carried out as it says; in mode observe the
// request has gone to the homeserver as it came, its answer stands for the one that we would have
// asked for, and the step in which it would have ended is counted.
//
// The zero value of each fact says that nobody has found it out yet.

// CredentialFact is how a request tells whose it is.
type CredentialFact uint8

const (
	CredentialMissing   CredentialFact = iota
	CredentialUncertain                // homeservers read it differently
	CredentialCertain
)

// OwnerFact is what is known of whose a certain credential is.
type OwnerFact uint8

const (
	OwnerUnasked  OwnerFact = iota
	OwnerKnown              // a user
	OwnerRejected           // nobody: the homeserver doesn't know the token
	OwnerRefused            // the homeserver knows the token, and refuses it: the account is locked, for example
	OwnerLimited            // it can't be asked: too many questions, or too many made-up tokens of this client
	OwnerDown               // the homeserver fails
	OwnerUnknown            // it was asked, and hasn't told
	OwnerGone               // the client left meanwhile
	OwnerShed               // it isn't asked: presence gives way
)

// BudgetFact is what is left of a budget.
type BudgetFact uint8

const (
	BudgetUnasked BudgetFact = iota
	BudgetLeft               // what it takes has been taken
	BudgetEmpty
)

// PlaceFact is whether a presence request may go to the homeserver, while presence gives way to all else
// there: see [BrownOut].
type PlaceFact uint8

const (
	PlaceUnasked PlaceFact = iota
	PlaceTaken             // or none is needed
	PlaceFull
)

// BodyFact is what is known of a request's body.
type BodyFact uint8

const (
	BodyUnread BodyFact = iota
	BodyGood            // of a write: one that a homeserver may take; of a read: there is none
	BodyBad             // of a write: one that no homeserver takes; of a read: there is one, or it asks for another protocol
)
