package homeserver_test

import (
	"errors"
	"os"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
)

func TestHomeserverMakesUsersAndStops(t *testing.T) {
	for name, start := range map[string]func() (*homeserver.Homeserver, error){
		"dendrite": func() (*homeserver.Homeserver, error) {
			return homeserver.StartDendrite(t.Context(), homeserver.Options{Progress: os.Stderr})
		},
		"synapse": func() (*homeserver.Homeserver, error) {
			return homeserver.StartSynapse(t.Context(), homeserver.Options{Progress: os.Stderr})
		},
	} {
		t.Run(name, func(t *testing.T) {
			hs, err := start()
			if errors.Is(err, homeserver.ErrUnavailable) && os.Getenv("CI") != "true" {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer hs.Stop()
			alice, err := hs.Register(t.Context(), "alice", "wonderland")
			if err != nil {
				t.Fatal(err)
			}
			again, err := hs.Login(t.Context(), alice.ID, alice.Password)
			if err != nil {
				t.Fatal(err)
			}
			who, err := hs.Client().Whoami(t.Context(), again.AccessToken)
			if err != nil {
				t.Fatal(err)
			}
			if who.ID != hs.UserID("alice") || who.DeviceID != again.DeviceID {
				t.Errorf("the second login is %+v, want alice on %s", who, again.DeviceID)
			}
			if err := hs.Client().RegisterGhost(t.Context(), homeserver.ASToken, "ghost_cat"); err != nil {
				t.Error(err)
			}
		})
	}
}
