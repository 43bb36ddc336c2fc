package mutation

func init() { mended["a brown-out"] = brownedOut }

const (
	brownOut = "policy/brownout.go"
	entrants = "policy/entrants.go"
	levels   = "policy/level.go"
	passes   = "policy/pass.go"
	slowness = "policy/slowness.go"
	trial    = "policy/trial.go"

	// noBrownOut is why the world doesn't show what is wrong with a brown-out.
	noBrownOut = "the world's laws say when presence may give way, and not how far, nor for how long"
)

// brownedOut are mutants of what keeps a brown-out from breaking a promise, or from swinging.
var brownedOut = []mutant{
	{
		name:   "older states without a permission",
		effect: "who was kicked reads on",
		edits:  []edit{{"cache/lookup.go", "case permitted > 0 && age < rules.Older", "case age < rules.Older"}},
		unit:   "internal/gateway TestPermissionsAreNotStretched", why: noBrownOut,
	},
	{
		name:   "stale answers to whoever is shed",
		effect: "likewise, of a homeserver that is slow and doesn't fail",
		edits:  []edit{{"internal/gateway/reading.go", "rd.Fetched == policy.FetchShed && rd.Failing", "rd.Fetched == policy.FetchShed"}},
		unit:   "internal/gateway TestPermissionsAreNotStretched", why: noBrownOut,
	},
	{
		name:   "what is passed on needs no place",
		effect: "an odd spelling goes to a homeserver that is to be spared",
		edits:  []edit{{"policy/read.go", "case !step.passesOn():", "case true:"}},
		unit:   "internal/gateway TestOffRefusesWhatNeedsTheHomeserver", why: noBrownOut,
	},
	{
		name:   "lookups need no place",
		effect: "tokens that aren't known are asked about in off",
		edits:  []edit{{"internal/gateway/whoami.go", "\tif wait > 0 {\n\t\treturn owner{shed: wait}", "\tif false {\n\t\treturn owner{shed: wait}"}},
		unit:   "internal/gateway TestOffRefusesWhatNeedsTheHomeserver", why: noBrownOut,
	},
	{
		name:   "what waits is sent in a brown-out",
		effect: "writes are no relief",
		edits:  []edit{{"internal/gateway/delivery.go", "if !d.cfg.BrownOut || left", "if true || left"}},
		unit:   "internal/gateway TestWritesWaitInABrownOut", why: noBrownOut,
	},
	{
		name:   "a write waits for too long",
		effect: "what was answered 200 is lost because the homeserver was spared",
		edits:  []edit{{"internal/gateway/delivery.go", " || left < d.cfg.Coalesce.MaxAge/4 {", " {"}},
		unit:   "internal/gateway TestWriteThatWaitsIsSentBeforeItIsTooOld", why: noBrownOut,
	},
	{
		name:   "one sender has all places",
		effect: "a client that has its own requests take long turns presence off for all",
		edits:  []edit{{slowness, "w.turn%placesEach", "w.turn"}},
		unit:   "policy TestSenderHasAFewPlaces", why: noBrownOut,
	},
	{
		name:   "anybody probes twice in a row",
		effect: "a client whose requests fail keeps presence off",
		edits:  []edit{{passes, "due += int64(probeEach) >> (2 * rank)", "due += 0"}},
		unit:   "policy TestProbesAreOfDifferentSenders", why: noBrownOut,
	},
	{
		name:   "who asks more is looked at more",
		effect: "a few clients that flood, and have their own requests take long, turn presence off for all",
		edits:  []edit{{slowness, "w.isBefore(p.sender, known.sender) ||", "known.sender != p.sender ||"}},
		unit:   "policy TestWhoAsksMoreIsLookedAtNoMore", why: noBrownOut,
	},
	{
		name:   "a sender counts once for each place",
		effect: "likewise, where few others ask",
		edits:  []edit{{slowness, "all = slices.CompactFunc(all, func(a, b heard) bool { return a.sender == b.sender })", "all = slices.Clip(all)"}},
		unit:   "policy TestVerdictIsThatOfHalfOfTheSenders", why: noBrownOut,
	},
	{
		name:   "two senders are enough",
		effect: "likewise, where nobody else asks",
		edits:  []edit{{slowness, "enoughProbes, enoughSenders = 8, 3", "enoughProbes, enoughSenders = 8, 2"}},
		unit:   "policy TestVerdictIsThatOfHalfOfTheSenders", why: noBrownOut,
	},
	{
		name:   "the quickest sender is the best",
		effect: "a client that asks for what is quick makes all others look slow",
		edits:  []edit{{slowness, "best := 2 * all[(len(all)-1)/4].took", "best := 2 * all[0].took"}},
		unit:   "policy TestQuickSenderDecidesNothingForOthers", why: noBrownOut,
	},
	{
		name:   "a few slow requests keep a level",
		effect: "at night one client keeps presence off",
		edits:  []edit{{levels, "isFew := !v.isEnough() && (b.window.refused == 0 || b.window.wanted(at) < fewWanted)", "isFew := false"}},
		unit:   "policy TestFewRequestsKeepNoLevel", why: noBrownOut,
	},
	{
		name:   "what hangs takes a place",
		effect: "after a hang presence is back only when what hung has given up",
		edits:  []edit{{levels, "b.entrants.forget() // what hangs", "_ = b.entrants // what hangs"}},
		unit:   "policy TestWhatHangsTakesNoPlaceInHold", why: noBrownOut,
	},
	{
		name:   "a level is tried again at once",
		effect: "presence comes and goes under a load that stays the same",
		edits:  []edit{{levels, " && !isTooSoon", " && (!isTooSoon || true)"}},
		unit:   "policy TestMessagesDontWaitForPresence", why: noBrownOut,
	},
	{
		name:   "a relapse outlasts its load",
		effect: "presence is back too late after a load that has come again",
		edits:  []edit{{levels, "\t\tb.relapse.until = 0 //", "\t\t_ = b //"}},
		unit:   "policy TestMessagesDontWaitForPresence", why: noBrownOut,
	},
	{
		name:   "a backlog is taken for slowness in spite of the level",
		effect: "presence is off because of what came before it gave way",
		edits:  []edit{{slowness, " || p.left < w.since {", " {"}},
		unit:   "policy TestBacklogSaysNothingOfTheLevel", why: noBrownOut,
	},
	{
		name:   "a relapse skips the level that was enough",
		effect: "presence comes and goes once more than it needs to",
		edits:  []edit{{levels, "case hurts && !b.mayRelapse(at):", "case hurts:"}},
		unit:   "policy TestRelapseIsIntoTheLevelThatWasLeft", why: noBrownOut,
	},
	{
		name:   "a few say early that a level is needed",
		effect: "three clients that have their own requests take long keep presence on hold for all",
		edits:  []edit{{passes, " && v.senders >= crowdSenders", ""}},
		unit:   "policy TestFewDontSayEarlyThatALevelIsNeeded", why: noBrownOut,
	},
	{
		name:   "the greedy have all places in hold",
		effect: "two clients that have their own requests take long keep presence off for all",
		edits:  []edit{{entrants, "had && e.limit < fewPlaces ||", "false &&"}},
		unit:   "policy TestPlacesInHoldGoRound", why: noBrownOut,
	},
	{
		name:   "the best never ages",
		effect: "an upgrade that makes the homeserver slower turns presence off for good",
		edits:  []edit{{slowness, "\t\tb.least[old%baseShares] = 0\n", "\t\t_ = old\n"}},
		unit:   "policy TestSlowerMinimumDoesntLockItIn", why: noBrownOut,
	},
	{
		name:   "places don't rest",
		effect: "those that wait leave the homeserver no moment for messages",
		edits:  []edit{{entrants, "at + int64(min(restFactor*took, holdWait))", "at"}},
		unit:   "policy TestHoldBoundsWhatIsUnderWay", why: noBrownOut,
	},
	{
		name:   "a write has a place before its body is there",
		effect: "a few that send slowly keep everybody else out",
		edits:  []edit{{"policy/write.go", "(f.Absorbs || f.Coalesces || f.BrownOut || f.Announced):", "(f.Absorbs || f.Coalesces || f.Announced):"}},
		unit:   "internal/gateway TestPlacesAreNotTheClientsToKeep", why: noBrownOut,
	},
	{
		name:   "a read has a place while its body comes",
		effect: "likewise, of people without an account",
		edits:  []edit{{"policy/read.go", "case f.Body == BodyBad: // its client", "case false: // its client"}},
		unit:   "internal/gateway TestPlacesAreNotTheClientsToKeep", why: noBrownOut,
	},
	{
		name:   "a place lasts until the client has read its answer",
		effect: "likewise, of people who don't",
		edits:  []edit{{"internal/gateway/read.go", "w = onStatus(w, func(int) { leave() })", "w = onStatus(w, func(int) {})"}},
		unit:   "internal/gateway TestPlacesAreNotTheClientsToKeep", why: noBrownOut,
	},
	{
		name:   "what isn't measured takes the turn of what is",
		effect: "the homeserver is back, and nobody finds out",
		edits:  []edit{{passes, "\tif !probing {\n", "\tif false {\n"}},
		unit:   "policy TestWhatTellsNothingDoesntKeepPresenceOff", why: noBrownOut,
	},
	{
		name:   "a turn without a question is over",
		effect: "likewise, by clients whom the site or their own limit keeps off",
		edits:  []edit{{passes, "if b.now() == BrownOutOff && p.turn == b.turn && b.untold {", "if false {"}},
		unit:   "policy TestWhatTellsNothingDoesntKeepPresenceOff", why: noBrownOut,
	},
	{
		name:   "each token is a sender",
		effect: "one user with three devices turns presence off for all",
		edits:  []edit{{"internal/gateway/whoami.go", "cmp.Or(m.identities.Holder(c), from.name)", "cmp.Or(from.name)"}},
		unit:   "internal/gateway TestOneClientDecidesNothing", why: noBrownOut,
	},
	{
		name:   "nothing is held before it is known to be slow",
		effect: "after a start hundreds of requests are under way, and messages wait for them",
		edits:  []edit{{passes, "b.entrants.underWay >= coldCrowd &&", "false &&"}},
		unit:   "policy TestCrowdBeforeAnythingIsKnown", why: noBrownOut,
	},
	{
		name:   "a few are a crowd",
		effect: "after a start one client has presence give way",
		edits:  []edit{{passes, " && b.window.sendersAway() >= crowdSenders", ""}},
		unit:   "policy TestCrowdBeforeAnythingIsKnown", why: noBrownOut,
	},
	{
		name:   "more places are tried all the time",
		effect: "messages wait for presence that goes up",
		edits:  []edit{{trial, "refused > manyRefused && at >= t.until && (share && t.times == 0 || t.isQuiet())", "refused > manyRefused"}},
		unit:   "policy TestPlacesAreTriedCarefully", why: noBrownOut,
	},
	{
		name:   "places that were too many aren't tried again when less is wanted",
		effect: "presence is back late",
		edits:  []edit{{trial, "t.until, t.times, t.needed = 0, 0, 0", "_ = t"}},
		unit:   "policy TestMessagesDontWaitForPresence", why: noBrownOut,
	},
	{
		name:   "a machine that slept was slow",
		effect: "presence gives way after each suspend",
		edits:  []edit{{brownOut, "if lasted > 2*longWindow {", "if false {"}},
		unit:   "policy TestSleepIsNoSlowness", why: noBrownOut,
	},
}
