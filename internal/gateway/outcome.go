package gateway

import "net/http"

// How a presence request, or a sync that was looked at, was answered, in the variables
// matrix_presence.cache and matrix_presence.decision of the request, for access
// logs: {http.vars.matrix_presence.cache}.
const (
	varCache    = "matrix_presence.cache"
	varDecision = "matrix_presence.decision"
	varObserved = "matrix_presence.observed" // in mode observe: what would have been
)

// outcome is how a presence request was answered. Each gets exactly one.
type outcome int

const (
	outcomeHit               outcome = iota // from memory
	outcomeOlder                            // from memory, for longer than usual, because presence gives way
	outcomeStale                            // from memory, because the homeserver could not be reached
	outcomeMiss                             // by a request that was made for it
	outcomeCollapsed                        // by a request that was made for another
	outcomeBypass                           // passed on, not to be remembered
	outcomeForwarded                        // a write, a preflight or a sync that was passed on
	outcomeStrippedUnchanged                // a sync that was passed on without its presence, which changes nothing
	outcomeStrippedLimited                  // a sync that was passed on without its presence, which is too much
	outcomeAbsorbed                         // 200: a write that changes nothing
	outcomeCoalesced                        // 200: a write that waits for its user's budget
	outcomeRejected                         // 401: no token, or one that the homeserver doesn't know
	outcomeRefused                          // 403: somebody else's presence
	outcomeLimited                          // 429
	outcomeShed                             // 429, because presence gives way
	outcomeInvalid                          // 400 or 413: a body that no homeserver takes
	outcomeFailed                           // the homeserver could not be asked
	outcomeCanceled                         // the client didn't wait for the answer
	outcomeCount
)

// outcomes says what an outcome is called in metrics, and in the variables of the
// request. The word for the cache says the same as the Cache-Status field (RFC 9211)
// of the answer, and only reads and preflights that concern the cache have one.
var outcomes = [outcomeCount]struct {
	name string

	// The words are any because a constant becomes one without an allocation, and
	// a string variable doesn't.
	cache, decision any
}{
	outcomeHit:               {"hit", "hit", "answered"},
	outcomeOlder:             {"older", "stale", "answered"},
	outcomeStale:             {"stale", "stale", "answered"},
	outcomeMiss:              {"miss", "miss", "forwarded"},
	outcomeCollapsed:         {"collapsed", "miss", "forwarded"},
	outcomeBypass:            {"bypass", "bypass", "forwarded"},
	outcomeForwarded:         {"forwarded", nil, "forwarded"},
	outcomeStrippedUnchanged: {"stripped_unchanged", nil, "stripped_unchanged"},
	outcomeStrippedLimited:   {"stripped_limited", nil, "stripped_limited"},
	outcomeAbsorbed:          {"absorbed", nil, "absorbed"},
	outcomeCoalesced:         {"coalesced", nil, "coalesced"},
	outcomeRejected:          {"rejected", nil, "rejected"},
	outcomeRefused:           {"refused", nil, "refused"},
	outcomeLimited:           {"limited", nil, "limited"},
	outcomeShed:              {"shed", nil, "shed"},
	outcomeInvalid:           {"invalid", nil, "invalid"},
	outcomeFailed:            {"failed", nil, "failed"},
	outcomeCanceled:          {"canceled", nil, "canceled"},
}

// note counts the outcome of a request and sets its variables. It is called before the request
// is sent on, see [inHand].
func (g *Gateway) note(r *http.Request, o outcome) { g.noteAs(r, routeOf(r), o) }

func (g *Gateway) noteAs(r *http.Request, route route, o outcome) {
	g.store.counters.outcomes[route][o].Add(1)
	if words := &outcomes[o]; words.cache != nil {
		g.server.SetVar(r, varCache, words.cache)
	}
	g.server.SetVar(r, varDecision, outcomes[o].decision)
}
