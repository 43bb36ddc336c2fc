package identity

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

func TestRevokingAToken(t *testing.T) {
	ids := NewTable(1000, testkit.Epoch)
	phone, desk, bob := matrix.Credential{Token: "phone"}, matrix.Credential{Token: "desk"}, matrix.Credential{Token: "bob"}
	learn(ids, phone, WhoAmI{UserID: "@alice:hs"}, forever)
	learn(ids, desk, WhoAmI{UserID: "@alice:hs"}, forever)
	learn(ids, bob, WhoAmI{UserID: "@bob:hs"}, forever)

	ids.RevokeToken(phone)
	wantUser(t, ids, phone, 0, "")
	wantUser(t, ids, desk, 0, "") // has to be looked up again
	wantUser(t, ids, bob, 0, "@bob:hs")
	learn(ids, desk, WhoAmI{UserID: "@alice:hs"}, forever)
	wantUser(t, ids, desk, 0, "@alice:hs")
	wantUser(t, ids, phone, 0, "")

	ids.RevokeToken(matrix.Credential{Token: "never seen"})
	wantUser(t, ids, desk, 0, "@alice:hs")
	wantUser(t, ids, bob, 0, "@bob:hs")
}

func TestRevokingATokenEndsItsMasquerades(t *testing.T) {
	ids := NewTable(1000, testkit.Epoch)
	sender := matrix.Credential{Token: "as"}
	a, b := matrix.Credential{Token: "as", UserID: "@a:hs"}, matrix.Credential{Token: "as", UserID: "@b:hs", DeviceID: "D"}
	for name, end := range map[string]func(*Table, matrix.Credential){"revoked": revokeToken, "doubted": (*Table).Doubt} {
		learn(ids, sender, WhoAmI{UserID: "@sender:hs"}, forever)
		learn(ids, a, WhoAmI{UserID: "@a:hs"}, forever)
		learn(ids, b, WhoAmI{UserID: "@b:hs", DeviceID: "D"}, forever)
		wantUser(t, ids, b, 0, "@b:hs")
		end(ids, sender)
		for _, c := range []matrix.Credential{sender, a, b} {
			wantUser(t, ids, c, 0, "")
		}
		if known := ids.WasKnown(sender); known != (name == "doubted") {
			t.Errorf("%s: the token was known: %v", name, known)
		}
	}
	// Not even when the token is known again: each needs its own answer.
	learn(ids, sender, WhoAmI{UserID: "@sender:hs"}, forever)
	wantUser(t, ids, a, 0, "")
	wantUser(t, ids, b, 0, "")
}

func TestRevokingAUser(t *testing.T) {
	ids := NewTable(1000, testkit.Epoch)
	desk, bob := matrix.Credential{Token: "desk"}, matrix.Credential{Token: "bob"}
	alice := matrix.Credential{Token: "as", UserID: "@alice:hs"}
	other := matrix.Credential{Token: "as", UserID: "@other:hs"}
	learn(ids, desk, WhoAmI{UserID: "@alice:hs"}, forever)
	learn(ids, bob, WhoAmI{UserID: "@bob:hs"}, forever)
	learn(ids, alice, WhoAmI{UserID: "@alice:hs"}, forever)
	learn(ids, other, WhoAmI{UserID: "@other:hs"}, forever)

	ids.RevokeUser("@alice:hs")
	wantUser(t, ids, desk, 0, "")
	wantUser(t, ids, alice, 0, "")
	for range 2 { // also after it has been noted that nothing touched them
		wantUser(t, ids, bob, 0, "@bob:hs")
		wantUser(t, ids, other, 0, "@other:hs")
	}
	ids.RevokeUser("@Alice:hs")
	ids.RevokeUser("")
	learn(ids, desk, WhoAmI{UserID: "@alice:hs"}, forever)
	wantUser(t, ids, desk, 0, "@alice:hs")
	ids.RevokeUser("@alice:hs")
	wantUser(t, ids, desk, 0, "")
}

