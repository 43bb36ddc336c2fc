package scripted

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Options are what may differ between homeservers.
type Options struct {
	// Hidden tells that a viewer may not see a target. Without it all see all.
	Hidden func(viewer, target string) bool
	// Delay is how long to take for a request until it is looked at, and again until its
	// answer leaves: by then the answer may be older than one that left before. Without
	// it no request takes any time.
	Delay func() time.Duration
	// Appservice is a token that acts for whomever user_id names.
	Appservice string
}

// Homeserver is the server. Make it by [New].
type Homeserver struct {
	options Options
	began   time.Time // when those who never wrote were last active, and a while before

	mu     sync.Mutex // guards all below
	tokens map[string]string
	issued int
	states map[string]State
	tally  map[Key]Tally
	gates  []*Gate
	run    *run
	addr   string
}

// New returns a homeserver that doesn't listen yet.
func New(options Options) *Homeserver {
	return &Homeserver{
		options: options, began: time.Now(),
		tokens: make(map[string]string), states: make(map[string]State), tally: make(map[Key]Tally),
	}
}

// State is a user's presence.
type State struct {
	Version int64
	Active  time.Time // when it was written
}

// Status is the status message of a version.
func Status(version int64) string { return "v" + strconv.FormatInt(version, 10) }

// Version reads a status message.
func Version(status string) (int64, error) {
	digits, ok := strings.CutPrefix(status, "v")
	version, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil {
		return 0, fmt.Errorf("%q is no version", status)
	}
	return version, nil
}

// State returns a user's presence. Its version is 0 if there was no write.
func (h *Homeserver) State(userID string) State {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state(userID)
}

// state needs the lock.
func (h *Homeserver) state(userID string) State {
	if s, ok := h.states[userID]; ok {
		return s
	}
	return State{Active: h.began.Add(-2 * time.Minute)}
}

// Login returns a new token of a user.
func (h *Homeserver) Login(userID string) (token string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.issued++
	token = fmt.Sprintf("token-%d", h.issued)
	h.tokens[token] = userID
	return token
}

// Label is the header field by which a request is counted.
const Label = "X-Label"

// Route is what a request asks for.
type Route string

// The routes.
const (
	Read      Route = "read"
	Write     Route = "write"
	Preflight Route = "preflight" // of a presence
	WhoAmI    Route = "whoami"
	Login     Route = "login"
	Logout    Route = "logout" // of one token or of all
	Other     Route = "other"
)

// Key is under what a request is counted.
type Key struct {
	Route Route
	Label string
}

// Tally is what became of requests.
type Tally struct {
	// Asked is how many came, Cut how many of them were broken off.
	Asked, Cut int
}

// Answered is how many were answered in full.
func (t Tally) Answered() int { return t.Asked - t.Cut }

// Counts returns what came so far.
func (h *Homeserver) Counts() map[Key]Tally {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.tally)
}

// Count returns what came on a route so far, under all labels.
func (h *Homeserver) Count(route Route) (sum Tally) {
	for key, t := range h.Counts() {
		if key.Route == route {
			sum.Asked += t.Asked
			sum.Cut += t.Cut
		}
	}
	return sum
}

// serve answers one request that came to a run.
func (h *Homeserver) serve(run *run, w http.ResponseWriter, r *http.Request) {
	route, target := routeOf(r)
	key := Key{route, r.Header.Get(Label)}
	h.count(key, Tally{Asked: 1})
	body, err := io.ReadAll(r.Body)
	if err != nil || !h.hold(r) {
		h.count(key, Tally{Cut: 1})
		panic(http.ErrAbortHandler)
	}

	// A write is applied in any case: a homeserver that crashes may have done it.
	status, answer := h.answer(r, route, target, body)
	h.delay(r)
	h.mu.Lock()
	defer h.mu.Unlock()
	if run.cut {
		h.add(key, Tally{Cut: 1})
		panic(http.ErrAbortHandler)
	}
	header := w.Header()
	header.Set("Server", "Synapse/1.160.0")
	header.Set("Content-Type", "application/json")
	if status != http.StatusNoContent {
		header.Set("Content-Length", strconv.Itoa(len(answer)))
	}
	header.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	header.Set("Access-Control-Allow-Origin", "*")
	header.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE, OPTIONS")
	w.WriteHeader(status)
	if len(answer) > 0 {
		_, _ = w.Write(answer)
	}
	_ = http.NewResponseController(w).Flush()
}

func (h *Homeserver) count(key Key, t Tally) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.add(key, t)
}

// add needs the lock.
func (h *Homeserver) add(key Key, t Tally) {
	sum := h.tally[key]
	h.tally[key] = Tally{Asked: sum.Asked + t.Asked, Cut: sum.Cut + t.Cut}
}

// hold keeps a request for as long as is wanted. It reports whether the request still
// has somebody to answer to.
func (h *Homeserver) hold(r *http.Request) bool {
	h.mu.Lock()
	var gates []*Gate
	for _, g := range h.gates {
		if g.match(r) {
			gates = append(gates, g)
		}
	}
	h.mu.Unlock()
	for _, g := range gates {
		if !g.pass(r.Context()) {
			return false
		}
	}
	return h.delay(r)
}

