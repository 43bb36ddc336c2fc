package mutation

func init() { mended["the feed"] = fed }

// noFeed is why the world doesn't show what is wrong with a feed.
const noFeed = "the world has no feed"

// The edits that more than one mutant has.
var (
	sameIsNoWrite = edit{"cache/row.go", "if quiet { // else", "if false { // else"}
	anyRowProves  = edit{"cache/row.go", "last := newest && (quiet || f.proof.isRows())", "last := true"}
)

// betweenRows are mutants that the history test catches with a feed.
var betweenRows = []mutant{
	{
		name:     "a row is no write",
		effect:   "a read after it shares, or finds, an answer from before it",
		edits:    []edit{{"cache/row.go", "\t\tf.invalidate()\n\t\tf.settled", "\t\tf.settled"}},
		scenario: "feed-past",
	},
	{
		name:     "a row that says what is known is no write",
		effect:   "likewise, if an answer that came first showed the change",
		edits:    []edit{sameIsNoWrite},
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
		edits:  []edit{sameIsNoWrite},
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
}