// On Dendrite the token of an appservice is unknown together with a user_id that is
// unknown. Once that cost all other users of the bridge their identity.
func TestRevokingOneUserOfAnAppserviceLeavesTheOthers(t *testing.T) {
	for name, end := range map[string]func(*Table, matrix.Credential){
		"revoked": revokeToken, "doubted": (*Table).Doubt,
		// as by an answer whose status comes before the rest of it
		"doubted, and revoked": func(ids *Table, c matrix.Credential) { ids.Doubt(c); ids.RevokeToken(c) },
	} {
		t.Run(name, func(t *testing.T) {
			ids := NewTable(1000, testkit.Epoch)
			sender := matrix.Credential{Token: "as"}
			a, b := matrix.Credential{Token: "as", UserID: "@a:hs"}, matrix.Credential{Token: "as", UserID: "@b:hs"}
			for _, plain := range []bool{false, true} { // is the bridge's own user known?
				if plain {
					learn(ids, sender, WhoAmI{UserID: "@sender:hs"}, forever)
				}
				learn(ids, a, WhoAmI{UserID: "@a:hs"}, forever)
				learn(ids, b, WhoAmI{UserID: "@b:hs"}, forever)
				end(ids, a)
				wantUser(t, ids, a, 0, "")
				wantUser(t, ids, b, 0, "@b:hs")
				if plain {
					wantUser(t, ids, sender, 0, "@sender:hs")
				}
			}
		})
	}
}

// Nor is the token one that somebody has made up if nobody has known the user. Once it counted as one, so its users were
// refused when a few of them were unknown.
func TestUnknownUserOfAnAppserviceLeavesTheTokenKnown(t *testing.T) {
	ids := NewTable(1000, testkit.Epoch)
	a, b := matrix.Credential{Token: "as", UserID: "@a:hs"}, matrix.Credential{Token: "as", UserID: "@b:hs"}
	learn(ids, a, WhoAmI{UserID: "@a:hs"}, forever)
	for range 2 {
		ids.RevokeToken(b)
		if !ids.WasKnown(a) {
			t.Error("the token isn't known any more")
		}
	}
}

// To an ordinary token a user_id means nothing, whatever is known of that by then.
func TestRevokingAnOrdinaryTokenInAnySpelling(t *testing.T) {
	plain := matrix.Credential{Token: "tok"}
	for name, end := range map[string]func(*Table, matrix.Credential){"revoked": revokeToken, "doubted": (*Table).Doubt} {
		for _, first := range []matrix.Credential{plain, {Token: "tok", UserID: "@alice:hs"}, {Token: "tok", UserID: "@x:hs"}, {Token: "tok", DeviceID: "D"}} {
			for _, spelling := range []matrix.Credential{plain, {Token: "tok", UserID: "@alice:hs"}, {Token: "tok", UserID: "@y:hs"}, {Token: "tok", DeviceID: "X"}} {
				ids := NewTable(1000, testkit.Epoch)
				learn(ids, first, WhoAmI{UserID: "@alice:hs", DeviceID: "D"}, forever)
				learn(ids, plain, WhoAmI{UserID: "@alice:hs", DeviceID: "D"}, forever)
				end(ids, spelling)
				for _, c := range []matrix.Credential{plain, spelling} {
					if userID, _ := ids.Lookup(c, testkit.Epoch, lifetimes); userID != "" {
						t.Errorf("%s as %+v, known as %+v: %+v is %s", name, spelling, first, c, userID)
					}
				}
			}
		}
	}
}

// What nobody has answered may not have happened: only the token itself is asked about
// again, not its user's others.
func TestDoubtTouchesOneToken(t *testing.T) {
	ids := NewTable(1000, testkit.Epoch)
	phone, desk := matrix.Credential{Token: "phone"}, matrix.Credential{Token: "desk"}
	learn(ids, phone, WhoAmI{UserID: "@alice:hs"}, forever)
	learn(ids, desk, WhoAmI{UserID: "@alice:hs"}, forever)
	ids.Doubt(phone)
	wantUser(t, ids, phone, 0, "")
	wantUser(t, ids, desk, 0, "@alice:hs")
	if ids.LastKnown(phone) != "" || !ids.WasKnown(phone) {
		t.Errorf("in doubt, the phone was last %q's, known: %v", ids.LastKnown(phone), ids.WasKnown(phone))
	}
	learn(ids, phone, WhoAmI{UserID: "@alice:hs"}, forever)
	wantUser(t, ids, phone, 0, "@alice:hs")
}

