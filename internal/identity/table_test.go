package identity

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

const forever = 100 * 365 * 24 * time.Hour

// lifetimes are those of the tests.
var lifetimes = Lifetimes{Identity: time.Hour, UnknownToken: time.Hour}

// until returns when the homeserver was asked for what is good until then.
func until(expires time.Duration) time.Time { return testkit.At(expires - time.Hour) }

// learn asks a homeserver that says who.
func learn(t *Table, c matrix.Credential, who WhoAmI, expires time.Duration) {
	under := t.Begin(c)
	defer under.End()
	under.Learn(who, t.Revision(), until(expires))
}

func wantUser(t *testing.T, ids *Table, c matrix.Credential, now time.Duration, want string) {
	t.Helper()
	userID, answer := ids.Lookup(c, testkit.At(now), lifetimes)
	if userID != want || answer != nil {
		t.Errorf("%+v at %v is %q, unknown %v, want %q", c, now, userID, answer, want)
	}
}

func wantCounts(t *testing.T, ids *Table, identities, unknown int) {
	t.Helper()
	if i, r := ids.Len(); i != identities || r != unknown {
		t.Errorf("%d identities and %d unknown tokens are kept, want %d and %d", i, r, identities, unknown)
	}
}

func TestAnIdentityIsKnownUntilItExpires(t *testing.T) {
	ids, c := NewTable(100, testkit.Epoch), matrix.Credential{Token: "tok"}
	wantUser(t, ids, c, 0, "")
	learn(ids, c, WhoAmI{UserID: "@a:b", DeviceID: "D"}, time.Minute)
	wantUser(t, ids, c, 0, "@a:b")
	wantUser(t, ids, c, time.Minute-1, "@a:b")
	wantUser(t, ids, c, time.Minute, "")
	wantUser(t, ids, matrix.Credential{Token: "Tok"}, 0, "")
	wantUser(t, ids, matrix.Credential{}, 0, "")

	learn(ids, c, WhoAmI{UserID: "@a:b"}, 2*time.Minute)
	wantUser(t, ids, c, 2*time.Minute-1, "@a:b")
	wantCounts(t, ids, 1, 0)
}

// Once an answer kept its end, so that a lifetime that was lowered did nothing about what was
// in memory, and of two sites with one memory the longer one applied to both.
func TestLifetimesAreThoseOfWhoAsks(t *testing.T) {
	ids, known, unknown := NewTable(100, testkit.Epoch), matrix.Credential{Token: "tok"}, matrix.Credential{Token: "made up"}
	ghost := matrix.Credential{Token: "as", UserID: "@g:b"}
	under := ids.Begin(known)
	under.Learn(WhoAmI{UserID: "@a:b"}, ids.Revision(), testkit.Epoch)
	under.End()
	under = ids.Begin(ghost)
	under.Learn(WhoAmI{UserID: "@g:b"}, ids.Revision(), testkit.Epoch)
	under.End()
	ids.Reject(unknown, &UnknownToken{}, testkit.Epoch)
	for _, tc := range []struct {
		now  time.Duration
		good Lifetimes
		a, r bool
	}{
		{time.Minute, Lifetimes{time.Minute + 1, time.Minute + 1}, true, true},
		{time.Minute, Lifetimes{time.Minute, time.Minute}, false, false},
		{time.Minute, Lifetimes{time.Hour, time.Second}, true, false},
		{time.Minute, Lifetimes{time.Second, time.Hour}, false, true},
		{0, Lifetimes{}, false, false},
		{-time.Second, Lifetimes{time.Minute, 0}, true, true},
		{time.Hour, Lifetimes{math.MaxInt64, math.MaxInt64}, true, true},
		{-1 << 62, Lifetimes{math.MaxInt64, math.MaxInt64}, true, true},
	} {
		user, _ := ids.Lookup(known, testkit.At(tc.now), tc.good)
		as, _ := ids.Lookup(ghost, testkit.At(tc.now), tc.good)
		_, answer := ids.Lookup(unknown, testkit.At(tc.now), tc.good)
		if (user == "@a:b") != tc.a || (as == "@g:b") != tc.a || (answer != nil) != tc.r {
			t.Errorf("at %v with %v: %q, %q, %v", tc.now, tc.good, user, as, answer)
		}
	}
}

