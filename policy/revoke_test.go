package policy

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

func TestRevokingAToken(t *testing.T) {
	ids := NewIdentities(1000, testkit.Epoch)
	phone, desk, bob := Credential{Token: "phone"}, Credential{Token: "desk"}, Credential{Token: "bob"}
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

	ids.RevokeToken(Credential{Token: "never seen"})
	wantUser(t, ids, desk, 0, "@alice:hs")
	wantUser(t, ids, bob, 0, "@bob:hs")
}

func TestRevokingATokenEndsItsMasquerades(t *testing.T) {
	ids := NewIdentities(1000, testkit.Epoch)
	sender := Credential{Token: "as"}
	a, b := Credential{Token: "as", UserID: "@a:hs"}, Credential{Token: "as", UserID: "@b:hs", DeviceID: "D"}
	for _, revoked := range []Credential{sender, a} {
		learn(ids, sender, WhoAmI{UserID: "@sender:hs"}, forever)
		learn(ids, a, WhoAmI{UserID: "@a:hs"}, forever)
		learn(ids, b, WhoAmI{UserID: "@b:hs", DeviceID: "D"}, forever)
		wantUser(t, ids, b, 0, "@b:hs")
		ids.RevokeToken(revoked)
		for _, c := range []Credential{sender, a, b} {
			wantUser(t, ids, c, 0, "")
		}
	}
	// Not even when the token is known again: each needs its own answer.
	learn(ids, sender, WhoAmI{UserID: "@sender:hs"}, forever)
	wantUser(t, ids, a, 0, "")
	wantUser(t, ids, b, 0, "")
}

