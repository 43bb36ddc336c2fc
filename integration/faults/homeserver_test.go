package faults

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
)

// homeserver is what a scripted upstream knows: whose token is whose, and for each
// user which version of their presence is the newest.
type homeserver struct {
	mu       sync.Mutex
	versions map[string]int  // by user
	revoked  map[string]bool // by token
	counts   map[kind]int
}

// kind is what a request is about.
type kind string

const (
	whoami kind = "whoami"
	read   kind = "read"
	write  kind = "write"
	logout kind = "logout"
	other  kind = "other"
)

func newHomeserver() *homeserver {
	return &homeserver{
		versions: make(map[string]int),
		revoked:  make(map[string]bool),
		counts:   make(map[kind]int),
	}
}

// A token names its user, so that a test can make up as many as it likes.
const tokenPrefix = "syt_secret_"

func tokenOf(user string) string { return tokenPrefix + strings.Trim(strings.Split(user, ":")[0], "@") }
func userOf(token string) string {
	return "@" + strings.TrimPrefix(token, tokenPrefix) + ":example.com"
}

func statusPath(user string) string { return "/_matrix/client/v3/presence/" + user + "/status" }

const (
	whoamiPath = "/_matrix/client/v3/account/whoami"
	logoutPath = "/_matrix/client/v3/logout"
	syncPath   = "/_matrix/client/v3/sync"
)

func kindOf(r *http.Request) (k kind, target string) {
	rest, isPresence := strings.CutPrefix(r.URL.Path, "/_matrix/client/v3/presence/")
	switch {
	case isPresence && r.Method == http.MethodPut:
		return write, strings.TrimSuffix(rest, "/status")
	case isPresence:
		return read, strings.TrimSuffix(rest, "/status")
	case r.URL.Path == whoamiPath:
		return whoami, ""
	case r.URL.Path == logoutPath:
		return logout, ""
	}
	return other, ""
}

// serve returns the right answer to a request, and does what the request asks for
// unless that is refused by somebody before us.
func (hs *homeserver) serve(r *http.Request, refused bool) (status int, body string) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	what, target := kindOf(r)
	hs.counts[what]++
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if hs.revoked[token] {
		return http.StatusUnauthorized, `{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed."}`
	}
	switch what {
	case whoami:
		return http.StatusOK, fmt.Sprintf(`{"user_id":%q}`, userOf(token))
	case read:
		return http.StatusOK, presence(hs.versions[target])
	case write:
		if !refused {
			hs.versions[target]++
		}
		return http.StatusOK, `{}`
	case logout:
		if !refused {
			hs.revoked[token] = true
		}
		return http.StatusOK, `{}`
	default:
		return http.StatusOK, `{"next_batch":"s1"}`
	}
}

func presence(version int) string {
	return fmt.Sprintf(`{"presence":"online","status_msg":"version %d"}`, version)
}

// change makes a new version behind our back, as a sync does.
func (hs *homeserver) change(user string) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.versions[user]++
}

func (hs *homeserver) presence(user string) string {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return presence(hs.versions[user])
}

func (hs *homeserver) knows(token string) bool {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return !hs.revoked[token]
}

func (hs *homeserver) count(what kind) int {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return hs.counts[what]
}