// Whose a token was is whose it is, unless somebody has revoked it.
func TestWhatHasExpiredIsLastKnown(t *testing.T) {
	ids := NewTable(100, testkit.Epoch)
	plain, bridge := matrix.Credential{Token: "tok"}, matrix.Credential{Token: "as", UserID: "@b_1:b"}
	learn(ids, plain, WhoAmI{UserID: "@a:b"}, time.Second)
	learn(ids, bridge, WhoAmI{UserID: "@b_1:b"}, time.Second)
	wantUser(t, ids, plain, time.Minute, "")
	want := func(c matrix.Credential, want string) {
		t.Helper()
		if got := ids.LastKnown(c); got != want {
			t.Errorf("%+v was last %q, want %q", c, got, want)
		}
	}
	want(plain, "@a:b")
	want(bridge, "@b_1:b")
	want(matrix.Credential{Token: "as", UserID: "@b_2:b"}, "")
	want(matrix.Credential{Token: "other"}, "")
	ids.RevokeUser("@a:b")
	want(plain, "")
	want(bridge, "@b_1:b")
	ids.RevokeToken(bridge)
	want(bridge, "")
}

func TestAnUnknownTokenThatHasExpiredWasOne(t *testing.T) {
	ids := NewTable(100, testkit.Epoch)
	unknown := matrix.Credential{Token: "unknown"}
	if ids.WasRejected(unknown) {
		t.Error("a token was rejected of which nobody has asked")
	}
	ids.Reject(unknown, &UnknownToken{Body: "{}"}, until(time.Second))
	if _, got := ids.Lookup(unknown, testkit.At(time.Minute), lifetimes); got != nil {
		t.Errorf("an expired answer is still good: %+v", got)
	}
	if !ids.WasRejected(unknown) || !ids.WasRejected(matrix.Credential{Token: "unknown", UserID: "@b:b"}) {
		t.Error("it was never rejected")
	}
	learn(ids, unknown, WhoAmI{UserID: "@a:b"}, time.Minute)
	if ids.WasRejected(unknown) {
		t.Error("a token that is known was rejected")
	}
}

// Homeservers ignore user_id and device_id on an ordinary token. Nobody may fill the
// table or the homeserver's log by making them up.
func TestParametersOnAnOrdinaryTokenCostOneLookup(t *testing.T) {
	alice := WhoAmI{UserID: "@alice:hs", DeviceID: "REAL"}
	for name, first := range map[string]matrix.Credential{
		"user":            {Token: "tok", UserID: "@x0:hs"},
		"user and device": {Token: "tok", UserID: "@x0:hs", DeviceID: "D", DeviceParameter: "device_id"},
		"user and her own device": {Token: "tok", UserID: "@x0:hs", DeviceID: "REAL",
			DeviceParameter: "org.matrix.msc3202.device_id"},
	} {
		t.Run(name, func(t *testing.T) {
			ids := NewTable(100_000, testkit.Epoch)
			learn(ids, first, alice, forever)
			for i := range 1000 {
				c := first
				c.UserID = fmt.Sprintf("@x%d:hs", i)
				wantUser(t, ids, c, 0, "@alice:hs")
				c.DeviceID, c.DeviceParameter = fmt.Sprint("D", i), "device_id"
				wantUser(t, ids, c, 0, "@alice:hs")
			}
			wantUser(t, ids, matrix.Credential{Token: "tok"}, 0, "@alice:hs")
			wantCounts(t, ids, 1, 0)
		})
	}
	t.Run("device", func(t *testing.T) {
		ids := NewTable(100_000, testkit.Epoch)
		learn(ids, matrix.Credential{Token: "tok", DeviceID: "D0"}, alice, forever)
		for i := range 1000 {
			wantUser(t, ids, matrix.Credential{Token: "tok", DeviceID: fmt.Sprint("D", i)}, 0, "@alice:hs")
		}
		wantCounts(t, ids, 1, 0)
		// Of user_id nothing is known yet.
		wantUser(t, ids, matrix.Credential{Token: "tok", UserID: "@alice:hs"}, 0, "")
	})
	t.Run("her own user ID tells nothing", func(t *testing.T) {
		ids := NewTable(100_000, testkit.Epoch)
		learn(ids, matrix.Credential{Token: "tok", UserID: "@alice:hs"}, alice, forever)
		wantUser(t, ids, matrix.Credential{Token: "tok", UserID: "@alice:hs"}, 0, "@alice:hs")
		wantUser(t, ids, matrix.Credential{Token: "tok", UserID: "@bob:hs"}, 0, "")
		wantUser(t, ids, matrix.Credential{Token: "tok"}, 0, "")
	})
}

