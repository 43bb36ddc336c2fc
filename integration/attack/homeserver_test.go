package attack_test

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
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

// kindOf is what a request asks for. Whatever isn't about presence is something else.
func kindOf(q *scripted.Request) kind {
	switch q.Route {
	case scripted.WhoAmI:
		return whoami
	case scripted.Read, scripted.Preflight:
		return read
	case scripted.Write:
		return write
	}
	return other
}

// homeserver is a scripted one, which takes every write. It counts by kind what it is asked by
// attackers, and how much of it at a time; victims are known by their tokens and not counted.
type homeserver struct {
	*scripted.Homeserver

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
	seen    []seen         // of attackers, if recording
}

// seen is a request as the homeserver read it.
type seen struct {
	method, target string // as they stood in the request line
	header         http.Header
	body           string
}

func (s seen) String() string { return s.method + " " + s.target }

// newHomeserver starts one. With record it keeps all that comes over the wire.
func newHomeserver(t *testing.T, record bool) *homeserver {
	t.Helper()
	hs := &homeserver{asking: make(map[string]int)}
	options := scripted.Options{
		Owner: ownerOf, Trusting: true, Began: hs.began,
		Hidden: func(_, target string) bool { return strings.HasPrefix(target, "@hidden") },
		Body: func(target string, s scripted.State) string {
			if s.Status == "" {
				return presenceOf(statusOf(target))
			}
			return presenceOf(s.Status)
		},
	}
	if record {
		hs.recording = new(recording)
		options.Listener = func(l net.Listener) net.Listener { return recordingListener{l, hs.recording} }
	}
	hs.Homeserver = scripted.New(options)
	if err := hs.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hs.Cut)
	return hs
}

// victimPrefix begins the names of all victims.
const victimPrefix = "victim"

// began counts a request, and takes the time for it that a test wants.
func (hs *homeserver) began(q *scripted.Request) (ended func()) {
	ended = func() {}
	if !strings.HasPrefix(q.User, "@"+victimPrefix) {
		what := kindOf(q)
		client, _, _ := strings.Cut(q.Header.Get("X-Forwarded-For"), ",")
		hs.begin(what, client)
		ended = func() { hs.end(what, client) }
	}
	if hs.recording != nil {
		hs.mu.Lock()
		hs.seen = append(hs.seen, seen{q.Method, q.RequestURI, q.Header, q.Text})
		hs.mu.Unlock()
	}
	if q.Route != scripted.WhoAmI {
		return ended
	}
	if !q.Known && hs.hold != nil {
		select {
		case <-hs.hold:
		case <-q.Context().Done():
		}
	}
	if takes := time.Duration(hs.whoamiTakes.Load()); takes > 0 {
		select {
		case <-time.After(takes):
		case <-q.Context().Done():
		}
	}
	return ended
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

// wrote tells whether a user has a status, which is what a write has made of it.
func (hs *homeserver) wrote(user string) (status string, ok bool) {
	s := hs.State(user)
	return s.Status, s.Status != ""
}
