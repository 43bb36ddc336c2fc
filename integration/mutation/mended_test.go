package mutation

// mended are mutants of the kinds of faults that "What the world found" in
// docs/reliability.md lists, by its rows: each has one mending taken out. The world catches
// them, or else a test of the mending's own package does.
var mended = map[string][]mutant{
	"every protocol": {
		{
			name:   "no look whether a body is there",
			effect: "over HTTP/3, and in chunks, a GET without a body is never cached",
			edits:  []edit{{"caddymodule/protocol.go", "if !mayHaveBody(r) {", "if true {"}},
			seeds:  60,
		},
		{
			name:   "an extended CONNECT is no GET",
			effect: "a WebSocket over HTTP/2 or HTTP/3 passes every limit",
			edits:  []edit{{"caddymodule/protocol.go", "if isExtendedConnect(r) {\n\t\treturn http.MethodGet", "if false {\n\t\treturn http.MethodGet"}},
			unit:   "caddymodule TestWebSocketOverHTTP2AndHTTP3IsJudgedAsTheReadThatItBecomes",
			why:    "the bubble's clients speak no WebSocket",
		},
		{
			name:   "any CONNECT goes through",
			effect: "a write is hidden in what follows an extended CONNECT",
			edits:  []edit{{"caddymodule/handler.go", "r.URL.Opaque != \"\" || methodOf(r) == http.MethodConnect", "r.URL.Opaque != \"\""}},
			unit:   "caddymodule TestPlainConnectIsRefusedInAllProtocols",
			why:    "the bubble's clients send no CONNECT",
		},
	},
	"requests of our own": {
		{
			name:   "requests of ours have all of the client's fields",
			effect: "one client makes our questions fail",
			edits: []edit{{"caddymodule/head.go", "b.take(r, clientField{name, maxClientIP, listTail})\n\t\t\t}\n\t\t}\n\t}\n\treturn b",
				"b.take(r, clientField{name, maxClientIP, listTail})\n\t\t\t}\n\t\t}\n\t}\n" +
					"\tfor name, values := range r.Header {\n\t\tif !slices.Contains(withoutCopy, name) {\n\t\t\tb.header[name] = values\n\t\t}\n\t}\n\treturn b"}},
			seeds: 200,
		},
		{
			name:   "a failure is everybody's",
			effect: "readers who share a fetch with one client get its failure",
			edits:  []edit{{"caddymodule/retrial.go", "return f.found == nil && !f.crashed && (", "return false && ("}},
			unit:   "caddymodule TestNobodyGetsAnothersFailure",
			why:    "in the world nothing makes a request of ours fail for one client only, now that their heads are bounded",
		},
		{
			name:   "lookups that fail cost nothing",
			effect: "made-up tokens that are shown so are never charged to their sender",
			edits:  []edit{{"caddymodule/identify.go", "m.outage.fails(from, m.now())", "_ = from"}},
			unit:   "caddymodule TestLookupsThatFailCountAgainstTheirClient",
			why:    "as above",
		},
		{
			name:   "no second try without what the client chose",
			effect: "what is stale is shown to a client that made our question fail",
			edits:  []edit{{"caddymodule/upstream.go", "if !differs || left <= 0 {", "if true {"}},
			unit:   "caddymodule TestOddClientReadsNothingStale",
			why:    "as above",
		},
	},
	"people without an account": {
		{
			name:   "a revocation of a token ends all lookups",
			effect: "a made-up logout has everybody looked up again",
			edits: []edit{{"policy/identity.go", "if under := shard.inquiries[key]; under != nil {\n\t\tunder.revoked = t.tokenRevocations.Add(1)\n\t}",
				"t.mu.Lock()\n\tt.floor = t.revocations.Add(1)\n\tt.mu.Unlock()"}},
			seeds: 60,
		},
		{
			name:   "an admin's request counts whatever became of it",
			effect: "a path that nothing serves ends a user's identity",
			edits: []edit{{"caddymodule/revoke.go", "h.memory.revokeUser(revocation.UserID)\n\t\t\t}\n\t\t}, nothing, nil}",
				"h.memory.revokeUser(revocation.UserID)\n\t\t\t}\n\t\t}, func() { h.memory.revokeUser(revocation.UserID) }, nil}"}},
			seeds: 400,
		},
		{
			name:   "an admin's success is whatever succeeds",
			effect: "a page that the site serves there ends a user's identity",
			edits:  []edit{{"caddymodule/revoke.go", "if len(shown) > 0 && saysJSON(header) && !isSites() {", "if true {"}},
			seeds:  400,
		},
		{
			name:   "a logout of devices ends everybody's identity",
			effect: "an ordinary user has everybody looked up again",
			edits: []edit{{"policy/identity.go", "t.revoked.Add(strings.Clone(userID), t.revocations.Add(1))",
				"t.floor = t.revocations.Add(1)"}},
			seeds: 60,
		},
		{
			name:   "user IDs of any length",
			effect: "a path of 15 KB stays in memory",
			edits:  []edit{{"policy/revocation.go", "if !isUserID(userID) {", "if userID == \"\" {"}},
			unit:   "policy TestRequestsThatRevokeNothing",
			why:    "the world measures no memory",
		},
	},
	"neighbours": {
		{
			name:   "known tokens have their address's budget",
			effect: "a flood of made-up tokens refuses known ones behind the same address",
			edits:  []edit{{"caddymodule/client.go", "if !m.isKnown(c) {\n\t\treturn from\n\t}", "if true {\n\t\treturn from\n\t}"}},
			seeds:  400,
		},
		{
			name:   "a locked account is an unknown token",
			effect: "it uses up the budget of its address",
			edits:  []edit{{"caddymodule/identify.go", "case answer.status == http.StatusUnauthorized && errcode == unknownToken:", "case answer.status == http.StatusUnauthorized:"}},
			seeds:  400,
		},
		{
			name:   "a refusal of an account is not remembered",
			effect: "each read of a locked account costs two requests",
			edits:  []edit{{"caddymodule/refusal.go", "return ok && now.Sub(asked) < h.set.lifetimes.Rejection", "return false && ok && asked == now"}},
			seeds:  400,
		},
		{
			name:   "a 401 for one ghost is for all",
			effect: "the waiting writes of an appservice's other users are dropped",
			edits: []edit{{"caddymodule/pending.go", "own.Token == c.Token && (own.UserID == c.UserID && own.DeviceID == c.DeviceID || was.userID != \"\" && w.UserID == was.userID)",
				"own.Token == c.Token"}},
			unit: "caddymodule TestRefusalOfOneGhostLeavesTheOthersWritesAlone",
		},
	},
	"limits that change": {
		{
			name:   "a budget stays one under the old limit",
			effect: "after a raise users wait as long as before",
			edits:  []edit{{"policy/limit.go", "case s.limits[b.limit] == limit:", "case true:"}},
			seeds:  400,
		},
		{
			name:   "what was announced doesn't count under another limit",
			effect: "who has waited as told is told to wait again",
			edits:  []edit{{"policy/limit.go", "if b.announced {\n\t\tdue :=", "if false {\n\t\tdue :="}},
			seeds:  400,
		},
		{
			name:   "limits that overflow are taken",
			effect: "they are no limits",
			edits:  []edit{{"policy/limit.go", "; l.interval > longest {", "; l.interval > longest && false {"}},
			unit:   "policy TestLimitsOutOfRangeAreErrors",
			why:    "the world draws no limits of centuries",
		},
	},
	"Caddy's other handlers": {
		{
			name:   "questions of ours have a deadline",
			effect: "a slow lookup takes the homeserver out of passive health checks",
			edits: []edit{{"caddymodule/upstream.go", "ctx, cancel := context.WithCancel(s.client)\n\tdefer cancel()\n\ttimer := time.AfterFunc(timeout, cancel)",
				"ctx, cancel := context.WithTimeout(s.client, timeout)\n\tdefer cancel()\n\ttimer := time.AfterFunc(2*timeout, cancel)"}},
			seeds: 400,
		},
		{
			name:   "the site's refusals are the homeserver's failures",
			effect: "they become 502",
			edits: []edit{{"caddymodule/upstream.go", "answer.site = s.site.proxies && !proxied || answer.code() < http.StatusInternalServerError && answer.code() > 0",
				"answer.site = false"}},
			unit: "caddymodule TestSiteAnswersForItself",
		},
		{
			name:   "gzip stays packed",
			effect: "with header_up Accept-Encoding gzip before a homeserver that compresses, all writes are 502",
			edits:  []edit{{"caddymodule/upstream.go", "if s.large || encoding != \"gzip\" && encoding != \"x-gzip\" {", "if true {"}},
			unit:   "caddymodule TestHomeserverThatIsMadeToCompress",
		},
		{
			name:   "a large error is a large answer",
			effect: "a page above 64 KiB destroys what was to be shown stale",
			edits:  []edit{{"caddymodule/read.go", "if result.status == http.StatusOK {\n\t\t\tpresence.MarkUncached(ticket)", "if true {\n\t\t\tpresence.MarkUncached(ticket)"}},
			seeds:  400,
		},
	},
	"one memory, one homeserver": {
		{
			name:   "sites with a host in common share a memory",
			effect: "a staging site on another port reads production's presence",
			edits:  []edit{{"caddymodule/site.go", "if s.told != other.told || s.homeserver != other.homeserver {", "if s.told != other.told {"}},
			seeds:  60,
		},
		{
			name:   "a memory goes with all of its hosts",
			effect: "a host alias starts everything anew",
			edits:  []edit{{"caddymodule/site.go", "return common(s.hosts, other.hosts)\n", "if len(s.hosts) != len(other.hosts) {\n\t\t\treturn 0\n\t\t}\n\t\treturn common(s.hosts, other.hosts)\n"}},
			unit:   "caddymodule TestHostAliasKeepsHitsAndBudgets",
		},
		{
			name:   "each handler knows its own needs",
			effect: "a site doesn't see what another one of its memory has to know",
			edits:  []edit{{"caddymodule/needs.go", "return h.set.watchesSyncs() || h.memory.needs.syncs.Load()", "return h.set.watchesSyncs()"}},
			unit:   "caddymodule TestWhatChangesAPresenceThroughAnotherSiteEndsARepeat",
		},
	},
	"tokens that end": {
		{
			name:   "a login ends nothing",
			effect: "the token that a device had before is still readable",
			edits:  []edit{{"caddymodule/revoke.go", "nothing, h.learnIssued(true)}", "nothing, h.learnIssued(false)}"}},
			seeds:  400,
		},
		{
			name:   "a revocation by name ends nothing",
			effect: "so is one that was revoked by tuwunel's own API",
			edits:  []edit{{"caddymodule/revoke.go", "return ending{func(http.Header) { named() }, named, nil}", "return ending{func(http.Header) {}, named, nil}"}},
			seeds:  1000,
		},
		{
			name:   "a refresh ends nothing",
			effect: "so is one that was refreshed",
			edits:  []edit{{"caddymodule/revoke.go", "return ending{func(http.Header) { both() }, both, h.learnIssued(false)}", "return ending{func(http.Header) {}, both, h.learnIssued(false)}"}},
			unit:   "caddymodule TestRefreshAndRevocationByName",
			why:    "the scripted homeserver gives out no refresh tokens",
		},
		{
			name:   "event types are compared escaped",
			effect: "an escaped message is no activity",
			edits:  []edit{{"policy/revocation.go", "if decoded, err := url.PathUnescape(segment); err == nil {", "if decoded, err := url.PathUnescape(segment); err == nil && false {"}},
			unit:   "policy TestActivityIsWhatHomeserversTakeForIt",
		},
		{
			name:   "activity is looked at once",
			effect: "one that ends after a sync inside it leaves a stale state",
			edits:  []edit{{"caddymodule/write.go", "if active() { // a write", "if false { // a write"}},
			unit:   "caddymodule TestActivityThatEndsAfterASyncInsideItIsSeen",
		},
	},
	"a 200 too many": {
		{
			name:   "nothing falls back",
			effect: "a waiting write is lost with the one that took its place",
			edits:  []edit{{"caddymodule/pending.go", "if len(w.fallbacks) == 0 {\n\t\treturn false", "if true {\n\t\treturn false"}},
			unit:   "caddymodule TestOfTwoWritesTheOlderIsSentIfTheNewerIsRefused",
		},
		{
			name:   "a newer write takes over no text",
			effect: "on Dendrite a text is lost",
			edits:  []edit{{"policy/body.go", "if b.dialect == Synapse || b.dialect == Tuwunel || hasStatus(b)", "if true || hasStatus(b)"}},
			unit:   "policy TestSupersededWritesLeaveTheSameState",
		},
		{
			name:   "any body may wait",
			effect: "over the budget what is 400 gets 200",
			edits:  []edit{{"caddymodule/pending.go", "|| !w.read.Certain() ||", "||"}},
			unit:   "caddymodule TestOnlyWhatTheHomeserverTakesWaits",
		},
	},
	"words": {
		{
			name:   "an unknown word of tuwunel's is none",
			effect: "a sync that makes the device offline there is nothing to us",
			edits:  []edit{{"policy/dialect.go", "return ParsePresence(word)\n\t}\n\treturn Offline", "return ParsePresence(word)\n\t}\n\treturn NoPresence"}},
			seeds:  400,
		},
	},
	"time": {
		{
			name:   "Dendrite's syncs know of writes",
			effect: "a bot whose syncs say offline ends offline for good",
			edits:  []edit{{"policy/devices.go", "if dialect == Dendrite {\n\t\treturn DeviceWrite{}\n\t}", ""}, {"policy/devices.go", "if dialect == Dendrite {\n\t\treturn\n\t}\n\ttold :=", "told :="}},
			unit:   "policy TestBotOfDendriteSpendsNothing",
		},
		{
			name:   "a read ends no repeats",
			effect: "an acknowledged write that Synapse lost is not mended",
			edits:  []edit{{"caddymodule/read.go", "h.memory.repeats.Observe(", "_, _, _ = ("}},
			unit:   "caddymodule TestAReadThatContradictsTheLastWriteEndsItsRepeats",
		},
		{
			name:   "nobody is ever taken for gone",
			effect: "\"offline\" is kept past the next poll",
			edits:  []edit{{"policy/devices.go", "return at >= s.alive+int64(lasts-spareMargin)", "return false && at >= s.alive+int64(lasts-spareMargin)"}},
			seeds:  400,
		},
	},
	"robustness": {
		{
			name:   "a flight that panics never lands",
			effect: "its key is blocked for ever",
			edits:  []edit{{"caddymodule/flight.go", "defer g.land(key, l)\n\tf.result = g.alone(f.fly)", "f.result = f.fly()\n\tg.land(key, l)"}},
			unit:   "caddymodule TestFlightThatPanicsLandsWithAnError",
			why:    "nothing of ours panics in the world",
		},
		{
			name:   "the time of a suspend doesn't count",
			effect: "after it everything is as fresh as before",
			edits:  []edit{{"caddymodule/clock.go", "c.slept.Add(max(0, ahead-c.ahead.Load()))", "c.slept.Add(0)"}},
			unit:   "caddymodule TestLifetimesHoldAfterASuspend",
			why:    "a bubble has one clock",
		},
	},
}
