package mutation

func init() { mended["a restart"] = restarted }

// noRestart is why the world doesn't show what is wrong with a snapshot.
const noRestart = "the world's processes have no snapshot"

// restarted are mutants of what keeps a snapshot from breaking a promise.
var restarted = []mutant{
	{
		name:   "identities stay on the disk while they are in use",
		effect: "a process that is killed brings a token back that was logged out",
		edits:  []edit{{"internal/snapshot/keeper.go", "if remove(k.files.identities) != nil {", "if false {"}},
		unit:   "internal/snapshot TestAProcessThatIsKilled", why: noRestart,
	},
	{
		name:   "nobody breaks the seal",
		effect: "likewise one that was logged out while the process ended",
		edits:  []edit{{"internal/snapshot/seal.go", "s.broken = true\n", "return\n"}},
		unit:   "internal/snapshot TestWhatEndsWhileAProcessEnds", why: noRestart,
	},
	{
		name:   "what ends while a snapshot is read comes back",
		effect: "likewise one that was logged out while the process began",
		edits:  []edit{{"internal/identity/snapshot.go", "saved.Delete(key)", "_ = key"}, {"internal/identity/snapshot.go", "if ended[e.key] && e.userID != \"\" {", "if false {"}},
		unit:   "internal/identity TestWhatEndsWhileASnapshotIsReadHasEnded", why: noRestart,
	},
	{
		name:   "a refresh token ends nothing while a snapshot is read",
		effect: "likewise one that was replaced",
		edits:  []edit{{"internal/identity/issued.go", "\tt.noteEnding(refresh)\n", ""}},
		unit:   "internal/identity TestWhatEndsWhileASnapshotIsReadHasEnded", why: noRestart,
	},
	{
		name:   "time stands still while no process runs",
		effect: "a token that has ended elsewhere reads on for longer than its ttl",
		edits:  []edit{{"internal/identity/snapshot.go", "int64(now.Sub(t.epoch)) - max(0, int64(elapsed))", "int64(now.Sub(t.epoch)) - min(0, int64(elapsed))"}},
		unit:   "internal/identity TestIdentitiesSurviveARestart", why: noRestart,
	},
	{
		name:   "a clock that is set back is believed",
		effect: "likewise",
		edits:  []edit{{"internal/snapshot/moment.go", "if m.Wall < then.Wall {", "if false {"}},
		unit:   "internal/snapshot TestHowLongAgo", why: noRestart,
	},
	{
		name:   "what another site has written is believed",
		effect: "one homeserver says whose token is whose for another",
		edits:  []edit{{"internal/snapshot/frame.go", "case Home(b[18:50]) != home:", "case false:"}},
		unit:   "internal/snapshot TestAFileThatCannotBeUsed", why: noRestart,
	},
	{
		name:   "what is used while a snapshot is read is forgotten",
		effect: "a restart is a second budget",
		edits:  []edit{{"policy/snapshot.go", "b = s.together(live, b, now)", "_ = live"}},
		unit:   "policy TestWhatIsUsedMeanwhileCounts", why: noRestart,
	},
}
