package identity

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// fresh returns the table of the next process, before it has read anything.
func fresh(of *Table, now time.Time) *Table {
	t := NewTable(1000, now.Add(-time.Minute))
	t.Rekey(*of.secret.Load())
	t.NoteEndings(100)
	return t
}

// saved returns a snapshot of a table.
func saved(t testing.TB, ids *Table, at time.Time) Tokens {
	t.Helper()
	read, err := ReadTokens(ids.Save(nil, at))
	if err != nil {
		t.Fatal(err)
	}
	return read
}

func TestIdentitiesSurviveARestart(t *testing.T) {
	ids := NewTable(1000, testkit.Epoch)
	alice, bridge := matrix.Credential{Token: "alice"}, matrix.Credential{Token: "as", UserID: "@bridge_1:hs"}
	learn(ids, alice, WhoAmI{UserID: "@alice:hs"}, time.Minute)
	learn(ids, bridge, WhoAmI{UserID: "@bridge_1:hs"}, time.Minute)
	ids.Reject(matrix.Credential{Token: "unknown"}, &UnknownToken{}, testkit.Epoch)

	next := fresh(ids, testkit.At(50*time.Second))
	if n := next.Restore(saved(t, ids, testkit.At(10*time.Second)), 40*time.Second, testkit.At(50*time.Second)); n != 3 {
		t.Errorf("%d tokens were taken over, want alice's, the appservice's and that for one of its users", n)
	}
	wantUser(t, next, alice, 50*time.Second, "@alice:hs")
	wantUser(t, next, bridge, 50*time.Second, "@bridge_1:hs")
	wantUser(t, next, matrix.Credential{Token: "as", UserID: "@bridge_2:hs"}, 50*time.Second, "")
	// A lifetime goes on while the process is away.
	wantUser(t, next, alice, time.Minute-1, "@alice:hs")
	wantUser(t, next, alice, time.Minute, "")
	if !next.WasKnown(alice) || next.Holder(alice) != "@alice:hs" {
		t.Error("what has expired is of no more use")
	}
	if _, unknown := next.Len(); unknown != 0 {
		t.Errorf("%d unknown tokens were taken over", unknown)
	}
}

// While a snapshot is read, requests end tokens that it has.
func TestWhatEndsWhileASnapshotIsReadHasEnded(t *testing.T) {
	c := func(token string) matrix.Credential { return matrix.Credential{Token: token} }
	for name, tc := range map[string]struct {
		ends func(t *Table)
		want map[string]string
	}{
		"nothing":             {func(*Table) {}, map[string]string{"a1": "@a:hs", "a2": "@a:hs", "b1": "@b:hs"}},
		"a logout":            {func(t *Table) { t.RevokeToken(c("a1")) }, map[string]string{"b1": "@b:hs"}},
		"doubt":               {func(t *Table) { t.Doubt(c("a1")) }, map[string]string{"b1": "@b:hs"}},
		"another node's word": {func(t *Table) { t.DoubtKey(t.TokenKey(c("a1"))) }, map[string]string{"b1": "@b:hs"}},
		"all of a user":       {func(t *Table) { t.RevokeUser("@a:hs") }, map[string]string{"b1": "@b:hs"}},
		"all":                 {func(t *Table) { t.RevokeAll() }, nil},
		"a refresh":           {func(t *Table) { t.Refreshed("refresh-a1") }, map[string]string{"b1": "@b:hs"}},
		"the homeserver doesn't know it": {
			func(t *Table) { t.Reject(c("a2"), &UnknownToken{}, testkit.Epoch) }, map[string]string{"b1": "@b:hs"},
		},
		"a token that isn't there": {
			func(t *Table) { t.RevokeToken(c("other")) }, map[string]string{"a1": "@a:hs", "a2": "@a:hs", "b1": "@b:hs"},
		},
		"too much": {func(t *Table) {
			for i := range 101 {
				t.RevokeToken(c(fmt.Sprint(i)))
			}
		}, nil},
		"it is asked whose one is": {
			func(t *Table) { learn(t, c("b1"), WhoAmI{UserID: "@b:hs"}, time.Minute) },
			map[string]string{"a1": "@a:hs", "a2": "@a:hs", "b1": "@b:hs"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			ids := NewTable(1000, testkit.Epoch)
			for token, user := range map[string]string{"a1": "@a:hs", "a2": "@a:hs", "b1": "@b:hs"} {
				learn(ids, c(token), WhoAmI{UserID: user}, time.Minute)
			}
			ids.Issued("a1", "refresh-a1")
			next := fresh(ids, testkit.Epoch)
			tc.ends(next)
			next.Restore(saved(t, ids, testkit.Epoch), 0, testkit.Epoch)
			for _, token := range []string{"a1", "a2", "b1"} {
				if got, _ := next.Lookup(c(token), testkit.Epoch, lifetimes); got != tc.want[token] {
					t.Errorf("%s is %q, want %q", token, got, tc.want[token])
				}
			}
		})
	}
}

