package survival_test

import "math/rand/v2"

// kind is what a request is, in the log, at the homeserver and in the tables.
type kind string

// The kinds.
const (
	read        kind = "read"
	readQuery   kind = "read, token in the query"
	readR0      kind = "read, by the old path"
	readOdd     kind = "read, by a path of Synapse only"
	bridgeRead  kind = "read for an appservice's user"
	greedyRead  kind = "read over the limit"
	goneRead    kind = "read after the logout"
	leavingRead kind = "read, client leaves"

	write        kind = "write"
	bridgeWrite  kind = "write for an appservice's user"
	greedyWrite  kind = "write over the limit"
	foreign      kind = "write to somebody else"
	leavingWrite kind = "write, client leaves"

	strangerRead  kind = "read, new unknown token"
	strangerWrite kind = "write, new unknown token"
	repeatRead    kind = "read, known unknown token"

	again kind = "write, the same again"
	hasty kind = "write over the limit, to wait"

	syncing   kind = "sync"
	preflight kind = "preflight"

	logout    kind = "logout"
	logoutAll kind = "logout everywhere"
	login     kind = "login"
	pass      kind = "other"
)

// traits are what is true of a kind.
type traits struct {
	kind
	weight int // how often it is made, of all; 0 if it follows from another
	// route is the module's word for what it is, or "" if it is nothing to the module.
	route string
	// leaves tells that the client may go away before the answer, so that its counts
	// are only bounded.
	leaves bool
	// never is true if no write of it may reach the homeserver.
	never bool
	// newToken is true if each request shows another unknown token.
	newToken bool
}

// kinds are all there are, in the order of tables.
var kinds = []traits{
	{kind: read, weight: 540, route: "read"},
	{kind: readQuery, weight: 30, route: "read"},
	{kind: readR0, weight: 20, route: "read"},
	{kind: readOdd, weight: 12, route: "read"},
	{kind: bridgeRead, weight: 30, route: "read"},
	{kind: greedyRead, weight: 50, route: "read"},
	{kind: goneRead, route: "read"},
	{kind: leavingRead, weight: 30, route: "read", leaves: true},
	{kind: write, weight: 80, route: "write"},
	{kind: bridgeWrite, weight: 10, route: "write"},
	{kind: greedyWrite, weight: 25, route: "write"},
	{kind: foreign, weight: 20, route: "write", never: true},
	{kind: leavingWrite, weight: 15, route: "write", leaves: true},
	{kind: strangerRead, weight: 15, route: "read", newToken: true},
	{kind: strangerWrite, weight: 10, route: "write", never: true, newToken: true},
	{kind: repeatRead, weight: 10, route: "read"},
	{kind: again, weight: 60, route: "write"},
	{kind: hasty, weight: 20, route: "write"},
	{kind: syncing, weight: 80, route: "sync"},
	{kind: preflight, weight: 20, route: "preflight"},
	{kind: logout, weight: 12},
	{kind: logoutAll, weight: 8},
	{kind: login},
	{kind: pass, weight: 60},
}

// presence tells that it is a read or a write.
func (t traits) presence() bool { return t.route == "read" || t.route == "write" }

// pick draws a kind.
func (p plan) pick(random *rand.Rand) kind {
	sum := 0
	for _, k := range kinds {
		sum += p.weight(k)
	}
	place := random.IntN(sum)
	for _, k := range kinds {
		if place -= p.weight(k); place < 0 {
			return k.kind
		}
	}
	return pass
}

func (p plan) weight(k traits) int {
	if p.weights != nil {
		return p.weights[k.kind]
	}
	return k.weight
}