func TestAnAppserviceActsForManyUsers(t *testing.T) {
	ids := NewTable(100_000, testkit.Epoch)
	sender := matrix.Credential{Token: "as"}
	as := func(i int, device string) matrix.Credential {
		return matrix.Credential{Token: "as", UserID: fmt.Sprintf("@bridge_%d:hs", i), DeviceID: device}
	}
	for i := range 500 {
		wantUser(t, ids, as(i, ""), 0, "")
		learn(ids, as(i, ""), WhoAmI{UserID: as(i, "").UserID}, time.Minute)
	}
	wantUser(t, ids, sender, 0, "") // nobody has asked for that yet
	learn(ids, sender, WhoAmI{UserID: "@sender:hs"}, time.Hour)
	for i := range 500 {
		wantUser(t, ids, as(i, ""), time.Minute-1, as(i, "").UserID)
		wantUser(t, ids, as(i, ""), time.Minute, "") // each expires by itself
	}
	wantUser(t, ids, sender, time.Minute, "@sender:hs")
	wantUser(t, ids, as(500, ""), 0, "")

	// With a device that the homeserver confirms, it's an entry of its own: another
	// may be an error.
	learn(ids, as(1, "D1"), WhoAmI{UserID: as(1, "").UserID, DeviceID: "D1"}, time.Hour)
	wantUser(t, ids, as(1, "D1"), 0, as(1, "").UserID)
	wantUser(t, ids, as(1, "D2"), 0, "")
	wantUser(t, ids, as(2, "D1"), 0, "")
	// A homeserver that doesn't confirm it ignores the parameter.
	learn(ids, as(3, "D3"), WhoAmI{UserID: as(3, "").UserID, DeviceID: "AS_Device"}, time.Hour)
	wantUser(t, ids, as(3, "D4"), time.Minute, as(3, "").UserID)
	wantUser(t, ids, as(1, "D5"), 0, as(1, "").UserID)
}

// Two masquerades must not be one because their parameters look alike when put together.
func TestMasqueradesDoNotRunTogether(t *testing.T) {
	ids := NewTable(1000, testkit.Epoch)
	a := matrix.Credential{Token: "as", UserID: "@a:hs", DeviceID: "XY"}
	learn(ids, a, WhoAmI{UserID: "@a:hs", DeviceID: "XY"}, forever)
	for _, c := range []matrix.Credential{
		{Token: "as", UserID: "@a:hsX", DeviceID: "Y"}, {Token: "as", UserID: "@a:hsXY"}, {Token: "as", DeviceID: "@a:hsXY"},
		{Token: "as@a:hs", DeviceID: "XY"}, {Token: "as@a:hsXY"},
	} {
		wantUser(t, ids, c, 0, "")
		if ids.Fingerprint(c) == ids.Fingerprint(a) {
			t.Errorf("%+v and %+v have one fingerprint", c, a)
		}
	}
	if again := a; ids.Fingerprint(again) != ids.Fingerprint(a) {
		t.Error("a credential's fingerprint changes")
	}
	if NewTable(1000, testkit.Epoch).Fingerprint(a) == ids.Fingerprint(a) {
		t.Error("a fingerprint is the same in another table: the hash has no key")
	}
}

func TestUnknownTokensAreRememberedBriefly(t *testing.T) {
	ids, c := NewTable(1000, testkit.Epoch), matrix.Credential{Token: "bad"}
	answer := &UnknownToken{Body: `{"errcode":"M_UNKNOWN_TOKEN","soft_logout":true}`, Header: map[string][]string{"Vary": {"Origin"}}}
	ids.Reject(c, answer, until(time.Minute))
	for _, c := range []matrix.Credential{c, {Token: "bad", UserID: "@a:hs"}, {Token: "bad", DeviceID: "D"}} {
		userID, got := ids.Lookup(c, testkit.At(time.Minute-1), lifetimes)
		if userID != "" || got == nil || got.Body != answer.Body || !reflect.DeepEqual(got.Header, answer.Header) {
			t.Errorf("%+v is %q, %+v, want the answer", c, userID, got)
		}
		wantUser(t, ids, c, time.Minute, "")
	}
	wantUser(t, ids, matrix.Credential{Token: "good"}, 0, "")

	// The token may have become valid, or what was valid may be so no longer.
	learn(ids, c, WhoAmI{UserID: "@a:hs"}, time.Hour)
	wantUser(t, ids, c, 0, "@a:hs")
	wantCounts(t, ids, 1, 0)
	ids.Reject(c, answer, until(time.Minute))
	if userID, got := ids.Lookup(c, testkit.Epoch, lifetimes); userID != "" || got == nil {
		t.Errorf("a rejected token is %q, %v", userID, got)
	}
	wantUser(t, ids, c, time.Minute, "")
	wantCounts(t, ids, 0, 1)
}

