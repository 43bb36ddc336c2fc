package identity

import (
	"maps"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

func TestUsersAreThoseOfGoodTokens(t *testing.T) {
	ids := NewTable(100, testkit.Epoch)
	want := func(at time.Duration, want map[string]int) {
		t.Helper()
		if got := ids.Users(testkit.At(at), lifetimes); !maps.Equal(got, want) {
			t.Errorf("at %v: %v, want %v", at, got, want)
		}
	}
	want(0, nil)
	learn(ids, matrix.Credential{Token: "1"}, WhoAmI{UserID: "@a:hs"}, time.Hour)
	learn(ids, matrix.Credential{Token: "2"}, WhoAmI{UserID: "@a:hs"}, time.Minute)
	learn(ids, matrix.Credential{Token: "3"}, WhoAmI{UserID: "@b:hs"}, time.Hour)
	want(time.Second, map[string]int{"@a:hs": 2, "@b:hs": 1})
	want(time.Minute, map[string]int{"@a:hs": 1, "@b:hs": 1})
	ids.RevokeUser("@b:hs")
	want(time.Minute, map[string]int{"@a:hs": 1})
	ids.RevokeToken(matrix.Credential{Token: "1"})
	want(time.Minute, map[string]int{})
}

// An appservice's token acts for many users, and each of them is somebody who may see a presence.
func TestUsersAreThoseThatAnAppserviceActsFor(t *testing.T) {
	ids := NewTable(100, testkit.Epoch)
	for _, user := range []string{"@x:hs", "@y:hs"} {
		learn(ids, matrix.Credential{Token: "as", UserID: user}, WhoAmI{UserID: user}, time.Hour)
	}
	if got, want := ids.Users(testkit.At(time.Second), lifetimes), (map[string]int{"@x:hs": 1, "@y:hs": 1}); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