// Once each logout with a token that somebody had made up ended every lookup in flight:
// at 650 a second no new user could be remembered.
func TestRevocationsOfOtherTokensLeaveALookupAlone(t *testing.T) {
	ids, alice := NewTable(1000, testkit.Epoch), matrix.Credential{Token: "alice"}
	under := ids.Begin(alice)
	defer under.End()
	asOf := ids.Revision()
	for i := range 1000 {
		ids.RevokeToken(matrix.Credential{Token: fmt.Sprint("made-up-", i)})
		ids.Doubt(matrix.Credential{Token: fmt.Sprint("made-up-", i)})
		ids.RevokeUser(fmt.Sprintf("@%d:hs", i%100))
	}
	if !under.Holds("@alice:hs", asOf) {
		t.Error("the answer doesn't hold")
	}
	under.Learn(WhoAmI{UserID: "@alice:hs"}, asOf, until(forever))
	wantUser(t, ids, alice, 0, "@alice:hs")
}

// A token that nobody knows or looks up leaves no trace.
func TestMadeUpTokensLeaveNothing(t *testing.T) {
	ids := NewTable(1000, testkit.Epoch)
	before := ids.Revision()
	for i := range 1000 {
		c := matrix.Credential{Token: fmt.Sprint("made-up-", i), UserID: fmt.Sprintf("@%d:hs", i)}
		ids.RevokeToken(c)
		ids.Doubt(c)
		ids.Refreshed(c.Token)
	}
	wantCounts(t, ids, 0, 0)
	if ids.Revision() != before || ids.revoked.Len() != 0 || ids.succeeds.Len() != 0 {
		t.Error("made-up tokens have been noted")
	}
	for i := range ids.shards {
		if n := len(ids.shards[i].inquiries); n != 0 {
			t.Errorf("%d lookups are under way", n)
		}
	}
}

// A user ID in a path may be a part of a request of megabytes.
func TestRevokedUserIsACopy(t *testing.T) {
	ids := NewTable(1000, testkit.Epoch)
	request := "@alice:hs" + strings.Repeat("x", 1<<20)
	ids.RevokeUser(request[:9])
	if kept := ids.revoked.Keys()[0]; unsafe.StringData(kept) == unsafe.StringData(request) {
		t.Error("a table keeps a whole request alive")
	}
}

// A client that refreshes need not show its old access token. Whose turn is over is known
// from when the two were given out.
func TestRefreshEndsTheAccessTokenBefore(t *testing.T) {
	ids := NewTable(1000, testkit.Epoch)
	old, desk := matrix.Credential{Token: "old"}, matrix.Credential{Token: "desk"}
	learn(ids, old, WhoAmI{UserID: "@alice:hs"}, forever)
	learn(ids, desk, WhoAmI{UserID: "@alice:hs"}, forever)
	ids.Issued("old", "refresh-1")
	ids.Refreshed("refresh-2")
	wantUser(t, ids, old, 0, "@alice:hs")
	ids.Refreshed("refresh-1")
	wantUser(t, ids, old, 0, "")
	wantUser(t, ids, desk, 0, "@alice:hs")
	for i := range 1000 {
		ids.Issued(fmt.Sprint(i), fmt.Sprint("r", i))
		ids.IssuedTo("@bob:hs", fmt.Sprint(i))
	}
	if n, m := ids.succeeds.Len(), ids.issuedTo.Len(); n > 1000/8 || m > 1000/8 {
		t.Errorf("%d refresh tokens and %d access tokens are kept", n, m)
	}
}

// Of the refresh tokens that a request names, those that nobody has given out are made up, if
// its answer gives one out: they must push none out that somebody has.
func TestMadeUpRefreshTokensAreNotKept(t *testing.T) {
	ids := NewTable(1000, testkit.Epoch)
	ids.Issued("a", "r")
	for i := range 1000 {
		ids.Issued("b", "r", fmt.Sprint("made up ", i), "r")
	}
	if n := ids.succeeds.Len(); n != 1 {
		t.Errorf("%d refresh tokens are kept, want 1", n)
	}
}

