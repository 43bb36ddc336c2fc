package mutation

// mutant is a change of the code, and how it is to be caught.
type mutant struct {
	name   string
	effect string // what goes wrong then
	edits  []edit

	// scenario is that of the history test which shows what is wrong.
	scenario string

	// unit is a test that shows it, after the folder of its package.
	unit string

	// seeds is within how many worlds the test of the world shows it too, by the law that begins
	// so, if it draws more of some values, on which the fault lies. If that is 0, why says for
	// what reason the world doesn't.
	seeds          int
	law, more, why string

	// always is for those that are tried in any size.
	always bool
}

// edit puts words in the place of others, which a file must have once.
type edit struct {
	file     string // from the repository's root
	old, new string
}

// Files that more than one mutant changes.
const (
	fence  = "cache/fence.go"
	tables = "cache/presence.go"
	lookup = "cache/lookup.go"
	denial = "cache/permission.go"
	fetch  = "internal/gateway/fetch.go"
	put    = "internal/gateway/write.go"
	repeat = "policy/repeat.go"
)

// The edits that more than one mutant has.
var (
	noMark               = edit{fence, "return f.writes == 0 && now >= f.settled", "return now >= f.settled"}
	noSecondInvalidation = edit{fence, "f.invalidate()\n\tif w.waits {", "if w.waits {"}
	noSettleTime         = edit{fence, "w.presence.clock(now)+int64(settle))", "w.presence.clock(now))"}
)

// Files of a cluster.
const (
	writes = "internal/cluster/writes.go"
	pull   = "internal/cluster/pull.go"
)

// betweenNodes are mutants of what makes reads linearizable through any of several nodes. The history test
// catches them, on a real Redis.
var betweenNodes = []mutant{
	{
		name:     "no beginning is told",
		effect:   "another node keeps the state from before a write",
		edits:    []edit{{writes, "case asked || n.insist(", "case asked || true || n.insist("}},
		scenario: "nodes", always: true,
	},
	{
		name:     "a beginning is told while the write is on its way",
		effect:   "one node shows the new state, and then another the old one, until it is told",
		edits:    []edit{{writes, "\t\tw.announce(ctx, nil)\n\t\treturn w, Grant{}, nil", "\t\tgo w.announce(ctx, nil)\n\t\treturn w, Grant{}, nil"}},
		scenario: "nodes-slow",
	},
	{
		name:   "a beginning is told when the homeserver has answered",
		effect: "one node shows the new state, and then another the old one",
		edits: []edit{
			{put, "if wr.told.store == nil {\n\t\twr.told", "if false {\n\t\twr.told"},
			{put, "\t\twr.told.end(r.Context())\n\t})", "\t\twr.told = g.store.announce(r.Context(), wr.UserID)\n\t\twr.told.end(r.Context())\n\t})"},
		},
		scenario: "nodes",
	},
	{
		name:   "who comes joins the pull in flight",
		effect: "a pull that passed the log before a write lets a read after it pass",
		edits: []edit{
			{"internal/cluster/barrier.go", "\tb.next = nil\n", ""},
			{"internal/cluster/barrier.go", "r.err = err\n\t}\n", "r.err = err\n\t}\n\tb.mu.Lock()\n\tb.next = nil\n\tb.mu.Unlock()\n"},
		},
		scenario: "nodes",
	},
	{
		name:     "a repeat is absorbed without a pull",
		effect:   "a device is told that what it says is so, though another node's write was later",
		edits:    []edit{{put, "wr.trust = g.store.trusts()", "wr.trust = trustAll"}},
		scenario: "nodes-absorbed",
	},
	{
		name:     "nothing is dropped where the log has a gap",
		effect:   "what the lost entries said is never known",
		edits:    []edit{{pull, "n.drop(doubt, true)", "if doubt != Gap {\n\t\tn.drop(doubt, true)\n\t}"}},
		scenario: "nodes-joining",
	},
	{
		name:     "nothing is dropped for another log",
		effect:   "likewise, when the server was started anew",
		edits:    []edit{{pull, "n.drop(doubt, true)", "if doubt != OtherLog {\n\t\tn.drop(doubt, true)\n\t}"}},
		scenario: "nodes-restart",
	},
	{
		name:     "nothing is dropped for another server",
		effect:   "likewise, when it hasn't the last entries",
		edits:    []edit{{pull, "n.drop(doubt, true)", "if doubt != OtherServer {\n\t\tn.drop(doubt, true)\n\t}"}},
		scenario: "nodes-failover",
	},
	{
		name:   "a barrier writes nothing",
		effect: "a server that has been demoted goes on answering as if nothing were written",
		edits: []edit{
			{"redis/log.go", "l.line.last(by)", "l.line.Get(context.Background(), l.keys[1]).Uint64()"},
			{"redis/scripts/pull.lua", "redis.call('ZADD', KEYS[4], string.format('%.0f', now), ARGV[4])\n" +
				"redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', string.format('%.0f', now - 3000))\nredis.call('PEXPIRE', KEYS[4], '10000')\n", ""},
		},
		scenario: "nodes-demotion",
	},
}

