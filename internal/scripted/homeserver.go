package scripted

import (
	"encoding/json"
	"fmt"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
)

// Homeserver is a scripted one, to stand as the next handler. It answers as
// Synapse does, applies writes at once, and counts what reaches it.
type Homeserver struct {
	Mu       sync.Mutex        // guards all below
	Tokens   map[string]string // token → user
	Devices  map[string]string // token → device
	Presence map[string]string // user → body of a GET
	Hidden   map[string]bool   // "viewer target" that may not see each other
	Counts   map[string]int    // "GET", "PUT", "whoami", "other"
	Seen     []*http.Request   // as they came, without bodies

	// Intercept may answer a request before the homeserver does. It is called
	// without the lock.
	Intercept func(w http.ResponseWriter, r *http.Request) (handled bool, err error)
}

// New returns one with a few users: see the constants.
func New() *Homeserver {
	return &Homeserver{
		Tokens:   map[string]string{"alice-token": Alice, "alice-phone": Alice, "bob-token": Bob, "carol-token": Carol},
		Devices:  make(map[string]string),
		Presence: map[string]string{Alice: `{"presence":"online","last_active_ago":1000,"status_msg":"hi","currently_active":true}`},
		Hidden:   map[string]bool{Carol + " " + Alice: true},
		Counts:   make(map[string]int),
	}
}

// Users of a scripted homeserver.
const (
	Alice = "@alice:example.com"
	Bob   = "@bob:example.com"
	Carol = "@carol:example.com" // shares no room with Alice
)

// AnswerBy sets intercept while requests may be under way.
func (hs *Homeserver) AnswerBy(intercept func(w http.ResponseWriter, r *http.Request) (handled bool, err error)) {
	hs.Mu.Lock()
	defer hs.Mu.Unlock()
	hs.Intercept = intercept
}

// Count returns how many requests there were of a kind: "GET", "PUT", "whoami" or "other".
func (hs *Homeserver) Count(what string) int {
	hs.Mu.Lock()
	defer hs.Mu.Unlock()
	return hs.Counts[what]
}

// Last returns the request that came last, without its body.
func (hs *Homeserver) Last() *http.Request {
	hs.Mu.Lock()
	defer hs.Mu.Unlock()
	return hs.Seen[len(hs.Seen)-1]
}

// ServeHTTP answers a request, as a handler of Caddy's does.
func (hs *Homeserver) ServeHTTP(w http.ResponseWriter, r *http.Request) error {
	route, isPresence := matrix.ParsePresenceRoute(r.URL.EscapedPath())
	what := "other"
	switch {
	case isPresence:
		what = r.Method
	case strings.HasSuffix(r.URL.Path, "/account/whoami"):
		what = "whoami"
	}
	if intercept := hs.see(what, r); intercept != nil {
		if handled, err := intercept(w, r); handled || err != nil {
			return err
		}
	}
	hs.answer(w, r, what, route, isPresence)
	return nil
}

// see counts a request, and returns what may answer it first, or nil.
func (hs *Homeserver) see(what string, r *http.Request) (intercept func(w http.ResponseWriter, r *http.Request) (handled bool, err error)) {
	hs.Mu.Lock()
	defer hs.Mu.Unlock()
	hs.Counts[what]++
	hs.Seen = append(hs.Seen, r)
	return hs.Intercept
}

// answer answers a request as Synapse does.
func (hs *Homeserver) answer(w http.ResponseWriter, r *http.Request, what string, route matrix.PresenceRoute, isPresence bool) {
	body, _ := io.ReadAll(r.Body)
	hs.Mu.Lock()
	defer hs.Mu.Unlock()
	token, isHeader := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !isHeader {
		token = r.URL.Query().Get("access_token")
	}
	user, ok := hs.Tokens[token]
	if as := r.URL.Query().Get("user_id"); ok && as != "" && strings.HasPrefix(token, "as-") {
		user = as
	}
	switch {
	case token == "":
		Answer(w, 401, `{"errcode":"M_MISSING_TOKEN","error":"Missing access token"}`)
	case !ok:
		Answer(w, 401, `{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed.","soft_logout":false}`)
	case what == "whoami":
		Answer(w, 200, fmt.Sprintf(`{"user_id":%q,"device_id":%q,"is_guest":false}`, user, hs.Devices[token]))
	case what == "PUT":
		var content map[string]any
		_ = json.Unmarshal(body, &content)
		message, _ := content["status_msg"].(string)
		hs.Presence[route.UserID] = fmt.Sprintf(`{"presence":%q,"status_msg":%q}`, content["presence"], message)
		Answer(w, 200, `{}`)
	case isPresence && hs.Hidden[user+" "+route.UserID]:
		Answer(w, 403, `{"errcode":"M_FORBIDDEN","error":"You are not allowed to see their presence."}`)
	case isPresence:
		state, ok := hs.Presence[route.UserID]
		if !ok {
			state = `{"presence":"offline"}`
		}
		Answer(w, 200, state)
	case strings.HasSuffix(r.URL.Path, "/logout"):
		delete(hs.Tokens, token)
		Answer(w, 200, `{}`)
	case strings.HasSuffix(r.URL.Path, "/logout/all"):
		maps.DeleteFunc(hs.Tokens, func(_, u string) bool { return u == user })
		Answer(w, 200, `{}`)
	default:
		Answer(w, 200, `{"other":true}`)
	}
}

// Answer writes with the header fields of Synapse.
func Answer(w http.ResponseWriter, status int, body string) {
	header := w.Header()
	header.Set("Server", "Synapse/1.160.0")
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	header.Set("Access-Control-Allow-Origin", "*")
	header.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE, OPTIONS")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body) //nolint:gosec // a test's own words, not a page
}