// Whose a token is never changes: it is known for what ends by its requests, whatever has
// ended meanwhile, and never authorises anything.
func TestHolderOfWhatMayHaveEnded(t *testing.T) {
	ids := NewTable(1000, testkit.Epoch)
	plain, ordinary := matrix.Credential{Token: "tok"}, matrix.Credential{Token: "tok", UserID: "@x:hs"}
	bridge, ghost := matrix.Credential{Token: "as"}, matrix.Credential{Token: "as", UserID: "@g:hs"}
	issued := matrix.Credential{Token: "issued"}
	want := func(c matrix.Credential, want string) {
		t.Helper()
		if got := ids.Holder(c); got != want {
			t.Errorf("the holder of %+v is %q, want %q", c, got, want)
		}
	}
	want(plain, "")
	learn(ids, plain, WhoAmI{UserID: "@a:hs"}, forever)
	learn(ids, ordinary, WhoAmI{UserID: "@a:hs"}, forever)
	learn(ids, bridge, WhoAmI{UserID: "@b:hs"}, forever)
	learn(ids, ghost, WhoAmI{UserID: "@g:hs"}, forever)
	ids.IssuedTo("@i:hs", "issued")
	ids.IssuedTo("@"+strings.Repeat("x", matrix.MaxUserID), "long")
	ids.IssuedTo("", "nobody's")
	for _, userID := range []string{"@a:hs", "@b:hs", "@g:hs", "@i:hs"} {
		ids.RevokeUser(userID)
	}
	for c, userID := range map[matrix.Credential]string{plain: "@a:hs", ordinary: "@a:hs", bridge: "@b:hs", ghost: "@g:hs", issued: "@i:hs",
		{Token: "issued", UserID: "@x:hs"}: "@i:hs", {Token: "as", UserID: "@x:hs"}: "", {Token: "long"}: "", {Token: "nobody's"}: ""} {
		want(c, userID)
		wantUser(t, ids, c, 0, "")
		if got := ids.LastKnown(c); got != "" {
			t.Errorf("%+v was last %q", c, got)
		}
	}
	// Also in doubt, and whoever refreshes it.
	ids.Doubt(plain)
	want(plain, "@a:hs")
	ids.Issued("tok", "r")
	ids.Issued("next", "r2", "made up", "r")
	ids.Issued("last", "", "r2")
	for _, token := range []string{"next", "last"} {
		want(matrix.Credential{Token: token}, "@a:hs")
		wantUser(t, ids, matrix.Credential{Token: token}, 0, "")
	}
	learn(ids, matrix.Credential{Token: "new"}, WhoAmI{UserID: "@n:hs"}, forever)
	ids.RevokeToken(matrix.Credential{Token: "new"})
	want(matrix.Credential{Token: "new"}, "")
}

// The interleaving of the documentation: the homeserver was asked before the
// revocation, its answer arrives after. What it says is no longer so.
func TestARevocationDuringALookup(t *testing.T) {
	alice := matrix.Credential{Token: "tok"}
	masquerade := matrix.Credential{Token: "tok", UserID: "@alice:hs"}
	for _, c := range []matrix.Credential{alice, masquerade} {
		for name, revoke := range map[string]func(*Table){
			"of the user":  func(ids *Table) { ids.RevokeUser("@alice:hs") },
			"of the token": func(ids *Table) { ids.RevokeToken(alice) },
			"in doubt":     func(ids *Table) { ids.Doubt(alice) },
			"of the user, and then others": func(ids *Table) {
				ids.RevokeUser("@alice:hs")
				ids.RevokeUser("@bob:hs")
			},
		} {
			for _, before := range []bool{false, true} { // known before, too?
				t.Run(fmt.Sprintf("%s, %+v, %v", name, c, before), func(t *testing.T) {
					ids := NewTable(1000, testkit.Epoch)
					if before {
						learn(ids, c, WhoAmI{UserID: "@alice:hs"}, forever)
					}
					under := ids.Begin(c)
					asOf := ids.Revision()
					revoke(ids)
					late := ids.Begin(c) // shares the question
					under.Learn(WhoAmI{UserID: "@alice:hs"}, asOf, until(forever))
					under.End()
					if late.Holds("@alice:hs", asOf) {
						t.Error("what was asked before the revocation holds for a lookup that began after it")
					}
					late.End()
					wantUser(t, ids, c, 0, "")
					wantUser(t, ids, c, 0, "")
					// The next lookup finds out what is true.
					learn(ids, c, WhoAmI{UserID: "@alice:hs"}, forever)
					wantUser(t, ids, c, 0, "@alice:hs")
				})
			}
		}
	}
	t.Run("of somebody else", func(t *testing.T) {
		ids := NewTable(1000, testkit.Epoch)
		under := ids.Begin(alice)
		defer under.End()
		asOf := ids.Revision()
		ids.RevokeUser("@bob:hs")
		under.Learn(WhoAmI{UserID: "@alice:hs"}, asOf, until(forever))
		wantUser(t, ids, alice, 0, "@alice:hs")
	})
}

