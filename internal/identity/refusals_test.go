package identity

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// A bridge may be refused for as many users as it likes to name.
func TestRefusalsAreBounded(t *testing.T) {
	ids, locked := NewTable(100, testkit.Epoch), matrix.Credential{Token: "locked"}
	ids.Refuse(locked, testkit.Epoch)
	for i := range 3 * maxRefusals {
		ids.Refuse(matrix.Credential{Token: "as", UserID: fmt.Sprintf("@g%d:example.com", i)}, testkit.Epoch)
	}
	if n := ids.refusals.acting.Len(); n != maxRefusals {
		t.Errorf("%d are remembered, want %d", n, maxRefusals)
	}
	if !ids.IsRefused(locked, testkit.Epoch, lifetimes) {
		t.Error("the locked account of somebody else is forgotten")
	}
}

func TestARefusalIsGoodForAWhile(t *testing.T) {
	ids, c := NewTable(100, testkit.Epoch), matrix.Credential{Token: "locked"}
	good := Lifetimes{UnknownToken: time.Minute}
	ids.Refuse(c, testkit.Epoch)
	if !ids.IsRefused(c, testkit.At(time.Minute-1), good) || ids.IsRefused(c, testkit.At(time.Minute), good) {
		t.Error("it isn't remembered for as long as an unknown token")
	}
	if !ids.IsKnown(c) || ids.IsKnown(matrix.Credential{Token: "made up"}) {
		t.Error("who is refused isn't made up, or who is made up is known")
	}
	ids.Accept(c)
	if ids.IsRefused(c, testkit.Epoch, good) || ids.IsKnown(c) {
		t.Error("a refusal that is over is remembered")
	}
}

// A reader may be served what is stale on whose behalf they acted a moment ago.
func TestStaleIdentities(t *testing.T) {
	ids, c := NewTable(100, testkit.Epoch), matrix.Credential{Token: "tok"}
	learn(ids, c, WhoAmI{UserID: "@a:b"}, time.Minute)
	for at, want := range map[time.Duration]string{2*time.Minute - 1: "@a:b", 2 * time.Minute: ""} {
		if userID, _ := ids.LookupStale(c, testkit.At(at), lifetimes, time.Minute); userID != want {
			t.Errorf("at %v it is %q, want %q", at, userID, want)
		}
	}
}
