package mutation

func init() { mended["the feed"] = fed }

// noFeed is why the world doesn't show what is wrong with a feed.
const noFeed = "the world has no feed"

// anyRowProves is an edit that two mutants have.
var anyRowProves = edit{"cache/row.go", "last := newest && (quiet || f.proof.isRows())", "last := true"}

// betweenRows are mutants that the history test catches with a feed.
var betweenRows = []mutant{
	{
		name:     "a row is no write",
		effect:   "a read after it shares, or finds, an answer from before it",
		edits:    []edit{{"cache/row.go", "\t\tf.invalidate()\n\t\tf.settled", "\t\tf.settled"}},
		scenario: "feed-past",
	},
	{
		name:     "any row is a proof",
		effect:   "an answer is stored that shows what was before the last write",
		edits:    []edit{anyRowProves},
		scenario: "feed-late",
	},
	{
		name:     "a write's row ends nothing that a row of another change has begun",
		effect:   "what was written past the sidecar is not seen",
		edits:    []edit{{"cache/row.go", "f.stamp = max(f.stamp, row.Stamp)\n", "f.stamp = max(f.stamp, row.Stamp)\n\tif f.settled > at {\n\t\treturn RowUnread\n\t}\n"}},
		scenario: "feed-past",
	},
}

// fed are mutants of what keeps a feed from showing anybody anything wrong.
var fed = []mutant{
	{
		name:   "memberships never change",
		effect: "who was kicked elsewhere reads on",
		edits:  []edit{{lookup, "} else if allowed != never && !p.memberships.hold(viewer, target, allowed) {", "} else if false {"}},
		unit:   "cache TestMembershipChangeEndsWhatIsKnownOfBothSides", why: noFeed,
	},
	{
		name:   "a denial outlives a join",
		effect: "who has joined elsewhere gets 403 until it is old",
		edits:  []edit{{lookup, "if !p.memberships.hold(viewer, target, denied.departed) {", "if false {"}},
		unit:   "cache TestMembershipChangeEndsWhatIsKnownOfBothSides", why: noFeed,
	},
	{
		name:   "a membership change is the viewer's only",
		effect: "whoever could see a user who was kicked still can",
		edits:  []edit{{"cache/membership.go", "return departed >= m.since(viewer) && departed >= m.since(target)", "return departed >= m.since(viewer)"}},
		unit:   "cache TestMembershipChangeEndsWhatIsKnownOfBothSides", why: noFeed,
	},
	{
		name:   "a fetch from before a kick is shared",
		effect: "who was kicked gets it",
		edits: []edit{{"internal/gateway/share.go", "g.store.presence.DeniedSince(who.viewer, who.target, result.departed) ||\n\t\t!g.store.presence.MembershipHolds(who.viewer, who.target, result.departed)",
			"g.store.presence.DeniedSince(who.viewer, who.target, result.departed)"}},
		unit: "internal/gateway TestFetchFromBeforeAMembershipChangeIsNotShared", why: noFeed,
	},
	{
		name:   "a row is no write",
		effect: "an answer from before it is stored after it",
		edits:  []edit{{"cache/row.go", "\t\tf.invalidate()\n\t\tf.settled", "\t\tf.settled"}},
		unit:   "cache TestAnswerThatARowOvertookIsNotStored", why: noFeed,
	},
	{
		name:   "a row that says what is known is no write",
		effect: "likewise, if an answer that came first showed the change",
		edits:  []edit{{"cache/row.go", "if quiet { // else", "if false { // else"}},
		unit:   "cache TestAnswerThatARowOvertookIsNotStored", why: noFeed,
	},
	{
		name:   "any row is a proof",
		effect: "an answer is stored that shows what was before the last write, as the row of that does",
		edits:  []edit{anyRowProves},
		unit:   "cache TestRowThatMayNotBeTheLastWordProvesNothing", why: noFeed,
	},
	{
		name:   "a loss is none",
		effect: "what was missed is shown for minutes",
		edits:  []edit{{"internal/gateway/follower.go", "\tf.whole = now\n", "\t_ = now\n"}},
		unit:   "integration/leaks TestNobodySeesOrChangesWhatTheHomeserverRefuses", why: noFeed,
	},
	{
		name:   "a row that is older than the one before counts",
		effect: "a state that has ended is shown",
		edits:  []edit{{"cache/row.go", "case newest && quiet", "case (newest || true) && quiet"}},
		unit:   "cache TestRowThatMayBeOlderThanTheStateOnlyDropsIt", why: noFeed,
	},
	{
		name:   "a row may come late",
		effect: "it takes the place of a newer answer",
		edits:  []edit{{"cache/row.go", " && !row.Late", ""}},
		unit:   "cache TestRowThatMayBeOlderThanTheStateOnlyDropsIt", why: noFeed,
	},
	{
		name:   "a row takes the place of what has just been fetched",
		effect: "likewise",
		edits:  []edit{{"cache/row.go", " && at-st.arrived >= int64(settle)", ""}},
		unit:   "cache TestRowThatMayBeOlderThanTheStateOnlyDropsIt", why: noFeed,
	},
	{
		name:   "a write is believed whatever the feed says meanwhile",
		effect: "an answer from between two changes is stored",
		edits:  []edit{{fence, " && (f.row == 0 || f.row == expects.digest)", ""}},
		unit:   "cache TestRowOfAnotherChangeEndsTheProofOfAWrite", why: noFeed,
	},
	{
		name:   "what is online is live",
		effect: "last_active_ago is minutes too high",
		edits:  []edit{{"cache/live.go", "st.answer.resting && p.isLive", "p.isLive"}},
		unit:   "cache TestOnlineStateIsAskedForAgainEachTTL", why: noFeed,
	},
	{
		name:   "what was there before a loss is live",
		effect: "what the feed missed is shown for minutes",
		edits:  []edit{{"cache/live.go", "return departed >= p.live.Load()", "return departed >= 0 && p.live.Load() != notLive"}},
		unit:   "cache TestWhatIsNotLiveLivesForTTL", why: noFeed,
	},
	{
		name:   "a feed that was never heard is believed",
		effect: "with a wrong server_name nothing that changes is seen for minutes",
		edits:  []edit{{"internal/gateway/follower.go", "f.state, f.heard, f.evidence = feedWaiting, now, time.Time{}\n\tf.mu.Unlock()", "f.state, f.whole, f.heard, f.evidence = feedLive, now, now, time.Time{}\n\tf.mu.Unlock()"}},
		unit:   "internal/gateway TestFeedThatNeverSpeaksIsNotBelieved", why: noFeed,
	},
	{
		name:   "nothing is awaited",
		effect: "a feed of another homeserver is believed",
		edits:  []edit{{"internal/gateway/follower.go", "if f.store.presence.RowsOverdue(now) {", "if f.store.presence.RowsOverdue(now) && false {"}},
		unit:   "internal/gateway TestFeedThatDoesNotTellOfAWriteIsDoubted", why: noFeed,
	},
	{
		name:   "a gap is none",
		effect: "what was missed is shown for minutes",
		edits:  []edit{{"redis/internal/replication/position.go", "case previous > last:", "case previous > last && false:"}},
		unit:   "redis/internal/replication TestLinesOfAServer", why: noFeed,
	},
	{
		name:   "a repeated row proves a write again",
		effect: "an answer from before another change is stored",
		edits:  []edit{{"cache/row.go", "if !newest && f.row != 0 && f.row != shows {", "if false {"}},
		unit:   "cache TestRowOfAnotherChangeEndsTheProofOfAWrite", why: noFeed,
	},
	{
		name:   "a row that isn't clear says nothing of a write",
		effect: "likewise, if what the feed tells of the change isn't clear",
		edits:  []edit{{"cache/row.go", "f.noteRow(cmp.Or(shows, unclear), newest)", "f.noteRow(cmp.Or(shows, 0), newest)"}},
		unit:   "cache TestRowOfAnotherChangeEndsTheProofOfAWrite", why: noFeed,
	},
	{
		name:   "two presences that aren't clear are the same",
		effect: "a change from one to the other isn't seen",
		edits:  []edit{{"cache/row.go", "st.answer != nil && shows != 0 && shows == p", "st.answer != nil && shows == p"}},
		unit:   "cache TestRowThatIsUnclearIsNotTheSame", why: noFeed,
	},
	{
		name:   "a row proves what it says while a write waits",
		effect: "a state is kept of a user whose write waits",
		edits:  []edit{{"cache/row.go", "quiet := f.isSettled(at) && !shard.waiting[row.Target]", "quiet := f.isSettled(at)"}},
		unit:   "cache TestRowProvesNothingWhileAWriteWaits", why: noFeed,
	},
	{
		name:   "a row takes a state's place though something settles",
		effect: "it may be older than what has just been written, or told",
		edits:  []edit{{"cache/row.go", "case newest && quiet && !row.Late", "case newest && !row.Late"}},
		unit:   "cache TestRowThatMayBeOlderThanTheStateOnlyDropsIt", why: noFeed,
	},
	{
		name:   "a row that isn't clear takes a state's place",
		effect: "what is served may not be what the homeserver answers",
		edits:  []edit{{"cache/row.go", "!row.Late && shows != 0 && st", "!row.Late && st"}},
		unit:   "cache TestRowThatMayBeOlderThanTheStateOnlyDropsIt", why: noFeed,
	},
	{
		name:   "a row that says an impossible time takes a state's place",
		effect: "likewise",
		edits:  []edit{{"cache/row.go", " && row.Answer.truthful() > 0", ""}},
		unit:   "cache TestRowThatMayBeOlderThanTheStateOnlyDropsIt", why: noFeed,
	},
	{
		name:   "a row that repeats what has settled is no write",
		effect: "an answer is stored that shows what was between",
		edits:  []edit{{"cache/row.go", "f.proof.digest == shows && at < f.settled:", "f.proof.digest == shows:"}},
		unit:   "cache TestRowThatRepeatsWhatHasSettledIsAWrite", why: noFeed,
	},
	{
		name:   "nothing settles after a row",
		effect: "the answer of a process that doesn't know of the change yet is stored",
		edits:  []edit{{"cache/row.go", "\t\tf.settled = max(f.settled, at+int64(settle))\n", ""}},
		unit:   "cache TestUntilARowHasSettledAnAnswerMustShowIt", why: noFeed,
	},
	{
		name:   "nothing settles after a row that says what is known",
		effect: "likewise, where an answer came before the row",
		edits:  []edit{{"cache/row.go", "if quiet && newest {", "if quiet && newest && settle < 0 {"}},
		unit:   "cache TestUntilARowThatSaysWhatIsKnownHasSettledAnAnswerMustShowIt", why: noFeed,
	},
	{
		name:   "a row that is repeated is a change",
		effect: "nothing that has changed since is kept for a second, each minute",
		edits:  []edit{{"cache/row.go", "if quiet && newest {", "if quiet {"}},
		unit:   "cache TestUntilARowThatSaysWhatIsKnownHasSettledAnAnswerMustShowIt", why: noFeed,
	},
	{
		name:   "a row that may be old drops nothing",
		effect: "what it contradicts is shown on",
		edits:  []edit{{"cache/row.go", "\tp.drop(shard, key)\n\treturn RowDropped", "\treturn RowDropped"}},
		unit:   "cache TestRowEndsTheStatesOfAllViewers", why: noFeed,
	},
	{
		name:   "a row ends no wait for it",
		effect: "each write through us has the feed doubted",
		edits:  []edit{{"cache/row.go", "\tdelete(shard.awaited, row.Target)\n", ""}},
		unit:   "cache TestRowIsAwaitedAfterAWriteThatChangesSomething", why: noFeed,
	},
	{
		name:   "what comes late is taken for what comes in time",
		effect: "a row takes the place of a newer answer",
		edits:  []edit{{"internal/gateway/follower.go", "Late: late}", "Late: late && false}"}},
		unit:   "internal/gateway TestNewsThatComesLateIsNotServed", why: noFeed,
	},
	{
		name:   "the first that comes is in time",
		effect: "likewise: nobody knows how long news takes",
		edits:  []edit{{"internal/gateway/pace.go", "return known == unknownPace || took-known > most", "return known != unknownPace && took-known > most"}},
		unit:   "internal/gateway TestPaceIsByTheQuickest", why: noFeed,
	},
	{
		name:   "what is repeated says how long news takes",
		effect: "likewise: what comes after it is never late",
		edits:  []edit{{"internal/gateway/pace.go", "if stamp > p.newest {", "if stamp >= 0 {"}},
		unit:   "internal/gateway TestPaceIsByTheQuickest", why: noFeed,
	},
	{
		name:   "news is as quick as it ever was",
		effect: "once a clock was set, no row is believed any more",
		edits:  []edit{{"internal/gateway/pace.go", "if now.Sub(p.began) > paceSpan {", "if p.began.IsZero() {"}},
		unit:   "internal/gateway TestPaceIsByTheQuickest", why: noFeed,
	},
	{
		name:   "a stamp of the year 10000 is one",
		effect: "no row is newer for ever",
		edits:  []edit{{"internal/gateway/follower.go", "ms >= 0 && time.UnixMilli(ms).Year() < 10_000", "ms >= 0"}},
		unit:   "internal/gateway TestWhatIsNoPresenceIsRefused", why: noFeed,
	},
	{
		name:   "a user's memberships settle at once",
		effect: "the answer of a worker that doesn't know of a kick permits for minutes",
		edits:  []edit{{"internal/gateway/follower.go", "f.store.presence.MembershipChanged(userID, f.store.now(), f.store.settles())", "f.store.presence.MembershipChanged(userID, f.store.now(), 0)"}},
		unit:   "internal/gateway TestAnswerOfAWorkerThatDoesNotKnowOfAKickPermitsNothing", why: noFeed,
	},
	{
		name:   "all memberships settle at once",
		effect: "likewise, where a room is deleted",
		edits:  []edit{{"internal/gateway/follower.go", "f.store.presence.AllMembershipsChanged(f.store.now(), f.store.settles())", "f.store.presence.AllMembershipsChanged(f.store.now(), 0)"}},
		unit:   "internal/gateway TestAnswerOfAWorkerThatDoesNotKnowOfAKickPermitsNothing", why: noFeed,
	},
	{
		name:   "what was before the first line is live",
		effect: "what was told before the feed was there is shown for minutes",
		edits:  []edit{{"internal/gateway/follower.go", "f.state, f.whole = feedLive, now", "f.state, f.whole = feedLive, f.store.began"}},
		unit:   "internal/gateway TestFeedThatFallsSilentIsDoubtedUntilItSpeaks", why: noFeed,
	},
	{
		name:   "a lost feed is believed",
		effect: "what changes while there is no connection is shown for minutes",
		edits:  []edit{{"internal/gateway/follower.go", "\tf.state = feedConnecting\n", ""}},
		unit:   "internal/gateway TestWhatTheFeedCoversLivesLonger", why: noFeed,
	},
	{
		name:   "a silent feed is believed",
		effect: "while Synapse has lost its own connection, nothing that changes is seen for minutes",
		edits:  []edit{{"internal/gateway/follower.go", "if f.isSilent(now) {", "if f.isSilent(now) && false {"}},
		unit:   "internal/gateway TestFeedThatFallsSilentIsDoubtedUntilItSpeaks", why: noFeed,
	},
	{
		name:   "a feed is believed after a suspend",
		effect: "what was told meanwhile is never known",
		edits:  []edit{{"internal/gateway/follower.go", "if now.Sub(last) > feedStall {", "if now.Sub(last) > feedStall && false {"}},
		unit:   "internal/gateway TestFeedIsDoubtedAfterTheMachineStoodStill", why: noFeed,
	},
	{
		name:   "answers about a token that has just ended are remembered",
		effect: "a worker that doesn't know of the logout yet makes it read for two minutes",
		edits:  []edit{{"internal/identity/inquiry.go", "if t.settles(key, who.UserID, learned.asked) {", "if false {"}},
		unit:   "internal/gateway TestAnswerOfAWorkerThatDoesNotKnowOfALogoutIsNotRemembered", why: noFeed,
	},
}