func TestSomebodyIsToldWhenSomethingHasEnded(t *testing.T) {
	c := matrix.Credential{Token: "a1"}
	for name, end := range map[string]func(t *Table){
		"a logout": func(t *Table) { t.RevokeToken(c) }, "doubt": func(t *Table) { t.Doubt(c) },
		"another node's word": func(t *Table) { t.DoubtKey(t.TokenKey(c)) }, "all of a user": func(t *Table) { t.RevokeUser("@a:hs") },
		"all": func(t *Table) { t.RevokeAll() }, "a refresh": func(t *Table) { t.Refreshed("refresh-a1") },
		"the homeserver doesn't know it": func(t *Table) { t.Reject(c, &UnknownToken{}, testkit.Epoch) },
	} {
		ids, told := NewTable(1000, testkit.Epoch), 0
		learn(ids, c, WhoAmI{UserID: "@a:hs"}, time.Minute)
		ids.Issued("a1", "refresh-a1")
		ids.OnEnding(func() {
			told++
			if user, _ := ids.Lookup(c, testkit.Epoch, lifetimes); user != "" {
				t.Errorf("%s: somebody is told before it has ended", name)
			}
		})
		if end(ids); told == 0 {
			t.Errorf("%s: nobody was told", name)
		}
	}
}

// Whoever asked for a logout with a token that they had made up, while the process ended, had the file of identities
// deleted: after a restart the homeserver was asked about everybody's token again.
func TestTokensThatAreMadeUpEndNothing(t *testing.T) {
	ids, told := NewTable(1000, testkit.Epoch), 0
	learn(ids, matrix.Credential{Token: "a1"}, WhoAmI{UserID: "@a:hs"}, time.Minute)
	ids.OnEnding(func() { told++ })
	c := matrix.Credential{Token: "made up"}
	as := matrix.Credential{Token: "made up", UserID: "@a:hs"}
	ids.RevokeToken(c)
	ids.RevokeToken(as)
	ids.Doubt(c)
	ids.DoubtKey(ids.TokenKey(c))
	ids.Refreshed("made up")
	ids.Reject(c, &UnknownToken{}, testkit.Epoch)
	if told != 0 {
		t.Errorf("somebody was told %d times", told)
	}
}

// The homeserver rejected a token of which only the answer had told that gave it out. It was in the file all the same.
func TestSomebodyIsToldOfATokenThatWasOnlyGivenOut(t *testing.T) {
	c := matrix.Credential{Token: "a1"}
	for name, end := range map[string]func(t *Table){
		"a logout": func(t *Table) { t.RevokeToken(c) }, "doubt": func(t *Table) { t.Doubt(c) },
		"another node's word":            func(t *Table) { t.DoubtKey(t.TokenKey(c)) },
		"the homeserver doesn't know it": func(t *Table) { t.Reject(c, &UnknownToken{}, testkit.Epoch) },
	} {
		ids, told := NewTable(1000, testkit.Epoch), 0
		ids.LearnIssued("@a:hs", "a1", ids.Revision(), testkit.Epoch)
		ids.OnEnding(func() { told++ })
		if end(ids); told == 0 {
			t.Errorf("%s: nobody was told", name)
		}
	}
}

