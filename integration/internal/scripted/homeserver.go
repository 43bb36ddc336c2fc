package scripted

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Options are what may differ between homeservers. The zero ones are an orderly homeserver.
type Options struct {
	// Owner tells whose a token is that [Homeserver.Login] didn't give out.
	Owner func(token string) (userID string, known bool)
	// Appservice is a token that acts for whomever user_id names.
	Appservice string
	// Hidden tells that a viewer may not see a target. Without it all see all.
	Hidden func(viewer, target string) bool
	// Trusting lets anybody with a token write anybody's presence, and has all logouts succeed: what
	// gets so far is what a test looks for.
	Trusting bool
	// Ordered says that statuses are versions, see [Status]: of two writes to one user the
	// larger lasts, in whatever order they come. Without it each write makes the next version,
	// whatever it says.
	Ordered bool
	// Body is what the presence of somebody looks like. Without it, it is that of a user who
	// is online, with its age.
	Body func(target string, s State) string
	// Began is told of each request, when its body is read and before it is answered. It may
	// take its time. What it returns is called just before the answer leaves: who gets that may
	// send the next request at once.
	Began func(*Request) (ended func())
	// Delay is how long to take for a request until it is looked at, and again until its
	// answer leaves: by then the answer may be older than one that left before. Without
	// it no request takes any time.
	Delay func() time.Duration
	// Listener stands around the listener.
	Listener func(net.Listener) net.Listener
	// Streams has answers go out in chunks, as Synapse's do. One that is cut may then count as
	// answered.
	Streams bool
}

// Homeserver is the server. Make it by [New].
type Homeserver struct {
	options Options
	began   time.Time // when those who never wrote were last active, and a while before

	mu     sync.Mutex // guards all below
	tokens map[string]string
	ended  map[string]bool // tokens
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
		tokens: make(map[string]string), ended: make(map[string]bool), states: make(map[string]State), tally: make(map[Key]Tally),
	}
}

// State is a user's presence.
type State struct {
	Status  string // as it was written, empty if it never was
	Version int64
	Active  time.Time
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

// State returns a user's presence.
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

// Request is one that came.
type Request struct {
	*http.Request
	Route  Route
	Target string // whose presence it is about
	Token  string
	User   string // whose token it is, if anybody's
	Known  bool   // that it is
	Text   string // of the body

	refused bool
}

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

// Reply answers a request that has come by another way than the listener, with the text of its
// body. What it asks for is done unless somebody before the homeserver refuses it.
func (h *Homeserver) Reply(r *http.Request, text string, refused bool) (status int, answer string) {
	q := &Request{Request: r, Text: text, refused: refused}
	q.Route, q.Target = RouteOf(r)
	h.count(Key{q.Route, r.Header.Get(Label)}, Tally{Asked: 1})
	h.identify(q)
	return h.answer(q)
}

// Change makes a new version of a user's presence behind everybody's back, as a sync does.
func (h *Homeserver) Change(userID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.change(userID, "")
}

// change needs the lock.
func (h *Homeserver) change(userID, status string) {
	h.states[userID] = State{status, h.state(userID).Version + 1, time.Now()}
}

// Knows tells that a token is good, if it ever was.
func (h *Homeserver) Knows(token string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.ended[token]
}

// ServeHTTP answers one request.
func (h *Homeserver) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.serve(nil, w, r) }

