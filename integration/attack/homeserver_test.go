package attack_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The people. Whoever's name begins with "hidden" is seen by nobody else.
const (
	alice  = "@alice:hs"
	bob    = "@bob:hs"
	hidden = "@hidden:hs"
)

// tokenOf returns a token that the homeserver knows as the user's. Each device has
// another one.
func tokenOf(localpart string, device int) string {
	return fmt.Sprintf("known.%s.%d", localpart, device)
}

// ownerOf is the reverse of tokenOf. All other tokens are unknown.
func ownerOf(token string) (userID string, ok bool) {
	rest, ok := strings.CutPrefix(token, "known.")
	if strings.ContainsAny(rest, " \t,") {
		return "", false // not what a server would issue
	}
	localpart, _, cut := strings.Cut(rest, ".")
	return "@" + localpart + ":hs", ok && cut && localpart != ""
}

// kind is what the homeserver is asked for.
type kind int

const (
	whoami kind = iota
	read
	write
	other
	kinds
)

func (k kind) String() string { return [...]string{"whoami", "reads", "writes", "other"}[k] }

// homeserver is a scripted one. It counts by kind what it is asked by attackers, and
// how much of it at a time; victims are known by their tokens and not counted.
type homeserver struct {
	URL string

	// whoamiTakes is how long it takes to tell whose a token is, in nanoseconds.
	whoamiTakes atomic.Int64

	// hold, unless nil, keeps lookups of tokens that nobody has waiting until it is
	// closed.
	hold chan struct{}

	recording *recording // what came over the wire, or nil

	mu      sync.Mutex // guards all below
	count   [kinds]int
	now     [kinds]int
	most    [kinds]int
	asking  map[string]int // lookups at a time, by the client's address
	busiest int            // the most of one address
	written map[string]string
	seen    []seen // of attackers, if recording
}

// seen is a request as the homeserver read it.
type seen struct {
	method, target string // as they stood in the request line
	host           string
	header         http.Header
	body           string
}

func (s seen) String() string { return s.method + " " + s.target }

// newHomeserver starts one. With record it keeps all that comes over the wire.
func newHomeserver(t *testing.T, record bool) *homeserver {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hs := &homeserver{
		URL:     "http://" + listener.Addr().String(),
		asking:  make(map[string]int),
		written: make(map[string]string),
	}
	if record {
		hs.recording = new(recording)
		listener = recordingListener{listener, hs.recording}
	}
	server := &http.Server{Handler: hs, MaxHeaderBytes: 2 << 20}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	return hs
}

// victimPrefix begins the names of all victims.
const victimPrefix = "victim"

func (hs *homeserver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if token == "" {
		token = r.URL.Query().Get("access_token")
	}
	user, known := ownerOf(token)
	target, isPresence := targetOf(r.URL.EscapedPath())
	what := other
	switch {
	case strings.HasSuffix(r.URL.Path, "/account/whoami"):
		what = whoami
	case isPresence && r.Method == http.MethodPut:
		what = write
	case isPresence:
		what = read
	}
	if !strings.HasPrefix(user, "@"+victimPrefix) {
		client, _, _ := strings.Cut(r.Header.Get("X-Forwarded-For"), ",")
		hs.begin(what, client)
		defer hs.end(what, client)
	}
	body, _ := io.ReadAll(r.Body)
	if hs.recording != nil {
		hs.mu.Lock()
		hs.seen = append(hs.seen, seen{r.Method, r.RequestURI, r.Host, r.Header, string(body)})
		hs.mu.Unlock()
	}
	if what == whoami && !known && hs.hold != nil {
		select {
		case <-hs.hold:
		case <-r.Context().Done():
		}
	}
	if what == whoami {
		if takes := time.Duration(hs.whoamiTakes.Load()); takes > 0 {
			select {
			case <-time.After(takes):
			case <-r.Context().Done():
			}
		}
	}

	switch {
	case what == other:
		answer(w, http.StatusOK, `{"other":true}`)
	case token == "":
		answer(w, http.StatusUnauthorized, `{"errcode":"M_MISSING_TOKEN","error":"Missing access token"}`)
	case !known:
		answer(w, http.StatusUnauthorized, `{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed.","soft_logout":false}`)
	case what == whoami:
		answer(w, http.StatusOK, fmt.Sprintf(`{"user_id":%q,"device_id":"DEVICE","is_guest":false}`, user))
	case what == write:
		var content struct {
			Status string `json:"status_msg"`
		}
		if len(body) < 1<<10 { // the costly ones are for the sidecar to judge
			_ = json.Unmarshal(body, &content)
		}
		hs.mu.Lock()
		hs.written[target] = content.Status
		hs.mu.Unlock()
		answer(w, http.StatusOK, `{}`)
	case strings.HasPrefix(target, "@hidden") && target != user:
		answer(w, http.StatusForbidden, `{"errcode":"M_FORBIDDEN","error":"You are not allowed to see their presence."}`)
	default:
		hs.mu.Lock()
		status, ok := hs.written[target]
		hs.mu.Unlock()
		if !ok {
			status = statusOf(target)
		}
		answer(w, http.StatusOK, presenceOf(status))
	}
}

// statusOf is the status of somebody who has not written any. It tells whose it is.
func statusOf(userID string) string {
	if len(userID) > 60 {
		return fmt.Sprintf("of somebody with %d bytes", len(userID))
	}
	return "of " + userID
}

// presenceOf is a body that doesn't age, so that answers can be compared.
func presenceOf(status string) string {
	return fmt.Sprintf(`{"presence":"offline","status_msg":%q}`, status)
}

// targetOf returns whose presence an escaped path is about, by the patterns that
// homeservers have: they look at no path that doesn't begin so.
func targetOf(escapedPath string) (userID string, ok bool) {
	for _, version := range []string{"v3", "r0", "unstable", "api/v1"} {
		if rest, ok := strings.CutPrefix(escapedPath, "/_matrix/client/"+version+"/presence/"); ok {
			segment, ok := strings.CutSuffix(rest, "/status")
			userID, err := url.PathUnescape(segment)
			return userID, ok && err == nil
		}
	}
	return "", false
}

// answer writes with the header fields of Synapse.
func answer(w http.ResponseWriter, status int, body string) {
	header := w.Header()
	header.Set("Server", "Synapse/1.160.0")
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	header.Set("Access-Control-Allow-Origin", "*")
	header.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE, OPTIONS")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

func (hs *homeserver) begin(what kind, client string) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.count[what]++
	hs.now[what]++
	hs.most[what] = max(hs.most[what], hs.now[what])
	if what == whoami {
		hs.asking[client]++
		hs.busiest = max(hs.busiest, hs.asking[client])
	}
}

func (hs *homeserver) end(what kind, client string) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.now[what]--
	if what == whoami {
		if hs.asking[client]--; hs.asking[client] == 0 {
			delete(hs.asking, client)
		}
	}
}

// work is what attackers have had the homeserver do since the last call of take.
type work struct {
	count   [kinds]int
	most    [kinds]int // at a time
	busiest int        // lookups at a time for one address
}

func (hs *homeserver) take() work {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	w := work{hs.count, hs.most, hs.busiest}
	hs.count, hs.most, hs.busiest = [kinds]int{}, hs.now, 0
	return w
}

// takeSeen returns the requests that have come since the last call, and forgets them.
func (hs *homeserver) takeSeen() []seen {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	all := hs.seen
	hs.seen = nil
	return all
}

// statuses returns what was written, by user.
func (hs *homeserver) statuses() map[string]string {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return maps.Clone(hs.written)
}