// A token that was saved may have made room for others since. It isn't known any more, and ends all the same.
func TestSomebodyIsToldOfATokenThatHasMadeRoom(t *testing.T) {
	for name, tc := range map[string]struct{ first, more func(t *Table, token string) }{
		"known": {
			func(t *Table, token string) { learn(t, matrix.Credential{Token: token}, WhoAmI{UserID: "@a:hs"}, 0) },
			func(t *Table, token string) {
				learn(t, matrix.Credential{Token: token}, WhoAmI{UserID: "@b:hs"}, time.Minute)
			},
		},
		"given out": {
			func(t *Table, token string) { t.LearnIssued("@a:hs", token, t.Revision(), testkit.Epoch) },
			func(t *Table, token string) { t.LearnIssued("@b:hs", token, t.Revision(), testkit.Epoch) },
		},
	} {
		ids, told := NewTable(1, testkit.Epoch), 0
		tc.first(ids, "a1")
		ids.OnEnding(func() { told++ })
		for i := range 200 {
			tc.more(ids, fmt.Sprint("b", i))
		}
		ids.OnEnding(func() { told++ }) // as the process ends once more
		if ids.RevokeToken(matrix.Credential{Token: "a1"}); told == 0 {
			t.Errorf("%s: nobody was told", name)
		}
	}
}

// randomCredential is one of a few.
func randomCredential(r *rand.Rand) (c matrix.Credential, who WhoAmI) {
	if r.IntN(4) == 0 {
		user := fmt.Sprintf("@bridge_%d:hs", r.IntN(3))
		return matrix.Credential{Token: "as", UserID: user}, WhoAmI{UserID: user}
	}
	n := r.IntN(12)
	c = matrix.Credential{Token: fmt.Sprintf("token%d", n)}
	if r.IntN(6) == 0 {
		c.UserID = "@made_up:hs"
	}
	return c, WhoAmI{UserID: fmt.Sprintf("@user%d:hs", n%5)}
}

// event is something that may happen to a table.
func event(r *rand.Rand, now time.Duration) func(t *Table) {
	c, who := randomCredential(r)
	refresh, used := fmt.Sprintf("refresh%d", r.IntN(6)), fmt.Sprintf("refresh%d", r.IntN(6))
	switch r.IntN(12) {
	case 0:
		return func(t *Table) { t.RevokeToken(c) }
	case 1:
		return func(t *Table) { t.Doubt(c) }
	case 2:
		return func(t *Table) { t.RevokeUser(who.UserID) }
	case 3:
		return func(t *Table) { t.Issued(c.Token, refresh, used) }
	case 4:
		return func(t *Table) { t.Refreshed(refresh) }
	case 5:
		return func(t *Table) { t.IssuedTo(who.UserID, c.Token) }
	case 6:
		return func(t *Table) { t.LearnIssued(who.UserID, c.Token, t.Revision(), testkit.At(now)) }
	case 7:
		return func(t *Table) { t.Reject(matrix.Credential{Token: c.Token}, &UnknownToken{}, testkit.At(now)) }
	default:
		return func(t *Table) { learn(t, c, who, now+time.Hour) }
	}
}

// ending is an event that teaches nothing.
func ending(r *rand.Rand) func(t *Table) {
	c, who := randomCredential(r)
	refresh := fmt.Sprintf("refresh%d", r.IntN(6))
	return []func(t *Table){
		func(t *Table) { t.RevokeToken(c) }, func(t *Table) { t.Doubt(c) }, func(t *Table) { t.RevokeUser(who.UserID) },
		func(t *Table) { t.Refreshed(refresh) }, func(t *Table) { t.Reject(matrix.Credential{Token: c.Token}, &UnknownToken{}, testkit.Epoch) },
	}[r.IntN(5)]
}