// delay reports whether the request still has somebody to answer to.
func (h *Homeserver) delay(r *http.Request) bool {
	if h.options.Delay == nil {
		return true
	}
	wait := time.NewTimer(h.options.Delay())
	defer wait.Stop()
	select {
	case <-wait.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

const (
	missingToken = `{"errcode":"M_MISSING_TOKEN","error":"Missing access token"}`
	unknownToken = `{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed.","soft_logout":false}`
)

// answer does what is asked for.
func (h *Homeserver) answer(r *http.Request, route Route, target string, body []byte) (status int, answer []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if route == Login {
		var who struct {
			User string `json:"user"`
		}
		if err := json.Unmarshal(body, &who); err != nil || who.User == "" {
			return http.StatusBadRequest, []byte(`{"errcode":"M_BAD_JSON","error":"No user"}`)
		}
		h.issued++
		token := fmt.Sprintf("token-%d", h.issued)
		h.tokens[token] = who.User
		return http.StatusOK, fmt.Appendf(nil, `{"user_id":%q,"access_token":%q}`, who.User, token)
	}
	if route == Preflight {
		return http.StatusNoContent, nil
	}
	if route == Other {
		if len(body) == 0 {
			body = []byte(`{"other":true}`)
		}
		return http.StatusOK, body
	}

	query := r.URL.Query()
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		token = query.Get("access_token")
	}
	sender, known := h.tokens[token]
	if token != "" && token == h.options.Appservice {
		sender, known = query.Get("user_id"), true
	}
	switch {
	case token == "":
		return http.StatusUnauthorized, []byte(missingToken)
	case !known:
		return http.StatusUnauthorized, []byte(unknownToken)
	}
	switch route {
	case WhoAmI:
		return http.StatusOK, fmt.Appendf(nil, `{"user_id":%q,"is_guest":false,"device_id":"D"}`, sender)
	case Logout:
		if strings.HasSuffix(r.URL.Path, "/all") {
			maps.DeleteFunc(h.tokens, func(_, user string) bool { return user == sender })
		} else {
			delete(h.tokens, token)
		}
		return http.StatusOK, []byte(`{}`)
	case Write:
		return h.write(sender, target, body)
	}
	if sender != target && h.options.Hidden != nil && h.options.Hidden(sender, target) {
		return http.StatusForbidden, []byte(`{"errcode":"M_FORBIDDEN","error":"You are not allowed to see their presence."}`)
	}
	s := h.state(target)
	ago := time.Since(s.Active)
	// Synapse's last_active_granularity is a minute.
	return http.StatusOK, fmt.Appendf(nil, `{"presence":"online","last_active_ago":%d,"status_msg":%q,"currently_active":%t}`,
		ago.Milliseconds(), Status(s.Version), ago < time.Minute)
}

// write needs the lock.
func (h *Homeserver) write(sender, target string, body []byte) (status int, answer []byte) {
	var content struct {
		Status string `json:"status_msg"`
	}
	err := json.Unmarshal(body, &content)
	version, notVersion := Version(content.Status)
	switch {
	case sender != target:
		return http.StatusForbidden, []byte(`{"errcode":"M_FORBIDDEN","error":"Can only set your own presence state"}`)
	case err != nil || notVersion != nil:
		return http.StatusBadRequest, []byte(`{"errcode":"M_BAD_JSON","error":"No version"}`)
	}
	if version > h.state(target).Version {
		h.states[target] = State{Version: version, Active: time.Now()}
	}
	return http.StatusOK, []byte(`{}`)
}

// routeOf tells what a request asks for, and of whose presence.
func routeOf(r *http.Request) (route Route, target string) {
	rest, ok := strings.CutPrefix(r.URL.Path, "/_matrix/client/")
	if !ok {
		return Other, ""
	}
	for _, version := range [...]string{"v3/", "r0/", "unstable/", "api/v1/"} {
		if rest, ok = strings.CutPrefix(rest, version); ok {
			break
		}
	}
	switch {
	case !ok:
		return Other, ""
	case rest == "account/whoami":
		return WhoAmI, ""
	case rest == "login":
		return Login, ""
	case rest == "logout", rest == "logout/all":
		return Logout, ""
	}
	id, isPresence := strings.CutPrefix(rest, "presence/")
	id, isStatus := strings.CutSuffix(id, "/status")
	switch {
	case !isPresence || !isStatus:
		return Other, ""
	case r.Method == http.MethodPut:
		return Write, id
	case r.Method == http.MethodOptions:
		return Preflight, id
	}
	return Read, id
}

// URL is the homeserver's address, once it has been started.
func (h *Homeserver) URL() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return "http://" + h.addr
}

// Port is that of the address.
func (h *Homeserver) Port() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, port, _ := net.SplitHostPort(h.addr)
	return port
}
