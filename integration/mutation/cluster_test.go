package mutation

func init() { mended["a cluster"] = clustered }

// noCluster is why the world doesn't show what is wrong with a cluster.
const noCluster = "the world has one node"

// clustered are mutants whose effect shows for a moment only, or nothing of what is read. Tests of the package itself
// find it; those of the history test are in betweenNodes.
var clustered = []mutant{
	{
		name:   "nothing is dropped after a silence",
		effect: "what was written while nobody could be told is shown as it was",
		edits:  []edit{{pull, "n.drop(Silence, false)", "n.report.Flushed(Silence)"}},
		unit:   "internal/cluster TestWriteIsHeldUpForAsLongAsOthersMayBelieveTheirMemory", why: noCluster,
	},
	{
		name:   "no write is held up",
		effect: "a write is acknowledged while others believe what they remember of before",
		edits:  []edit{{writes, "max(n.contact.failed(now), now.Sub(began)) >= n.patience()", "now.Sub(began) >= 0 && n.patience() > 0"}},
		unit:   "internal/cluster TestWriteIsHeldUpForAsLongAsOthersMayBelieveTheirMemory", why: noCluster,
	},
	{
		name:   "the roll is not answered",
		effect: "a node that begins anew keeps what a write in flight makes untrue",
		edits:  []edit{{writes, "if w.roll != roll {", "if false {"}},
		unit:   "internal/cluster TestNodeThatJoinsHearsOfWritesInFlight", why: noCluster,
	},
	{
		name:   "reads are held but not counted",
		effect: "more reads pass several nodes than one process would let pass",
		edits:  []edit{{"internal/gateway/chunks.go", "charge.Burst -= held", "held = 0"}},
		unit:   "internal/gateway TestBudgetOfReadsIsNeverExceeded", why: noCluster,
	},
	{
		name:   "a write in flight isn't announced to the cluster that its node has joined since",
		effect: "a reload has another node show what was true before the write",
		edits:  []edit{{"internal/gateway/announcement.go", "c != nil && c != a.member {", "c != nil && c != a.member && false {"}},
		unit:   "internal/gateway TestWriteInFlightWhenANodeJoinsIsAnnounced", why: noCluster,
	},
	{
		name:   "an old limit's reads are under the new one",
		effect: "a raised limit takes effect after an hour",
		edits:  []edit{{"internal/gateway/chunks.go", "chunkKey{userID, *limit}", "chunkKey{userID: userID}"}},
		unit:   "internal/gateway TestAnotherLimitOfReadsTakesEffectAtOnceInACluster", why: noCluster,
	},
	{
		name:   "after a reload that failed tokens keep its names",
		effect: "a logout through another node isn't understood",
		edits:  []edit{{"internal/gateway/cluster.go", "current.store.identities.Rekey(current.rules.Secret)", "_ = current"}},
		unit:   "internal/gateway TestTokensHaveTheirNamesAgainAfterAReloadThatFailed", why: noCluster,
	},
	{
		name:   "another secret brings back what was remembered under it",
		effect: "a token that was logged out meanwhile reads again",
		edits:  []edit{{"internal/identity/key.go", "\t\tt.RevokeAll()\n", ""}},
		unit:   "internal/gateway TestTokensHaveTheirNamesAgainAfterAReloadThatFailed", why: noCluster,
	},
	{
		name:   "what was missed of tokens has settled",
		effect: "one that was logged out through another node reads on, if a process of the homeserver doesn't know of that yet",
		edits:  []edit{{"internal/gateway/cluster.go", "\t\tm.identities.SettleAll(m.settled())\n", ""}},
		unit:   "internal/gateway TestAnswerOfAWorkerThatDoesNotKnowOfALogoutIsNotRemembered", why: noCluster,
	},
	{
		name:   "syncs that another node may have passed on teach",
		effect: "who was kicked reads on",
		edits:  []edit{{"internal/gateway/learn.go", "|| m.clusters.current.Load() != nil", "|| false"}},
		unit:   "internal/gateway TestSyncThatMayBeAnsweredAgainTeachesNothingAnywhere", why: noCluster,
	},
	{
		name:   "a write goes though another waits",
		effect: "the older one comes after it",
		edits:  []edit{{"redis/scripts/append.lua", "if behind and ARGV[12] ~= '1' then", "if false then"}},
		unit:   "integration/history TestWritesThatWaitComeInTheirOrder", why: noCluster,
	},
	{
		name:   "no write takes another's place",
		effect: "a device's older write is sent beside the newer",
		edits:  []edit{{"redis/scripts/append.lua", "take(turns, its)", ""}},
		unit:   "redis TestTurnsOfWritesThatWait", why: noCluster,
	},
	{
		name:   "what waited at a node that slept is sent in any case",
		effect: "when the node wakes, it comes after a newer one",
		edits:  []edit{{"redis/scripts/append.lua", "take(KEYS[5], late)", ""}},
		unit:   "redis TestTurnsOfWritesThatWait", why: noCluster,
	},
	{
		name:   "what was sent in vain at a node that slept is tried again in any case",
		effect: "when the node wakes, it comes after a newer one",
		edits:  []edit{{"redis/scripts/turns.lua", "'^(%d+) ([ws]) (%x+)$')\n\t\tif at and", "'^(%d+) ([ws]) (%x+)$')\n\t\tif at and state == 'w' and"}},
		unit:   "redis TestTurnsOfWritesThatWait", why: noCluster,
	},
	{
		name:   "what a node that ends has passed is sent in any case",
		effect: "it comes after a newer one",
		edits:  []edit{{"redis/scripts/append.lua", "take(KEYS[5], passed)", ""}},
		unit:   "redis TestTurnsOfWritesThatWait", why: noCluster,
	},
	{
		name:   "a write that has waited goes when a call fails",
		effect: "it comes after the one that has taken its place",
		edits:  []edit{{"internal/cluster/turn.go", "if !last && n.ctx.Err() == nil && n.contact.failed", "if false && n.ctx.Err() == nil && n.contact.failed"}},
		unit:   "internal/cluster TestWriteThatWaitedIsntBegunInDoubt", why: noCluster,
	},
	{
		name:   "a write that has just come goes when a call fails",
		effect: "an older one that waits at another node comes after it",
		edits:  []edit{{"internal/cluster/writes.go", "w.announce(ctx, charge.Turn)", "w.announce(ctx, nil)"}},
		unit:   "internal/cluster TestWriteThatHasJustComeIsntBegunInDoubt", why: noCluster,
	},
	{
		name:   "a write waits untold when a call fails",
		effect: "it comes after newer ones of other nodes",
		edits:  []edit{{"internal/cluster/turn.go", "\t\terr := n.append(e)\n\t\tif err != nil {", "\t\tif err := n.append(e); err != nil {"}, {"internal/cluster/turn.go", "\t\treturn err\n\t})\n\treturn w\n", "\t\treturn nil\n\t})\n\treturn w\n"}},
		unit:   "internal/cluster TestWriteWaitsInItsPlaceThoughACallHasFailed", why: noCluster,
	},
	{
		name:   "a write whose client has left waits untold",
		effect: "likewise",
		edits:  []edit{{"internal/gateway/delivery.go", "d.turn.waiting == nil && r.Context().Err() != nil", "d.turn.waiting == nil && false"}},
		unit:   "internal/gateway TestWriteWhoseClientLeavesBeforeItWaitsIsNotSent", why: noCluster,
	},
	{
		name:   "what waits no more waits again",
		effect: "all that its user writes at other nodes stands behind it, and is lost",
		edits:  []edit{{"redis/scripts/append.lua", "if waits and not redis.call('GET', turns .. ' ' .. node .. ' ' .. write) then", "if waits then"}},
		unit:   "redis TestTurnsOfWritesThatWait", why: noCluster,
	},
	{
		name:   "places are kept for an hour",
		effect: "what waits for longer, as max_age may have it, comes after newer ones",
		edits:  []edit{{"redis/scripts/append.lua", "local kept = '86400000'", "local kept = '3600000'"}},
		unit:   "redis TestPlacesOfWritesAreKeptForLong", why: noCluster,
	},
	{
		name:   "a log that takes nothing is waited for",
		effect: "with a command missing in its ACL, writes hang",
		edits:  []edit{{"internal/cluster/writes.go", "max(n.contact.failed(now), now.Sub(began)) >= n.patience()", "n.contact.failed(now) >= n.patience() && !began.IsZero()"}},
		unit:   "internal/cluster TestLogThatTakesNothingHoldsNoWriteUp", why: noCluster,
	},
	{
		name:   "stale_if_error has its age without the log",
		effect: "what another node has written long ago is not seen when the homeserver fails",
		edits:  []edit{{"internal/gateway/cluster.go", "short.StaleIfError = 0, 0, min(short.StaleIfError, c.rules.Recent)", "short.StaleIfError = 0, 0, short.StaleIfError"}},
		unit:   "internal/gateway TestNothingStaleIsShownWithoutTheLog", why: noCluster,
	},
	{
		name:   "without the log readers share what departed before they came",
		effect: "an answer from before another node's write is shown after it",
		edits:  []edit{{"internal/gateway/fetch.go", "found.Ticket.Settled() && who.trust == trustAll", "found.Ticket.Settled()"}},
		unit:   "internal/gateway TestReaderWithoutTheLogSharesNothingFromBefore", why: noCluster,
	},
	{
		name:   "what is late counts as superseded",
		effect: "nobody hears that an acknowledged write is gone, though the newer one was refused",
		edits:  []edit{{"internal/pending/deliver.go", "case Late:\n\t\tp.decide(w, Lost)", "case Late:\n\t\tp.decide(w, Superseded)"}},
		unit:   "internal/pending TestWriteThatIsLateIsLost", why: noCluster,
	},
	{
		name:   "a node that has stood still spends what it held",
		effect: "more reads pass several nodes than one process would let pass",
		edits:  []edit{{"internal/gateway/cluster.go", "\tm.clusters.reads.clear() // the others may have taken this node for one that is gone\n", ""}},
		unit:   "internal/gateway TestNodeThatHasStoodStillSpendsNothingThatItHeld", why: noCluster,
	},
	{
		name:   "a write takes over what may not be the last",
		effect: "an older status message comes after a newer one of another node",
		edits:  []edit{{"internal/pending/write.go", "|| w.Apart && len(body.Text) != len(w.Body.Text) {", "{"}},
		unit:   "integration/history TestWritesThatWaitComeInTheirOrder", why: noCluster,
	},
	{
		name:   "what waits is told as often as it is said",
		effect: "one user fills the log, and has all nodes drop everything",
		edits:  []edit{{"internal/cluster/outbox.go", "if !slices.Contains(o.entries[max(0, len(o.entries)-maxAlike):], e) {", "if !slices.Contains(o.entries[:0], e) {"}},
		unit:   "internal/cluster TestWhatIsSaidAgainAndAgainIsToldOnce", why: noCluster,
	},
	{
		name:   "a budget doesn't know under which limit it was used",
		effect: "after a reload that raises a limit users wait for longer than before",
		edits:  []edit{{"redis/scripts/append.lua", "if was ~= interval or had ~= burst then", "if false then"}},
		unit:   "redis TestRaisedLimitTakesEffectAtOnce", why: noCluster,
	},
	{
		name:   "tokens that are made up are told",
		effect: "whoever has no account fills the log",
		edits:  []edit{{"internal/gateway/revoke.go", "\tif isKnown {", "\tif isKnown || true {"}},
		unit:   "internal/gateway TestTokensThatAreMadeUpAreNotTold", why: noCluster,
	},
	{
		name:   "a server that doesn't say which it is is the same over another connection",
		effect: "another that has taken over, and lacks the last entries, is believed",
		edits:  []edit{{"redis/log.go", "pulled.At.Server = l.line.name", "pulled.At.Server = \"one\""}},
		unit:   "redis TestServerThatDoesntSayWhichItIsMayBeAnotherWithEachConnection", why: noCluster,
	},
	{
		name:   "a pull that is refused is tried again over a connection that there isn't",
		effect: "the log doesn't say why Redis takes no writes",
		edits:  []edit{{"redis/line.go", "o.MaxRetries, o.ReadTimeout, o.WriteTimeout = -1, -1, -1", "o.ReadTimeout, o.WriteTimeout = -1, -1"}},
		unit:   "redis TestWhatAServerSaysAgainstAPullIsToldOf", why: noCluster,
	},
}