func TestRevokingAUser(t *testing.T) {
	ids := NewIdentities(1000, testkit.Epoch)
	desk, bob := Credential{Token: "desk"}, Credential{Token: "bob"}
	alice := Credential{Token: "as", UserID: "@alice:hs"}
	other := Credential{Token: "as", UserID: "@other:hs"}
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

func TestRevokingAll(t *testing.T) {
	ids := NewIdentities(1000, testkit.Epoch)
	bob, as := Credential{Token: "bob"}, Credential{Token: "as", UserID: "@a:hs"}
	for range 2 {
		learn(ids, bob, WhoAmI{UserID: "@bob:hs"}, forever)
		learn(ids, as, WhoAmI{UserID: "@a:hs"}, forever)
		wantUser(t, ids, bob, 0, "@bob:hs")
		wantUser(t, ids, as, 0, "@a:hs")
		ids.RevokeAll()
		wantUser(t, ids, bob, 0, "")
		wantUser(t, ids, as, 0, "")
	}
}

// The interleaving of the documentation: the homeserver was asked before the
// revocation, its answer arrives after. What it says is no longer so.
func TestARevocationDuringALookup(t *testing.T) {
	alice := Credential{Token: "tok"}
	masquerade := Credential{Token: "tok", UserID: "@alice:hs"}
	for _, c := range []Credential{alice, masquerade} {
		for name, revoke := range map[string]func(*Identities){
			"of the user":  func(ids *Identities) { ids.RevokeUser("@alice:hs") },
			"of the token": func(ids *Identities) { ids.RevokeToken(alice) },
			"of all":       (*Identities).RevokeAll,
			"of the user, and then others": func(ids *Identities) {
				ids.RevokeUser("@alice:hs")
				ids.RevokeUser("@bob:hs")
			},
		} {
			for _, before := range []bool{false, true} { // known before, too?
				t.Run(fmt.Sprintf("%s, %+v, %v", name, c, before), func(t *testing.T) {
					ids := NewIdentities(1000, testkit.Epoch)
					if before {
						learn(ids, c, WhoAmI{UserID: "@alice:hs"}, forever)
					}
					revision := ids.Revision()
					revoke(ids)
					if ids.Revision() == revision {
						t.Error("the revision is the same after a revocation, so lookups before and after are collapsed")
					}
					ids.Learn(c, WhoAmI{UserID: "@alice:hs"}, revision, testkit.At(forever))
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
		ids := NewIdentities(1000, testkit.Epoch)
		revision := ids.Revision()
		ids.RevokeUser("@bob:hs")
		ids.Learn(alice, WhoAmI{UserID: "@alice:hs"}, revision, testkit.At(forever))
		wantUser(t, ids, alice, 0, "@alice:hs")
	})
}

// There are an eighth as many places for revocations as for tokens. One that has to
// make room becomes one of everybody's earlier lookups.
func TestAForgottenRevocationConcernsEverybody(t *testing.T) {
	ids := NewIdentities(16, testkit.Epoch) // 2 places
	victim, late := Credential{Token: "victim"}, Credential{Token: "late"}
	learn(ids, victim, WhoAmI{UserID: "@victim:hs"}, forever)
	revision := ids.Revision()
	ids.RevokeUser("@victim:hs")
	ids.RevokeUser("@a:hs")
	between := ids.Revision()
	ids.RevokeUser("@b:hs") // pushes out the victim's
	if _, kept := ids.revoked.Peek("@victim:hs"); kept {
		t.Fatal("the revocation is still kept, so this test shows nothing")
	}
	wantUser(t, ids, victim, 0, "")
	ids.Learn(victim, WhoAmI{UserID: "@victim:hs"}, revision, testkit.At(forever))
	wantUser(t, ids, victim, 0, "")

	// What was asked after the victim's revocation isn't touched by it.
	ids.Learn(late, WhoAmI{UserID: "@late:hs"}, between, testkit.At(forever))
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
	ids, bob := NewIdentities(16, testkit.Epoch), Credential{Token: "bob"} // 2 places
	learn(ids, bob, WhoAmI{UserID: "@bob:hs"}, forever)
	for i := range 100 {
		ids.RevokeUser(fmt.Sprint("@", i, ":hs"))
		wantUser(t, ids, bob, 0, "@bob:hs")
	}
}

func TestManyRevocationsNeedNoMoreThanTheirPlaces(t *testing.T) {
	ids := NewIdentities(160, testkit.Epoch)
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
		c        Credential
		who      string
		revision Revision
		number   int // of revocations when it left
	}
	for range 200 {
		ids := NewIdentities(testkit.Pick(r, 1, 16, 1000), testkit.Epoch)
		var number int
		revoked := make(map[string]int)   // user or token → number of the last revocation
		known := make(map[Credential]int) // → number as of which the answer holds
		var flights []flight
		for range 200 {
			s := session{r.IntN(6), r.IntN(3)}
			user := fmt.Sprint("@", s.user, ":hs")
			c := Credential{Token: fmt.Sprint("as", s.token), UserID: user}
			if s.token%2 == 0 { // an ordinary token, of one user
				user = fmt.Sprint("@", s.token/2, ":hs")
				c = Credential{Token: fmt.Sprint("tok", s.token)}
			}
			switch r.IntN(8) {
			case 0, 1, 2:
				flights = append(flights, flight{c, user, ids.Revision(), number})
			case 3, 4:
				if len(flights) > 0 {
					i := r.IntN(len(flights))
					f := flights[i]
					flights = append(flights[:i], flights[i+1:]...)
					ids.Learn(f.c, WhoAmI{UserID: f.who}, f.revision, testkit.At(forever))
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
					ids.RevokeToken(c)
					revoked[c.Token] = number
				}
			default:
				got, _ := ids.Lookup(c, testkit.Epoch)
				asOf, learned := known[c]
				if got != "" && (got != user || !learned || asOf < revoked[user] || asOf < revoked[c.Token]) {
					t.Fatalf("%+v is %q, learned %v as of %d, revoked at %d and %d", c, got, learned, asOf, revoked[user], revoked[c.Token])
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
	ids := NewIdentities(64, testkit.Epoch) // small, so that everything is pushed out at times
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
				c := Credential{Token: fmt.Sprint(user, "-", n)}
				if n%2 == 1 {
					c.UserID = userID
				}
				if worker == 0 && step%(3000/sessions) == 0 {
					to := int64(step / (3000 / sessions))
					raise(&ended[user], to)
					if r.IntN(3) == 0 {
						ids.RevokeAll()
					} else {
						ids.RevokeUser(userID)
					}
					raise(&acknowledged[user], to)
					continue
				}
				floor := acknowledged[user].Load()
				if found, rejection := ids.Lookup(c, testkit.Epoch); found != "" {
					if found != userID || n < floor {
						t.Errorf("session %d of %s is %s, ended up to %d", n, userID, found, floor)
					}
					continue
				} else if rejection != nil {
					continue
				}
				revision := ids.Revision()
				if n >= ended[user].Load() { // whoami
					ids.Learn(c, WhoAmI{UserID: userID}, revision, testkit.At(forever))
				} else {
					ids.Reject(c, &Rejection{Body: "unknown"}, testkit.At(forever))
				}
			}
		})
	}
	workers.Wait()
}

func BenchmarkIdentitiesLookupAfterRevocations(b *testing.B) {
	ids, c := NewIdentities(100_000, testkit.Epoch), Credential{Token: "tok"}
	learn(ids, c, WhoAmI{UserID: "@alice:hs"}, forever)
	b.ReportAllocs()
	for b.Loop() {
		ids.RevokeUser("@bob:hs")
		ids.Lookup(c, testkit.Epoch)
	}
}