// That a token is unknown ends the masquerades too: they die with the token's base entry.
func TestAnUnknownTokenEndsMasquerades(t *testing.T) {
	ids := NewTable(1000, testkit.Epoch)
	c := matrix.Credential{Token: "as", UserID: "@a:hs"}
	learn(ids, c, WhoAmI{UserID: "@a:hs"}, forever)
	ids.Reject(matrix.Credential{Token: "as"}, &UnknownToken{}, until(time.Second))
	wantUser(t, ids, c, time.Second, "")
	learn(ids, matrix.Credential{Token: "as"}, WhoAmI{UserID: "@sender:hs"}, forever)
	wantUser(t, ids, c, time.Second, "")
}

func TestRandomTokensPushOutNoIdentity(t *testing.T) {
	const tokens = 1600
	ids := NewTable(tokens, testkit.Epoch)
	for i := range 100 {
		learn(ids, matrix.Credential{Token: fmt.Sprint("good", i)}, WhoAmI{UserID: fmt.Sprint("@", i, ":hs")}, forever)
	}
	var first *UnknownToken
	for i := range 100_000 {
		c := matrix.Credential{Token: fmt.Sprint("bad", i)}
		ids.Reject(c, &UnknownToken{Body: "no", Header: map[string][]string{"Server": {"x"}}}, until(forever))
		if i == 0 {
			_, first = ids.Lookup(c, testkit.Epoch, lifetimes)
		}
	}
	if _, unknown := ids.Len(); unknown > tokens/8 {
		t.Errorf("%d unknown tokens are kept, want at most %d", unknown, tokens/8)
	}
	for i := range 100 {
		wantUser(t, ids, matrix.Credential{Token: fmt.Sprint("good", i)}, 0, fmt.Sprint("@", i, ":hs"))
	}
	// Equal answers are one, whatever the number of tokens.
	distinct := make(map[*UnknownToken]bool)
	for i := range ids.shards {
		for _, known := range ids.shards[i].unknown.Values() {
			distinct[known.answer] = true
		}
	}
	if len(distinct) > shardCount {
		t.Errorf("%d copies of one answer, want at most one a shard", len(distinct))
	}
	if first == nil || len(distinct) == 0 {
		t.Error("nothing is kept at all")
	}
}

func TestManyTokensNeedNoMoreThanTheirPlaces(t *testing.T) {
	ids := NewTable(1600, testkit.Epoch)
	for i := range 50_000 {
		learn(ids, matrix.Credential{Token: fmt.Sprint(i)}, WhoAmI{UserID: "@a:hs"}, forever)
		learn(ids, matrix.Credential{Token: "as", UserID: fmt.Sprint("@", i, ":hs")}, WhoAmI{UserID: fmt.Sprint("@", i, ":hs")}, forever)
	}
	if identities, _ := ids.Len(); identities > 1600 || identities < 1000 {
		t.Errorf("%d identities are kept, want nearly 1600", identities)
	}
}