// There are an eighth as many places for revocations as for tokens. One that has to
// make room becomes one of everybody's earlier lookups.
func TestAForgottenRevocationConcernsEverybody(t *testing.T) {
	ids := NewTable(16, testkit.Epoch) // 2 places
	victim, late := matrix.Credential{Token: "victim"}, matrix.Credential{Token: "late"}
	learn(ids, victim, WhoAmI{UserID: "@victim:hs"}, forever)
	of := func(c matrix.Credential, who WhoAmI, asOf Revision) {
		under := ids.Begin(c)
		defer under.End()
		under.Learn(who, asOf, until(forever))
	}
	revision := ids.Revision()
	ids.RevokeUser("@victim:hs")
	ids.RevokeUser("@a:hs")
	between := ids.Revision()
	ids.RevokeUser("@b:hs") // pushes out the victim's
	if _, kept := ids.revoked.Peek("@victim:hs"); kept {
		t.Fatal("the revocation is still kept, so this test shows nothing")
	}
	wantUser(t, ids, victim, 0, "")
	of(victim, WhoAmI{UserID: "@victim:hs"}, revision)
	wantUser(t, ids, victim, 0, "")

	// What was asked after the victim's revocation isn't touched by it.
	of(late, WhoAmI{UserID: "@late:hs"}, between)
	wantUser(t, ids, late, 0, "@late:hs")

	// Resize makes room in the same way.
	learn(ids, victim, WhoAmI{UserID: "@victim:hs"}, forever)
	ids.RevokeUser("@victim:hs")
	ids.RevokeUser("@c:hs")
	ids.Resize(8) // 1 place
	wantUser(t, ids, victim, 0, "")
	if n := ids.revoked.Len(); n != 1 {
		t.Errorf("%d revocations are kept, want 1", n)
	}
}

// An entry that was looked up after a revocation of somebody else has been found not
// to be touched by it, and stays so when the revocation is forgotten.
func TestALookupNotesWhatDoesNotConcernIt(t *testing.T) {
	ids, bob := NewTable(16, testkit.Epoch), matrix.Credential{Token: "bob"} // 2 places
	learn(ids, bob, WhoAmI{UserID: "@bob:hs"}, forever)
	for i := range 100 {
		ids.RevokeUser(fmt.Sprint("@", i, ":hs"))
		wantUser(t, ids, bob, 0, "@bob:hs")
	}
}

func TestManyRevocationsNeedNoMoreThanTheirPlaces(t *testing.T) {
	ids := NewTable(160, testkit.Epoch)
	for i := range 100_000 {
		ids.RevokeUser(fmt.Sprint("@", i, ":hs"))
	}
	if n := ids.revoked.Len(); n > 20 {
		t.Errorf("%d revocations are kept, want at most 20", n)
	}
}

