package mutation

import "testing"

// learned are mutants of what keeps answers that pass by from permitting what the homeserver would
// refuse. A test of the guard's own package catches each.
var learned = []mutant{
	{
		name:   "no trial of rooms",
		effect: "who shares a room that the homeserver leaves out sees the others",
		edits:  []edit{{"cache/trial.go", "return ok && known.passed", "return ok || known.passed"}},
		unit:   "cache TestRoomsCountAfterATrial",
		always: true,
	},
	{
		name:   "a refusal ends no room",
		effect: "a room that the homeserver leaves out goes on to permit",
		edits:  []edit{{"cache/trial.go", "known.passed, known.seen, known.fails = false, [4]uint64{},", "known.passed, known.seen, known.fails = known.passed, [4]uint64{},"}},
		unit:   "cache TestARefusalPutsARoomOnTrialAgain",
	},
	{
		name:   "rooms are on trial one by one",
		effect: "a room that is left out counts because its users share another",
		edits:  []edit{{"cache/room.go", "r.trials.pass(shared.set, key)", "r.trials.pass(shared.rooms[0], key)"}},
		unit:   "cache TestSeveralRoomsAreOnTrialTogether",
	},
	{
		name:   "lists of others are believed",
		effect: "what an admin lists permits whoever is in it",
		edits:  []edit{{"cache/learned.go", "if !found {", "if false {"}},
		unit:   "cache TestListsThatDontHaveTheirReaderAreNotBelieved",
	},
	{
		name:   "no standing",
		effect: "a guest sees who is in a room with them",
		edits:  []edit{{"cache/room.go", "if !ok || p.standing < standing {", "if !ok {"}, {"cache/room.go", "return min(departed, p.standing)", "return departed"}},
		unit:   "cache TestWhoIsListedInARoomMaySeeTheOthers",
	},
	{
		name:   "lists outlive a membership",
		effect: "who was kicked goes on to see the others",
		edits:  []edit{{"cache/learned.go", "return max(at-int64(rules.TTL)+1, p.memberships.since(viewer), p.memberships.since(target))", "return at - int64(rules.TTL) + 1"}},
		unit:   "cache TestMembershipChangesEndWhatListsSaid",
		always: true,
	},
	{
		name:   "answers of the site teach",
		effect: "what a site says of a room permits as if the homeserver had said it",
		edits:  []edit{{"internal/gateway/learn.go", "!isLocal(status) && len(", "(true || !isLocal(status)) && len("}},
		unit:   "caddymodule TestAnswersOfTheSiteTeachNothing",
		always: true,
	},
	{
		name:   "repeated syncs teach",
		effect: "an answer that Synapse gives again permits what was true two minutes ago",
		edits:  []edit{{"internal/gateway/learn.go", "served(); again || viewer", "served(); again && false || viewer"}},
		unit:   "internal/gateway TestSyncsTellWhoMayBeSeenAndWhoHasChanged",
		always: true,
	},
	{
		name:   "a membership change ends nothing",
		effect: "a kick that passes by is seen when the permission expires",
		edits:  []edit{{"internal/gateway/membership.go", "for _, userID := range named() {", "for _, userID := range named()[:0] {"}},
		unit:   "internal/gateway TestMembershipChangesThatPassEndPermissions",
	},
	{
		name:   "a list is known to who has left",
		effect: "who has come again is asked about each user of the room",
		edits:  []edit{{"cache/learned.go", "max(p.clock(now)-int64(rules.TTL)/4+1, p.memberships.since(viewer))", "p.clock(now)-int64(rules.TTL)/4+1"}},
		unit:   "cache TestAListIsKnownForAWhileToThoseInIt",
	},
	{
		name:   "a token is of whom it names",
		effect: "who makes up a token that names alice reads as alice",
		edits:  []edit{{"internal/gateway/firstread.go", "f.answer.status == http.StatusOK && saysJSON", "f.answer.status >= http.StatusOK && saysJSON"}},
		unit:   "internal/gateway TestAMadeUpTokenThatNamesAUserIsNobodys",
		always: true,
	},
	{
		name:   "a cache proves whose a token is",
		effect: "what a cache between shows to anybody makes a made-up token somebody's",
		edits:  []edit{{"internal/gateway/firstread.go", "!a.local && len(a.header[\"Age\"]) == 0", "!a.local"}},
		unit:   "internal/gateway TestAFirstReadThatTellsNothingIsFollowedByAQuestion",
	},
	{
		name:   "tokens are believed that the homeserver gives to others",
		effect: "where something on the way changes tokens, their names count",
		edits:  []edit{{"internal/gateway/claim.go", "server == nil || k.refuted.Load()", "server == nil"}},
		unit:   "internal/gateway TestWhatIsNoFirstRead",
	},
	{
		name:   "tokens of any form name a user",
		effect: "an appservice's token that somebody has thought up names a user",
		edits:  []edit{{"internal/matrix/token.go", "last < 0 || token[last+1:] != checkOf(token[:last])", "last < 0"}},
		unit:   "internal/matrix TestOtherTokensNameNobody",
	},
	{
		name:   "an appservice's read tells whose its token is",
		effect: "an answer for one of an appservice's users is kept for its sender",
		edits:  []edit{{"internal/gateway/firstread.go", "g.knownDialect() == Auto || c.UserID != \"\" || c.DeviceID != \"\",", "g.knownDialect() == Auto,"}},
		unit:   "internal/gateway TestWhatIsNoFirstRead",
	},
	{
		name:   "a first read is kept for whom its token names",
		effect: "what one user was told is kept for another",
		edits:  []edit{{"internal/gateway/firstread.go", "!f.isHomeservers() || who.userID != f.claimed.viewer", "!f.isHomeservers() || who.userID == \"\""}},
		unit:   "internal/gateway TestAFirstReadIsKeptForItsUserOnly",
	},
	{
		name:   "a first read with an unknown token costs its client nothing",
		effect: "tokens that name users are tried without a limit",
		edits:  []edit{{"internal/gateway/firstread.go", "return q.rejectCharged(f.answer, from, asked), true", "return q.reject(f.answer, asked), true"}},
		unit:   "internal/gateway TestAMadeUpTokenThatNamesAUserIsNobodys",
	},
	{
		name:   "an excluded room permits",
		effect: "who shares it sees the others, though the admin has named it",
		edits:  []edit{{"internal/gateway/learn.go", "err != nil || g.cfg.excludesRoom(route.RoomID)", "err != nil"}},
		unit:   "internal/gateway TestWhatTeachesNothing",
	},
	{
		name:   "a list that breaks off is believed",
		effect: "what an answer would have said at its end doesn't count",
		edits:  []edit{{"internal/gateway/learn.go", "if h.end(); list.Whole() {", "if h.end(); true {"}},
		unit:   "internal/gateway TestWhatTeachesNothing",
	},
	{
		name:   "a list at another time counts",
		effect: "who has left is seen as long as somebody asks for who was there",
		edits:  []edit{{"internal/matrix/memberlist.go", "\"membership\", \"not_membership\",", "\"at\", \"membership\", \"not_membership\","}},
		unit:   "internal/matrix TestListsOfMembers",
	},
	{
		name:   "syncs teach as soon as the process is there",
		effect: "an answer that Synapse gives again, to what was asked for before, permits what was true then",
		edits:  []edit{{"internal/gateway/batches.go", "return repeated || now.Sub(b.epoch)", "return repeated || false && now.Sub(b.epoch)"}},
		unit:   "internal/gateway TestSyncsTellWhoMayBeSeenAndWhoHasChanged",
	},
	{
		name:   "a filter proves on tuwunel whose a token is",
		effect: "whoever names alice in the path of their filter reads as alice",
		edits:  []edit{{"internal/matrix/own.go", "return d == Synapse || d == Dendrite", "return d != UnknownDialect"}},
		unit:   "internal/gateway TestWhoseATokenIsIsLearnedFromWhatPasses",
	},
	{
		name:   "a filter that is refused proves whose a token is",
		effect: "likewise",
		edits:  []edit{{"internal/gateway/learn.go", "return status == http.StatusOK && !isLocal(status)", "return !isLocal(status)"}},
		unit:   "internal/gateway TestWhoseATokenIsIsLearnedFromWhatPasses",
	},
	{
		name:   "a fault of what reads an answer is the client's",
		effect: "an answer that passes by breaks off",
		edits:  []edit{{"internal/gateway/hearer.go", "if flight.Guard(h.panicked, f) != nil {", "if f(); flight.Guard(h.panicked, func() {}) != nil {"}},
		unit:   "internal/gateway TestAListenersFaultReachesNoClient",
	},
	{
		name:   "it is forgotten by the wall clock which syncs may be answered again",
		effect: "once that is set forward, a viewer who was kicked is permitted again",
		edits:  []edit{{"internal/gateway/learn.go", "m.batches.repeats(viewer, since, time.Now(), timeout)", "m.batches.repeats(viewer, since, m.clock.Now(), timeout)"}},
		unit:   "internal/gateway TestSyncThatMayBeAnsweredAgainTeachesNothingWhateverTheWallClockSays",
	},
}

func TestWhatIsLearnedIsGuarded(t *testing.T) {
	root := repository(t)
	for _, m := range learned {
		if m.isTried(t) {
			t.Run(m.name, func(t *testing.T) { failsUnit(t, root, &m) })
		}
	}
}