func TestResizeOfIdentities(t *testing.T) {
	ids := NewTable(16_000, testkit.Epoch)
	for i := range 1000 {
		learn(ids, matrix.Credential{Token: fmt.Sprint("good", i)}, WhoAmI{UserID: fmt.Sprint("@", i, ":hs")}, forever)
		ids.Reject(matrix.Credential{Token: fmt.Sprint("bad", i)}, &UnknownToken{}, until(forever))
	}
	wantCounts(t, ids, 1000, 1000)
	ids.Resize(1)
	if identities, unknown := ids.Len(); identities > shardCount || unknown > shardCount {
		t.Errorf("%d identities and %d unknown tokens are kept, want at most one a shard", identities, unknown)
	}
	var known int
	for i := range 1000 {
		if userID, _ := ids.Lookup(matrix.Credential{Token: fmt.Sprint("good", i)}, testkit.Epoch, lifetimes); userID == fmt.Sprint("@", i, ":hs") {
			known++
		} else if userID != "" {
			t.Fatalf("token %d is %s after Resize", i, userID)
		}
	}
	if known == 0 {
		t.Error("Resize lost everything")
	}
	ids.Resize(16_000)
	for i := range 500 {
		learn(ids, matrix.Credential{Token: fmt.Sprint("new", i)}, WhoAmI{UserID: "@new:hs"}, forever)
	}
	if identities, _ := ids.Len(); identities < 500 {
		t.Errorf("%d identities are kept, want the 500 new ones", identities)
	}
}

func TestNoTokenIsKeptInClear(t *testing.T) {
	const token = "syt_SECRET_abcdefghijklmnopqrstuvwxyz"
	ids := NewTable(100, testkit.Epoch)
	learn(ids, matrix.Credential{Token: token + "1"}, WhoAmI{UserID: "@marker:hs"}, forever)
	learn(ids, matrix.Credential{Token: token + "2", UserID: "@masquerade:hs", DeviceID: "D"}, WhoAmI{UserID: "@masquerade:hs", DeviceID: "D"}, forever)
	ids.Reject(matrix.Credential{Token: token + "3"}, &UnknownToken{Body: "rejection-body"}, until(forever))
	ids.RevokeToken(matrix.Credential{Token: token + "1"})
	learn(ids, matrix.Credential{Token: token + "1"}, WhoAmI{UserID: "@marker:hs"}, forever)
	ids.IssuedTo("@issued:hs", token+"4")
	ids.Issued(token+"4", token+"5", token+"7")
	ids.Refreshed(token + "5")
	ids.Begin(matrix.Credential{Token: token + "6"})
	for i := range 8 {
		ids.Lookup(matrix.Credential{Token: fmt.Sprint(token, i)}, testkit.Epoch, lifetimes)
	}

	reached := strings.Join(testkit.Reachable(ids), "\n")
	for _, present := range []string{"@marker:hs", "@masquerade:hs", "rejection-body"} {
		if !strings.Contains(reached, present) {
			t.Errorf("the search does not find %q, so it proves nothing", present)
		}
	}
	for i := 0; i+8 <= len(token); i++ {
		if strings.Contains(reached, token[i:i+8]) {
			t.Errorf("%q of a token is kept in clear", token[i:i+8])
		}
	}
	if printed := fmt.Sprintf("%#v %+v", ids, ids); strings.Contains(printed, "SECRET") {
		t.Error("a token is printed in clear")
	}
}

func BenchmarkIdentitiesLookup(b *testing.B) {
	ids := NewTable(100_000, testkit.Epoch)
	token := matrix.Credential{Token: "syt_YWxpY2U_abcdefghijklmnopqrst_0abcde"}
	masquerade := matrix.Credential{Token: "as", UserID: "@bridge_a:example.com"}
	unknown := matrix.Credential{Token: "unknown"}
	learn(ids, token, WhoAmI{UserID: "@alice:example.com"}, forever)
	learn(ids, masquerade, WhoAmI{UserID: masquerade.UserID}, forever)
	ids.Reject(unknown, &UnknownToken{}, until(forever))
	for _, bm := range []struct {
		name string
		c    matrix.Credential
	}{{"token", token}, {"masquerade", masquerade}, {"rejected", unknown}} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if userID, answer := ids.Lookup(bm.c, testkit.Epoch, lifetimes); userID == "" && answer == nil {
					b.Fatal("not known")
				}
			}
		})
	}
}

// BenchmarkMemoryTokens measures a token whose user is known.
func BenchmarkMemoryTokens(b *testing.B) {
	testkit.ReportHeap(b, testkit.Entries, func() any {
		t := NewTable(testkit.Entries*11/10, testkit.Epoch)
		for i := range testkit.Entries {
			learn(t, matrix.Credential{Token: fmt.Sprintf("syt_token_%d", i)},
				WhoAmI{UserID: fmt.Sprintf("@user%07d:example.com", i), DeviceID: "DEVICE"}, time.Hour)
		}
		return t
	})
}