// A model that remembers everything: after random revocations, a table may know less
// than it, but never something else.
func TestIdentitiesAgreeWithAModel(t *testing.T) {
	r := testkit.Rand(t)
	type session struct{ token, user int }
	type flight struct {
		c        matrix.Credential
		who      string
		under    Inquiry
		revision Revision
		number   int // of revocations when it left
	}
	for range 200 {
		ids := NewTable(testkit.Pick(r, 1, 16, 1000), testkit.Epoch)
		var number int
		revoked := make(map[string]int)          // user or token → number of the last revocation
		known := make(map[matrix.Credential]int) // → number as of which the answer holds
		var flights []flight
		for range 200 {
			s := session{r.IntN(6), r.IntN(3)}
			user := fmt.Sprint("@", s.user, ":hs")
			c := matrix.Credential{Token: fmt.Sprint("as", s.token), UserID: user}
			if s.token%2 == 0 { // an ordinary token, of one user
				user = fmt.Sprint("@", s.token/2, ":hs")
				c = matrix.Credential{Token: fmt.Sprint("tok", s.token)}
			}
			switch r.IntN(8) {
			case 0, 1, 2:
				flights = append(flights, flight{c, user, ids.Begin(c), ids.Revision(), number})
			case 3, 4:
				if len(flights) > 0 {
					i := r.IntN(len(flights))
					f := flights[i]
					flights = append(flights[:i], flights[i+1:]...)
					f.under.Learn(WhoAmI{UserID: f.who}, f.revision, until(forever))
					f.under.End()
					known[f.c] = max(known[f.c], f.number)
				}
			case 5:
				if r.IntN(4) == 0 {
					number++
					ids.RevokeUser(user)
					revoked[user] = number
				}
			case 6:
				if r.IntN(4) == 0 {
					number++
					// For an appservice it is one user of many who ends.
					end := testkit.Pick(r, revokeToken, (*Table).Doubt)
					end(ids, c)
					revoked[c.Token+c.UserID] = number
				}
			default:
				got, _ := ids.Lookup(c, testkit.Epoch, lifetimes)
				asOf, learned := known[c]
				if got != "" && (got != user || !learned || asOf < revoked[user] || asOf < revoked[c.Token+c.UserID]) {
					t.Fatalf("%+v is %q, learned %v as of %d, revoked at %d and %d", c, got, learned, asOf, revoked[user], revoked[c.Token+c.UserID])
				}
			}
		}
	}
}

// Sessions are numbered. A logout ends all of a user's up to a number, on the
// homeserver first and then in the table. A lookup that begins after the logout was
// acknowledged never finds an ended session.
func TestRevocationRace(t *testing.T) {
	const users, sessions = 4, 40
	ids := NewTable(64, testkit.Epoch) // small, so that everything is pushed out at times
	var ended, acknowledged [users]atomic.Int64
	var workers sync.WaitGroup
	raise := func(n *atomic.Int64, to int64) {
		for old := n.Load(); old < to && !n.CompareAndSwap(old, to); old = n.Load() {
		}
	}
	shared := testkit.Rand(t)
	for worker := range 8 {
		r := rand.New(rand.NewPCG(shared.Uint64(), uint64(worker)))
		workers.Go(func() {
			for step := range 3000 {
				user, n := r.IntN(users), int64(r.IntN(sessions))
				userID := fmt.Sprint("@", user, ":hs")
				c := matrix.Credential{Token: fmt.Sprint(user, "-", n)}
				if n%2 == 1 {
					c.UserID = userID
				}
				if worker == 0 && step%(3000/sessions) == 0 {
					to := int64(step / (3000 / sessions))
					raise(&ended[user], to)
					ids.RevokeUser(userID)
					raise(&acknowledged[user], to)
					continue
				}
				floor := acknowledged[user].Load()
				if found, unknown := ids.Lookup(c, testkit.Epoch, lifetimes); found != "" {
					if found != userID || n < floor {
						t.Errorf("session %d of %s is %s, ended up to %d", n, userID, found, floor)
					}
					continue
				} else if unknown != nil {
					continue
				}
				under := ids.Begin(c)
				revision := ids.Revision()
				if n >= ended[user].Load() { // whoami
					under.Learn(WhoAmI{UserID: userID}, revision, until(forever))
				} else {
					ids.Reject(c, &UnknownToken{Body: "unknown"}, until(forever))
				}
				under.End()
			}
		})
	}
	workers.Wait()
}

func BenchmarkIdentitiesLookupAfterRevocations(b *testing.B) {
	ids, c := NewTable(100_000, testkit.Epoch), matrix.Credential{Token: "tok"}
	learn(ids, c, WhoAmI{UserID: "@alice:hs"}, forever)
	b.ReportAllocs()
	for b.Loop() {
		ids.RevokeUser("@bob:hs")
		ids.Lookup(c, testkit.Epoch, lifetimes)
	}
}

// revokeToken is [Table.RevokeToken] where it stands beside [Table.Doubt].
func revokeToken(t *Table, c matrix.Credential) { t.RevokeToken(c) }