// serve answers one request that came to a run.
func (h *Homeserver) serve(run *run, w http.ResponseWriter, r *http.Request) {
	q := &Request{Request: r}
	q.Route, q.Target = RouteOf(r)
	key := Key{q.Route, r.Header.Get(Label)}
	h.count(key, Tally{Asked: 1})
	body, err := io.ReadAll(r.Body)
	if err != nil || !h.hold(r) {
		h.count(key, Tally{Cut: 1})
		panic(http.ErrAbortHandler)
	}
	q.Text = string(body)
	h.identify(q)
	ended := func() {}
	if h.options.Began != nil {
		ended = h.options.Began(q)
	}

	// A write is applied in any case: a homeserver that crashes may have done it.
	status, answer := h.answer(q)
	h.delay(r)
	ended()
	if h.options.Streams {
		h.say(w, status, answer)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if run != nil && run.cut {
		h.add(key, Tally{Cut: 1})
		panic(http.ErrAbortHandler)
	}
	if status != http.StatusNoContent {
		w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	}
	h.say(w, status, answer)
	_ = http.NewResponseController(w).Flush()
}

// Fields are the header fields of Synapse 1.160, on every answer.
var Fields = []struct{ Name, Value string }{
	{"Server", "Synapse/1.160.0"},
	{"Content-Type", "application/json"},
	{"Cache-Control", "no-cache, no-store, must-revalidate"},
	{"Access-Control-Allow-Origin", "*"},
	{"Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE, OPTIONS"},
	{"Access-Control-Allow-Headers", "X-Requested-With, Content-Type, Authorization, Date"},
	{"Access-Control-Expose-Headers", "Synapse-Trace-Id, Server"},
}

func (h *Homeserver) say(w http.ResponseWriter, status int, answer string) {
	header := w.Header()
	for _, field := range Fields {
		header.Set(field.Name, field.Value)
	}
	if h.options.Streams {
		header.Set("Transfer-Encoding", "chunked")
	}
	w.WriteHeader(status)
	if answer != "" {
		_, _ = io.WriteString(w, answer)
	}
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

// identify finds out whose token a request shows.
func (h *Homeserver) identify(q *Request) {
	query := q.URL.Query()
	q.Token, _ = strings.CutPrefix(q.Header.Get("Authorization"), "Bearer ")
	if q.Token == "" {
		q.Token = query.Get("access_token")
	}
	h.mu.Lock()
	q.User, q.Known = h.tokens[q.Token]
	ended := h.ended[q.Token]
	h.mu.Unlock()
	switch {
	case q.Token == "", ended:
	case q.Token == h.options.Appservice:
		q.User, q.Known = query.Get("user_id"), true
	case !q.Known && h.options.Owner != nil:
		q.User, q.Known = h.options.Owner(q.Token)
	}
}

const (
	missingToken = `{"errcode":"M_MISSING_TOKEN","error":"Missing access token"}`
	unknownToken = `{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed.","soft_logout":false}`
	mayNotSee    = `{"errcode":"M_FORBIDDEN","error":"You are not allowed to see their presence."}`
	mayNotSet    = `{"errcode":"M_FORBIDDEN","error":"Can only set your own presence state"}`
)

// answer does what is asked for.
func (h *Homeserver) answer(q *Request) (status int, answer string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch q.Route {
	case Login:
		var who struct {
			User string `json:"user"`
		}
		if err := json.Unmarshal([]byte(q.Text), &who); err != nil || who.User == "" {
			return http.StatusBadRequest, `{"errcode":"M_BAD_JSON","error":"No user"}`
		}
		h.issued++
		token := fmt.Sprintf("token-%d", h.issued)
		h.tokens[token] = who.User
		return http.StatusOK, fmt.Sprintf(`{"user_id":%q,"access_token":%q}`, who.User, token)
	case Preflight:
		return http.StatusNoContent, ""
	case Other:
		if q.Text == "" {
			return http.StatusOK, `{"other":true}`
		}
		return http.StatusOK, q.Text
	}
	switch {
	case q.Route == Logout && h.options.Trusting:
		return http.StatusOK, `{}`
	case q.Token == "":
		return http.StatusUnauthorized, missingToken
	case !q.Known:
		return http.StatusUnauthorized, unknownToken
	}
	switch q.Route {
	case WhoAmI:
		return http.StatusOK, fmt.Sprintf(`{"user_id":%q,"is_guest":false,"device_id":"D"}`, q.User)
	case Logout:
		if q.refused {
			return http.StatusOK, `{}`
		}
		h.revoke(q.Token)
		for token, user := range h.tokens {
			if user == q.User && strings.HasSuffix(q.URL.Path, "/all") {
				h.revoke(token)
			}
		}
		return http.StatusOK, `{}`
	case Write:
		return h.write(q)
	}
	if q.User != q.Target && h.options.Hidden != nil && h.options.Hidden(q.User, q.Target) {
		return http.StatusForbidden, mayNotSee
	}
	s := h.state(q.Target)
	if h.options.Body != nil {
		return http.StatusOK, h.options.Body(q.Target, s)
	}
	ago := time.Since(s.Active)
	// Synapse's last_active_granularity is a minute.
	return http.StatusOK, fmt.Sprintf(`{"presence":"online","last_active_ago":%d,"status_msg":%q,"currently_active":%t}`,
		ago.Milliseconds(), Status(s.Version), ago < time.Minute)
}

// revoke needs the lock.
func (h *Homeserver) revoke(token string) {
	delete(h.tokens, token)
	h.ended[token] = true
}

// costly is from where on a body is not looked into: what it costs to judge such a one is
// for the sidecar to bear.
const costly = 1 << 10

// write needs the lock.
func (h *Homeserver) write(q *Request) (status int, answer string) {
	if q.User != q.Target && !h.options.Trusting {
		return http.StatusForbidden, mayNotSet
	}
	var content struct {
		Status string `json:"status_msg"`
	}
	var err error
	if len(q.Text) < costly {
		err = json.Unmarshal([]byte(q.Text), &content)
	}
	version, notVersion := Version(content.Status)
	switch {
	case h.options.Ordered && (err != nil || notVersion != nil):
		return http.StatusBadRequest, `{"errcode":"M_BAD_JSON","error":"No version"}`
	case q.refused:
	case !h.options.Ordered:
		h.change(q.Target, content.Status)
	case version > h.state(q.Target).Version:
		h.states[q.Target] = State{content.Status, version, time.Now()}
	}
	return http.StatusOK, `{}`
}

// RouteOf tells what a request asks for, and of whose presence: by the patterns of Synapse,
// which looks at no path that doesn't begin like one of them.
func RouteOf(r *http.Request) (route Route, target string) {
	rest, ok := strings.CutPrefix(r.URL.EscapedPath(), "/_matrix/client/")
	for _, version := range [...]string{"v3/", "r0/", "unstable/", "api/v1/"} {
		if after, is := strings.CutPrefix(rest, version); ok && is {
			return routeIn(after, r.Method)
		}
	}
	return Other, ""
}

// routeIn is RouteOf for what follows the version.
func routeIn(path, method string) (route Route, target string) {
	switch path {
	case "account/whoami":
		return WhoAmI, ""
	case "login":
		return Login, ""
	case "logout", "logout/all":
		return Logout, ""
	}
	segment, isPresence := strings.CutPrefix(path, "presence/")
	segment, isStatus := strings.CutSuffix(segment, "/status")
	target, err := url.PathUnescape(segment)
	switch {
	case !isPresence || !isStatus || err != nil:
		return Other, ""
	case method == http.MethodPut:
		return Write, target
	case method == http.MethodOptions:
		return Preflight, target
	}
	return Read, target
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
