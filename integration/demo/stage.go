package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
)

// stage is a homeserver and the users who play on it.
type stage struct {
	name, url  string
	alice, bob homeserver.User
	stranger   homeserver.User // bob, where no third user could be made

	exited <-chan struct{} // nil if the homeserver is not ours
	close  func()
}

func setStage(ctx context.Context, env func(string) string, out io.Writer) (*stage, error) {
	if base := env("HOMESERVER"); base != "" {
		return borrowStage(ctx, strings.TrimSuffix(base, "/"), env)
	}
	hs, err := homeserver.StartDendrite(ctx, homeserver.Options{Progress: out})
	if err != nil {
		return nil, err
	}
	s := &stage{name: "a Dendrite", url: hs.URL, exited: hs.Exited(), close: hs.Stop}
	if err := s.hire(ctx, hs.Client().Register, ""); err != nil {
		hs.Stop()
		return nil, err
	}
	// A state to read. Past the sidecar, so that it is not a write of the scene.
	err = hs.Client().Do(ctx, http.MethodPut, presenceOf(s.alice), s.alice.AccessToken,
		map[string]string{"presence": "online", "status_msg": "at the desk"}, nil)
	if err != nil {
		hs.Stop()
		return nil, err
	}
	return s, nil
}

// borrowStage uses somebody's homeserver and leaves as little there as it can:
// nothing but three users and a room, and with tokens not even those.
func borrowStage(ctx context.Context, base string, env func(string) string) (*stage, error) {
	s := &stage{name: "a homeserver", url: base, close: func() {}}
	client := homeserver.Client{URL: base, SharedSecret: env("REGISTRATION_SHARED_SECRET")}
	var versions struct {
		Versions []string `json:"versions"`
	}
	if err := client.Do(ctx, http.MethodGet, "/_matrix/client/versions", "", nil, &versions); err != nil {
		return nil, fmt.Errorf("looking for a homeserver at HOMESERVER=%s: %w", base, err)
	}

	suffix := "-" + strings.ToLower(rand.Text()[:6])
	alice, bob := env("ALICE_TOKEN"), env("BOB_TOKEN")
	switch {
	case alice != "" && bob != "":
		var err error
		if s.alice, err = client.Whoami(ctx, alice); err != nil {
			return nil, fmt.Errorf("using ALICE_TOKEN: %w", err)
		}
		if s.bob, err = client.Whoami(ctx, bob); err != nil {
			return nil, fmt.Errorf("using BOB_TOKEN: %w", err)
		}
		s.stranger = s.bob
		return s, nil
	case alice != "" || bob != "":
		return nil, errors.New("ALICE_TOKEN and BOB_TOKEN are needed together")
	case client.SharedSecret != "":
		return s, s.hire(ctx, client.Register, suffix)
	}
	if err := s.hire(ctx, client.RegisterOpen, suffix); err != nil {
		return nil, fmt.Errorf("set REGISTRATION_SHARED_SECRET, or ALICE_TOKEN and BOB_TOKEN, because the homeserver lets nobody register: %w", err)
	}
	return s, nil
}

// hire registers the users, and has alice and bob meet in a room.
func (s *stage) hire(ctx context.Context, register func(context.Context, string, string) (homeserver.User, error), suffix string) error {
	for name, user := range map[string]*homeserver.User{"alice": &s.alice, "bob": &s.bob, "stranger": &s.stranger} {
		var err error
		if *user, err = register(ctx, name+suffix, rand.Text()); err != nil {
			return err
		}
	}
	_, err := homeserver.Client{URL: s.url}.Room(ctx, s.alice, s.bob)
	return err
}

func presenceOf(user homeserver.User) string {
	return "/_matrix/client/v3/presence/" + url.PathEscape(user.ID) + "/status"
}
