package identity

import (
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// An answer whose question departed before all processes of the homeserver knew that a token has ended holds for one
// request.
func TestAnswersAreRememberedOnceAnEndHasSettled(t *testing.T) {
	const user = "@ann:hs"
	c, until := matrix.Credential{Token: "token"}, testkit.At(time.Second)
	for name, tt := range map[string]struct {
		ends    func(table *Table)
		settles bool
	}{
		"nothing":                {func(*Table) {}, false},
		"the token":              {func(table *Table) { table.Settle(c, until) }, true},
		"the token, by its name": {func(table *Table) { table.SettleKey(table.TokenKey(c), until) }, true},
		"its user":               {func(table *Table) { table.SettleUser(user, until) }, true},
		"the token, twice":       {func(table *Table) { table.Settle(c, until); table.Settle(c, testkit.At(0)) }, true},
		"another token":          {func(table *Table) { table.Settle(matrix.Credential{Token: apart(table, c.Token, user)}, until) }, false},
		"another user":           {func(table *Table) { table.SettleUser(apart(table, c.Token, user), until) }, false},
		"what is no name":        {func(table *Table) { table.SettleKey("xyz", until) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			table := NewTable(1000, testkit.At(0))
			tt.ends(table)
			for _, asked := range []time.Duration{time.Second - 1, time.Second} {
				under := table.Begin(c)
				under.Learn(WhoAmI{UserID: user}, table.Revision(), testkit.At(asked))
				under.End()
				found, _ := table.Lookup(c, testkit.At(asked), Lifetimes{Identity: time.Minute})
				if want := !tt.settles || asked == time.Second; (found == user) != want {
					t.Errorf("asked at %v: %q is remembered, want %v", asked, found, want)
				}
			}
		})
	}
}

// apart returns a text that has no place in common with others.
func apart(table *Table, others ...string) (text string) {
	for {
		text += "x"
		isApart := true
		for _, other := range others {
			isApart = isApart && slotOf(table.key(text)) != slotOf(table.key(other))
		}
		if isApart {
			return text
		}
	}
}