// After any history a restart knows what would be known without one; and nothing more, whatever ends while the
// snapshot is read.
func TestARestartKnowsNothingMore(t *testing.T) {
	r := testkit.Rand(t)
	lifetimes := Lifetimes{Identity: time.Hour} // unknown tokens are forgotten by a restart
	for round := range 300 {
		ids, now := NewTable(1000, testkit.Epoch), time.Duration(0)
		for range r.IntN(60) {
			now += time.Duration(r.IntN(120)) * time.Second
			event(r, now)(ids)
		}
		read, away := saved(t, ids, testkit.At(now)), time.Duration(r.IntN(1800))*time.Second
		now += away
		next := fresh(ids, testkit.At(now))
		meanwhile := r.IntN(2) * r.IntN(4)
		for range meanwhile {
			end := ending(r)
			end(ids)
			end(next)
		}
		next.Restore(read, away, testkit.At(now))
		for step := range 40 {
			c, _ := randomCredential(r)
			want, _ := ids.Lookup(c, testkit.At(now), lifetimes)
			got, _ := next.Lookup(c, testkit.At(now), lifetimes)
			if got != want && (got != "" || meanwhile == 0 && step == 0) {
				t.Fatalf("round %d: %+v is %q after the restart, and %q without", round, c, got, want)
			}
			if meanwhile == 0 && step == 0 && next.Holder(c) != ids.Holder(c) {
				t.Fatalf("round %d: the holder of %+v is %q after the restart, and %q without", round, c, next.Holder(c), ids.Holder(c))
			}
			end := ending(r)
			end(ids)
			end(next)
			now += time.Duration(r.IntN(60)) * time.Second
		}
	}
}

// FuzzReadTokens reads what somebody may have written, and takes it over.
func FuzzReadTokens(f *testing.F) {
	ids := NewTable(1000, testkit.Epoch)
	f.Add(ids.Save(nil, testkit.Epoch), int64(0))
	learn(ids, matrix.Credential{Token: "a"}, WhoAmI{UserID: "@a:hs"}, time.Hour)
	learn(ids, matrix.Credential{Token: "as", UserID: "@b:hs"}, WhoAmI{UserID: "@b:hs"}, time.Hour)
	ids.IssuedTo("@c:hs", "c")
	ids.Issued("c", "refresh")
	f.Add(ids.Save(nil, testkit.Epoch), int64(time.Minute))
	f.Fuzz(func(t *testing.T, b []byte, elapsed int64) {
		read, err := ReadTokens(b)
		if err != nil {
			return
		}
		next := fresh(ids, testkit.Epoch)
		next.Restore(read, time.Duration(elapsed), testkit.Epoch)
		for _, token := range []string{"a", "as", "c"} {
			c := matrix.Credential{Token: token}
			if user, _ := next.Lookup(c, testkit.At(-time.Duration(1)), lifetimes); len(user) > matrix.MaxUserID {
				t.Errorf("a user ID of %d bytes", len(user))
			}
			next.RevokeToken(c)
			wantUser(t, next, c, 0, "")
		}
		if _, err := ReadTokens(next.Save(nil, testkit.Epoch)); err != nil {
			t.Errorf("saved again: %v", err)
		}
	})
}

func TestASnapshotOfManyTokensIsBounded(t *testing.T) {
	ids := NewTable(2000, testkit.Epoch)
	for i := range 4000 {
		learn(ids, matrix.Credential{Token: fmt.Sprint(i)}, WhoAmI{UserID: fmt.Sprintf("@%0254d", i)}, time.Hour)
		ids.IssuedTo(fmt.Sprintf("@%0254d", i), fmt.Sprint(i))
		ids.Issued(fmt.Sprint(i), fmt.Sprint("r", i))
	}
	text := ids.Save(nil, testkit.Epoch)
	if len(text) > MaxSaved(2000) {
		t.Errorf("%d bytes, and %d are said to be the most", len(text), MaxSaved(2000))
	}
	next := NewTable(500, testkit.Epoch)
	next.NoteEndings(100)
	next.Restore(saved(t, ids, testkit.Epoch), 0, testkit.Epoch)
	if n, _ := next.Len(); n > 500 {
		t.Errorf("%d tokens have 500 places", n)
	}
}
