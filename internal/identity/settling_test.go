package identity

import (
	"fmt"
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
		"all":                    {func(table *Table) { table.SettleAll(until) }, true},
		"all, twice":             {func(table *Table) { table.SettleAll(until); table.SettleAll(testkit.At(0)) }, true},
		"another token":          {func(table *Table) { table.Settle(matrix.Credential{Token: "another"}, until) }, false},
		"another user":           {func(table *Table) { table.SettleUser("@another:hs", until) }, false},
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

// However many sessions of others end within a time of settle, who isn't one of them goes on being remembered.
func TestEndsOfManyCostTheOthersNothing(t *testing.T) {
	const ends, others = 2000, 10_000
	table := NewTable(1000, testkit.At(0))
	for i := range ends {
		table.SettleUser(fmt.Sprintf("@ended%d:hs", i), testkit.At(time.Second))
	}
	settling := 0
	for i := range others {
		if table.settles(table.key(fmt.Sprint("token", i)), fmt.Sprintf("@other%d:hs", i), int64(time.Millisecond)) {
			settling++
		}
	}
	if settling > others/500 { // some 4 are expected
		t.Errorf("%d of %d who have ended nothing aren't remembered", settling, others)
	}
}
