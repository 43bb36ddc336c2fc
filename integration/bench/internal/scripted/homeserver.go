package scripted

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/traffic"
)

// Counts is what the homeserver was asked.
type Counts struct {
	Reads  int64 `json:"reads"`
	Writes int64 `json:"writes"`
	Whoami int64 `json:"whoami"`
	Other  int64 `json:"other"`
}

// All is the number of requests.
func (c Counts) All() int64 { return c.Reads + c.Writes + c.Whoami + c.Other }

// Since is what was asked after earlier was taken.
func (c Counts) Since(earlier Counts) Counts {
	return Counts{
		Reads: c.Reads - earlier.Reads, Writes: c.Writes - earlier.Writes,
		Whoami: c.Whoami - earlier.Whoami, Other: c.Other - earlier.Other,
	}
}

// targets is how many users have a presence.
const targets = 200_000

// state is a presence. It is immutable.
type state struct {
	presence, status string
	active           time.Time
}

// homeserver is the handler.
type homeserver struct {
	options Options
	began   time.Time
	written [targets]atomic.Pointer[state] // nil: never

	reads, writes, whoami, other atomic.Int64
}

func (h *homeserver) counts() Counts {
	return Counts{h.reads.Load(), h.writes.Load(), h.whoami.Load(), h.other.Load()}
}

// ServeHTTP answers the three routes, and all others with something as long as a
// presence.
func (h *homeserver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	sender, known := traffic.UserOfToken(token)
	target, isPresence := targetOf(r.URL.Path)
	switch {
	case r.URL.Path == countsPath:
		_ = json.NewEncoder(w).Encode(h.counts())
	case strings.HasSuffix(r.URL.Path, "/account/whoami"):
		h.whoami.Add(1)
		h.spend(whoamiCost)
		if !known {
			answer(w, http.StatusUnauthorized, `{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed.","soft_logout":false}`)
			return
		}
		answer(w, http.StatusOK, fmt.Sprintf(`{"user_id":%q,"is_guest":false,"device_id":"BENCH"}`, traffic.Scripted{}.ID(sender)))
	case !isPresence:
		h.other.Add(1)
		h.spend(readCost)
		answer(w, http.StatusOK, stateBody(initial(h.began), time.Now()))
	case !known:
		h.reads.Add(1)
		answer(w, http.StatusUnauthorized, `{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed.","soft_logout":false}`)
	case r.Method == http.MethodPut:
		h.writes.Add(1)
		h.spend(writeCost)
		h.write(w, r, sender, target)
	default:
		h.reads.Add(1)
		h.spend(readCost)
		h.read(w, sender, target)
	}
}

func (h *homeserver) read(w http.ResponseWriter, viewer, target traffic.User) {
	if h.options.Hidden && Hides(viewer, target) {
		answer(w, http.StatusForbidden, `{"errcode":"M_FORBIDDEN","error":"You are not allowed to see their presence."}`)
		return
	}
	s := h.written[target].Load()
	if s == nil {
		s = initial(h.began)
	}
	answer(w, http.StatusOK, stateBody(s, time.Now()))
}

func (h *homeserver) write(w http.ResponseWriter, r *http.Request, sender, target traffic.User) {
	if sender != target {
		answer(w, http.StatusForbidden, `{"errcode":"M_FORBIDDEN","error":"Can only set your own presence state"}`)
		return
	}
	var body struct {
		Presence string `json:"presence"`
		Status   string `json:"status_msg"`
	}
	text, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(text, &body)
	}
	if err != nil {
		answer(w, http.StatusBadRequest, `{"errcode":"M_NOT_JSON","error":"Content not JSON."}`)
		return
	}
	h.written[target].Store(&state{body.Presence, body.Status, time.Now()})
	answer(w, http.StatusOK, `{}`)
}

// Hides tells that a viewer may not see a target.
func Hides(viewer, target traffic.User) bool { return viewer%2 == 1 && target%2 == 1 }

// initial is the presence of those who have not written any.
func initial(began time.Time) *state {
	active := began.Add(-2 * time.Minute)
	return &state{"unavailable", Status(0, active), active}
}

// Status is the status of a presence that was true from then on. It tells
// readers the version and when the user was last active.
func Status(version int64, active time.Time) string {
	return fmt.Sprintf("v%d t%d", version, active.UnixMilli())
}

// ReadStatus takes a status apart.
func ReadStatus(status string) (version int64, active time.Time, err error) {
	var milliseconds int64
	if _, err := fmt.Sscanf(status, "v%d t%d", &version, &milliseconds); err != nil {
		return 0, time.Time{}, fmt.Errorf("reading the status %q: %w", status, err)
	}
	return version, time.UnixMilli(milliseconds), nil
}

// stateBody is the body of a presence, in Synapse's order.
func stateBody(s *state, now time.Time) string {
	ago := now.Sub(s.active)
	active := ""
	if s.presence == "online" {
		// Synapse's last_active_granularity.
		active = fmt.Sprintf(`,"currently_active":%t`, ago < time.Minute)
	}
	return fmt.Sprintf(`{"presence":%q,"last_active_ago":%d,"status_msg":%q%s}`, s.presence, ago.Milliseconds(), s.status, active)
}

// targetOf recognises the presence route and its user.
func targetOf(path string) (traffic.User, bool) {
	id, ok := strings.CutPrefix(path, "/_matrix/client/v3/presence/")
	id, ok2 := strings.CutSuffix(id, "/status")
	if !ok || !ok2 {
		return 0, false
	}
	u, ok := traffic.UserOfID(id)
	return u, ok && u < targets
}

// Header is what Synapse 1.160 says on every answer. Contenders that answer by
// themselves are given it too.
var Header = []struct{ Name, Value string }{
	{"Server", "Synapse/1.160.0"},
	{"Content-Type", "application/json"},
	{"Cache-Control", "no-cache, no-store, must-revalidate"},
	{"Access-Control-Allow-Origin", "*"},
	{"Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE, OPTIONS"},
	{"Access-Control-Allow-Headers", "X-Requested-With, Content-Type, Authorization, Date"},
	{"Access-Control-Expose-Headers", "Synapse-Trace-Id, Server"},
}

func answer(w http.ResponseWriter, status int, body string) {
	header := w.Header()
	for _, field := range Header {
		header.Set(field.Name, field.Value)
	}
	// Synapse streams its answers and tells no length.
	header.Set("Transfer-Encoding", "chunked")
	w.WriteHeader(status)
	io.WriteString(w, body)
}