// guards are mutants of what makes reads linearizable. The history test catches them.
var guards = []mutant{
	{
		name:     "no fence",
		effect:   "an answer is stored though a write came between",
		edits:    []edit{{tables, "if f.generation != ticket.generation {", "if f == nil {"}},
		scenario: "at-once", always: true,
	},
	{
		name:     "no in-flight mark",
		effect:   "answers are stored and shared under a write",
		edits:    []edit{noMark},
		scenario: "at-once", always: true,
	},
	{
		name:     "no generation in the call's key",
		effect:   "who comes after a write shares a fetch from before it",
		edits:    []edit{{fetch, "generation: found.Ticket.Generation(), ", ""}},
		scenario: "at-once",
	},
	{
		name:     "no second invalidation",
		effect:   "who comes after a write shares a fetch from under it",
		edits:    []edit{noSecondInvalidation},
		scenario: "at-once",
	},
	{
		name:     "no second invalidation",
		effect:   "as above, once the write has settled",
		edits:    []edit{noSecondInvalidation},
		scenario: "late",
	},
	{
		name:     "no settling in the call's key",
		effect:   "who comes after the settle time shares a fetch from within",
		edits:    []edit{{fetch, ", settling: found.Ticket.Settling()}", "}"}},
		scenario: "late",
	},
	{
		name:     "no first invalidation",
		effect:   "what departed before a write is stored under it",
		edits:    []edit{{fence, "f.invalidate()\n\tf.writes++", "f.writes++"}},
		scenario: "at-once",
	},
	{
		name:     "no settle time",
		effect:   "what is read between acknowledging and applying is stored",
		edits:    []edit{noSettleTime},
		scenario: "late",
	},
	{
		name:     "no settle time",
		effect:   "what is read between a client's going away and applying is stored",
		edits:    []edit{noSettleTime},
		scenario: "given-up",
	},
	{
		name:     "no settle time for a write that isn't acknowledged",
		effect:   "as above",
		edits:    []edit{{put, "fence.End(g.store.now(), g.settle())", "fence.End(g.store.now(), 0)"}},
		scenario: "given-up",
	},
	{
		name:     "no drop",
		effect:   "a write leaves the old state in memory",
		edits:    []edit{{fence, "f.writes++\n\tp.drop(shard, stateKey{target: target})\n", "f.writes++\n"}},
		scenario: "at-once",
	},
	{
		name:     "no next call",
		effect:   "who comes while a write settles shares a fetch from before it was applied",
		edits:    []edit{{fetch, ".Join(key, found.Ticket.Settled() && who.trust == trustAll, ", ".Join(key, true, "}},
		scenario: "late",
	},
	{
		name:     "no count of writes",
		effect:   "the first of two writes to end ends both",
		edits:    []edit{{fence, "f.writes--", "f.writes = 0"}},
		scenario: "at-once",
	},
	{
		name:   "no question whether a state may be stored",
		effect: "one that was read under a write is",
		edits: []edit{
			{tables, "if !ticket.settled && !f.proof.matches(observed) {", "if false {"},
			{tables, "if !p.provable(ticket) {", "if false {"},
		},
		scenario: "at-once",
	},
	{
		name:   "no ticket from the departure",
		effect: "one from the arrival knows of no write between",
		edits: []edit{{fetch, "\tswitch {\n\tcase result.large:",
			"\tticket = g.lookup(who.viewer, who.target, who.trust, g.store.now()).Ticket\n\tswitch {\n\tcase result.large:"}},
		scenario: "at-once",
	},
	{
		name:     "no question whether a state shows the last write",
		effect:   "an answer from before it was applied is stored",
		edits:    []edit{{tables, "if !ticket.settled && !f.proof.matches(observed) {", "if f.writes > 0 {"}},
		scenario: "late",
	},
	{
		name:     "no question whether a write is alone, of those at the same time",
		effect:   "an answer that shows it is stored, and another is applied after it",
		edits:    []edit{{fence, "f.generation == w.generation && ", ""}, {fence, "if f.writes > 0 || shard.waiting[target] {", "if false {"}},
		scenario: "late",
	},
	{
		name:     "no question whether a write is alone, of those that settle",
		effect:   "as above",
		edits:    []edit{{fence, " && w.presence.clock(began) >= w.alone", ""}},
		scenario: "late",
	},
	{
		name:     "no end of a 404 by a write",
		effect:   "there is no presence yet, for as long as a refusal is kept",
		edits:    []edit{{denial, "return r.denial.UntilWrite && r.generation != generation", "return false"}},
		scenario: "at-once",
	},
	{
		name:     "no settle time for a 404",
		effect:   "one from before a write was applied is kept",
		edits:    []edit{{tables, "denial.UntilWrite && !ticket.settled || ", ""}},
		scenario: "late",
	},
	{
		name:     "no end of the viewers' states by a write",
		effect:   "each viewer's own state stays in memory",
		edits:    []edit{{lookup, "if !ok || own.root != st.root {", "if !ok {"}},
		scenario: "at-once",
	},
	{
		name:     "last write kept under another",
		effect:   "a repeat is absorbed though another write was applied, and failed",
		edits:    []edit{{repeat, "shard.last.Delete(user)\n\tw := shard.writing[user]\n\tif w == nil {", "w := shard.writing[user]\n\tif w == nil {"}},
		scenario: "absorbed",
	},
	{
		name:     "one of two writes at a time counts as the last",
		effect:   "a repeat is absorbed of the write that came first",
		edits:    []edit{{repeat, "w.disturbed = w.disturbed || w.n > 1", "w.disturbed = w.disturbed || w.n > 1000"}},
		scenario: "absorbed",
	},
}
