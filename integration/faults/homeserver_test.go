package faults

import (
	"fmt"
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
)

// homeserver is what an upstream answers when it is sound: it knows every token, and counts the
// versions of presences.
type homeserver struct{ *scripted.Homeserver }

// kind is what a request is about.
type kind = scripted.Route

const (
	whoami = scripted.WhoAmI
	read   = scripted.Read
	write  = scripted.Write
	logout = scripted.Logout
	other  = scripted.Other
)

func newHomeserver() *homeserver {
	return &homeserver{scripted.New(scripted.Options{
		Owner: func(token string) (string, bool) {
			name, known := strings.CutPrefix(token, tokenPrefix)
			return "@" + name + ":example.com", known
		},
		Body: func(_ string, s scripted.State) string { return presence(s.Version) },
	})}
}

// A token names its user, so that a test can make up as many as it likes.
const tokenPrefix = "syt_secret_"

func tokenOf(user string) string { return tokenPrefix + strings.Trim(strings.Split(user, ":")[0], "@") }

func statusPath(user string) string { return "/_matrix/client/v3/presence/" + user + "/status" }

const (
	logoutPath = "/_matrix/client/v3/logout"
	syncPath   = "/_matrix/client/v3/sync"
)

func presence(version int64) string {
	return fmt.Sprintf(`{"presence":"online","status_msg":"version %d"}`, version)
}

func (hs *homeserver) presence(user string) string { return presence(hs.State(user).Version) }

func (hs *homeserver) count(what kind) int { return hs.Count(what).Asked }
