package leaks_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"
)

// homeserver is the model behind Caddy. It never checks whose presence a write is to,
// as Dendrite doesn't when its outgoing presence is off: a write to another's presence
// that arrives is a leak.
type homeserver struct {
	*dialect
	*history
	perViewer bool              // shapes a body by who reads it
	excludes  bool              // shows no presence by the room of that name
	padding   map[string]string // of the states of some users

	// What becomes of requests is set while none is under way.
	mood    mood
	becomes func(r *http.Request) conduct // instead of the mood's, if it isn't nil

	working atomic.Int32 // requests that it has not done with, whoever waits for them
	feed    feed

	mu       sync.Mutex // guards all below
	judged   []judgement
	syncs    syncCache
	effects  map[string]effect // of revocations, by the client's request
	troubles []span            // when it was slow or broken
	leaks    []string
	writes   map[string]int // by target
}

// mood is how a homeserver behaves. What it does with a request depends on nothing
// but the request, the time and the seed, so that a failure can be repeated.
type mood struct {
	seed uint64

	// slow answers come late, of a hundred.
	slow int
	// broken answers fail in one way or another, of a hundred.
	broken int
}

// judgement is what became of a request that was refused.
type judgement struct {
	arrived time.Time
	n       int
}

// effect is what a revocation did.
type effect struct {
	at            time.Time
	before, after *world
}

type span struct{ from, to time.Time }

func newHomeserver(d *dialect) *homeserver {
	return &homeserver{
		dialect: d,
		history: newHistory(),
		padding: make(map[string]string),
		syncs:   make(syncCache),
		effects: make(map[string]effect),
		writes:  make(map[string]int),
	}
}

// requestID is the header field by which a client's request is told from others. The
// requests that are made on its behalf have it too.
const requestID = "X-Request-Id"

// conduct is what happens to one request.
type conduct struct {
	before, after time.Duration // its effect
	fault         fault
}

type fault int

const (
	noFault        fault = iota
	unreachable          // fails before it has an effect
	answerLost           // fails after its effect
	answerCut            // the body breaks off
	internalError        // 500, as the homeserver says it
	badGateway           // 502, as some proxy says it
	numberOfFaults = iota
)

func (m mood) conduct(r *http.Request) (c conduct) {
	if m.slow == 0 && m.broken == 0 {
		return c
	}
	sum := fnv.New64a()
	fmt.Fprint(sum, m.seed, r.Method, r.RequestURI, r.Header["Authorization"], time.Now().UnixNano())
	random := rand.New(rand.NewPCG(m.seed, sum.Sum64()))
	if random.IntN(100) < m.slow {
		// Most within what a client notices; some longer than a client of ours
		// waits for a fresh answer, an identity, or any.
		bounds := []time.Duration{20 * time.Millisecond, 300 * time.Millisecond, 2 * time.Second, 6 * time.Second, 12 * time.Second, 29 * time.Second, 50 * time.Second}
		total := time.Duration(random.Int64N(int64(bounds[random.IntN(len(bounds))])))
		switch random.IntN(3) {
		case 0:
			c.before = total // a long line of requests
		case 1:
			c.before = time.Duration(random.Int64N(int64(total) + 1))
		}
		c.after = total - c.before
	}
	if random.IntN(100) < m.broken {
		c.fault = fault(1 + random.IntN(numberOfFaults-1))
	}
	return c
}

var errUnreachable = errors.New("dial tcp: connection refused")

// RoundTrip answers a request as it looks on the wire. A client that goes away
// doesn't stop what it began.
func (hs *homeserver) RoundTrip(sent *http.Request) (*http.Response, error) {
	var wire bytes.Buffer
	if err := sent.Write(&wire); err != nil {
		return nil, err
	}
	r, err := http.ReadRequest(bufio.NewReader(&wire))
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}

	c := hs.mood.conduct(r)
	if hs.becomes != nil {
		c = hs.becomes(r)
	}
	arrived := time.Now()
	if c.fault != noFault || c.before+c.after >= 5*time.Second {
		hs.mu.Lock()
		hs.troubles = append(hs.troubles, span{arrived, arrived.Add(c.before + c.after)})
		hs.mu.Unlock()
	}
	answers := make(chan *answer, 1)
	hs.working.Add(1)
	go func() {
		defer hs.working.Add(-1)
		time.Sleep(c.before)
		var a *answer
		switch c.fault {
		case unreachable:
		case internalError:
			a = &answer{status: 500, contentType: "application/json", body: `{"errcode":"M_UNKNOWN","error":"Internal server error"}`}
		case badGateway:
			a = &answer{status: 502, contentType: "text/html", body: "<html>Bad Gateway</html>"}
		default:
			a = hs.answer(r, body, arrived)
		}
		time.Sleep(c.after)
		answers <- a
	}()
	select {
	case a := <-answers:
		if a == nil || c.fault == answerLost {
			return nil, errUnreachable
		}
		return a.response(sent, c.fault == answerCut), nil
	case <-sent.Context().Done():
		return nil, sent.Context().Err()
	}
}

// answer is what the homeserver says.
type answer struct {
	status            int
	contentType, body string
}

func (a *answer) response(r *http.Request, cut bool) *http.Response {
	header := make(http.Header)
	header.Set("Content-Type", a.contentType)
	header.Set("Content-Length", strconv.Itoa(len(a.body)))
	header.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	header.Set("Access-Control-Allow-Origin", "*")
	body := io.Reader(strings.NewReader(a.body))
	switch {
	case r.Method == http.MethodHead:
		body = http.NoBody
	case cut:
		body = io.MultiReader(strings.NewReader(a.body[:len(a.body)/2]), cutOff{})
	}
	return &http.Response{
		StatusCode: a.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, ContentLength: int64(len(a.body)), Body: io.NopCloser(body), Request: r,
	}
}

type cutOff struct{}

func (cutOff) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// stamp says whom an error is for, so that nobody else gets it.
type stamp struct {
	N      int    `json:"n"` // counts the refusals
	Token  uint64 `json:"token"`
	User   string `json:"user"`   // user_id, as it was read
	Device string `json:"device"` // device_id likewise
	Viewer string `json:"viewer"` // if the credential was good
	Would  string `json:"would"`  // whom it would be for, if it is known at all
	Target string `json:"target"` // of a presence that was refused
}

// fingerprint stands for a token where that must not be.
func fingerprint(token string) uint64 {
	sum := fnv.New64a()
	io.WriteString(sum, token)
	return sum.Sum64() >> 12 // JSON's numbers have 52 bits
}

func (hs *homeserver) refuse(in *reading, viewer string, no refusal, arrived time.Time) *answer {
	n := len(hs.judged)
	hs.judged = append(hs.judged, judgement{arrived, n})
	would := ""
	if s, ok := hs.now().sessions[in.shown.token]; ok {
		would = s.owner
		if s.appservice && in.shown.user != "" {
			would = in.shown.user
		}
	}
	body, _ := json.Marshal(map[string]any{
		"errcode": no.errcode, "error": "No",
		"stamp": stamp{n, fingerprint(in.shown.token), in.shown.user, in.shown.device, viewer, would, in.target},
	})
	return &answer{no.status, "application/json", string(body)}
}

// answer does what a request asks for.
func (hs *homeserver) answer(r *http.Request, body []byte, arrived time.Time) *answer {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	in := hs.read(r)
	w := hs.now()
	viewer, no := hs.viewer(w, &in)
	switch in.of {
	case ofPresence:
		switch {
		case r.Method == http.MethodPut:
		case r.Method != http.MethodGet && (r.Method != http.MethodHead || !hs.head):
			return hs.refuse(&in, "", refusal{405, "M_UNRECOGNIZED"}, arrived)
		}
		switch {
		case no != nil:
			return hs.refuse(&in, "", *no, arrived)
		case r.Method == http.MethodPut:
			return hs.write(&in, viewer)
		case !hs.maySee(w, viewer, in.target):
			return hs.refuse(&in, viewer, hs.hidden, arrived)
		}
		return &answer{200, "application/json", hs.state(viewer, in.target)}
	case ofAccount, ofAdmin:
		if in.of == ofAccount && in.path == "account/whoami" && r.Method == http.MethodGet {
			if no != nil {
				return hs.refuse(&in, "", *no, arrived)
			}
			who := map[string]any{"user_id": viewer}
			if device := w.sessions[in.shown.token].device; device != "" {
				who["device_id"] = device
			}
			if in.shown.device != "" && w.sessions[in.shown.token].appservice && !hs.deviceless {
				who["device_id"] = in.shown.device
			}
			body, _ := json.Marshal(who)
			return &answer{200, "application/json", string(body)}
		}
		if in.of == ofAccount && (in.path == "sync" || listRoute.MatchString(in.path)) && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
			if no != nil {
				return hs.refuse(&in, "", *no, arrived)
			}
			if a := hs.list(r, &in, w, viewer); a != nil {
				return a
			}
			if a := hs.sync(r, &in, w, viewer); a != nil {
				return a
			}
		}
		if a := hs.revoke(r, &in, viewer, no, body, arrived); a != nil {
			return a
		}
	}
	return hs.refuse(&in, "", unrecognized, arrived)
}

// maySee is the dialect's, without the rooms by which the homeserver shows none.
func (hs *homeserver) maySee(w *world, viewer, target string) bool {
	if !hs.excludes || viewer == target {
		return hs.dialect.maySee(w, viewer, target)
	}
	return w.joined[membership{1 - excluded, viewer}] && w.joined[membership{1 - excluded, target}]
}

// state returns the body of a presence. It says whose it is, and with perViewer who
// it is for.
func (hs *homeserver) state(viewer, target string) string {
	if !hs.perViewer {
		viewer = ""
	}
	presence := map[string]any{
		"presence": wordOf(target), "last_active_ago": activeAgo.Milliseconds(), "currently_active": hs.writes[target]%2 == 1,
		"status_msg": stateMark + target + " for " + viewer, "padding": hs.padding[target],
	}
	body, _ := json.Marshal(presence)
	return string(body)
}

// wordOf is the presence of a user. What is online is asked for again each ttl even if a feed is live.
func wordOf(target string) string {
	if len(target)%2 == 0 {
		return "unavailable"
	}
	return "online"
}

const (
	stateMark = "presence of "
	activeAgo = time.Second // before the answer, by every state
)

func (hs *homeserver) write(in *reading, viewer string) *answer {
	if viewer != in.target {
		hs.leaks = append(hs.leaks, fmt.Sprintf("a write of %s arrived for %s", viewer, in.target))
	}
	hs.writes[in.target]++
	hs.feed.tellPresence(in.target, hs.writes[in.target]%2 == 1)
	return &answer{200, "application/json", "{}"}
}

// revoke answers a request that ends sessions, or returns nil if it is another.
func (hs *homeserver) revoke(r *http.Request, in *reading, viewer string, no *refusal, body []byte, arrived time.Time) *answer {
	var asked struct {
		Devices       []string
		LogoutDevices *bool  `json:"logout_devices"`
		ByMail        string `json:"by_mail"` // stands for the proof that a link in a mail was followed
		Password      string
		Deactivated   bool
		Locked        *bool
	}
	if len(body) > 0 && json.Unmarshal(body, &asked) != nil {
		return nil
	}
	token := in.shown.token
	others := func(t string, _ session) bool { return t != token }
	all := func(string, session) bool { return true }
	these := func(devices ...string) func(string, session) bool {
		return func(_ string, s session) bool { return slices.Contains(devices, s.device) }
	}
	var change func(w *world)
	switch in.of {
	case ofAccount:
		device, isDevice := strings.CutPrefix(in.path, "devices/")
		switch {
		case r.Method == http.MethodDelete && isDevice && !strings.Contains(device, "/"):
			device, _ = hs.unescape(device)
			change = func(w *world) { w.endSessions(viewer, these(device)) }
		case r.Method != http.MethodPost:
		case in.path == "logout":
			change = func(w *world) {
				if !w.sessions[token].appservice {
					delete(w.sessions, token)
				}
			}
		case in.path == "logout/all":
			change = func(w *world) { w.endSessions(viewer, all) }
		case in.path == "delete_devices":
			change = func(w *world) { w.endSessions(viewer, these(asked.Devices...)) }
		case in.path == "account/password" && asked.ByMail != "":
			viewer, no = asked.ByMail, nil
			fallthrough
		case in.path == "account/password":
			change = func(w *world) {
				if asked.LogoutDevices == nil || *asked.LogoutDevices {
					w.endSessions(viewer, others)
				}
			}
		case in.path == "account/deactivate":
			change = func(w *world) { w.deactivate(viewer) }
		}
	case ofAdmin:
		change = hs.administer(r.Method, in.path, all, these, asked.Devices, func(user string) func(*world) {
			return func(w *world) {
				if asked.Password != "" {
					w.endSessions(user, all)
				}
				if asked.Locked != nil {
					w.locked[user] = *asked.Locked
				}
				if asked.Deactivated {
					w.deactivate(user)
				}
			}
		})
		if no == nil && !hs.now().sessions[token].admin {
			no = &refusal{403, "M_FORBIDDEN"}
		}
	}
	switch {
	case change == nil:
		return nil
	case no != nil:
		return hs.refuse(in, "", *no, arrived)
	}
	before, after := hs.change(change)
	hs.effects[r.Header.Get(requestID)] = effect{after.from, before, after}
	return &answer{200, "application/json", "{}"}
}

// administer returns what a route of the admin APIs does.
func (hs *homeserver) administer(method, path string, all func(string, session) bool, these func(...string) func(string, session) bool,
	devices []string, modify func(user string) func(*world)) func(*world) {
	cut := func(prefix string) ([]string, bool) {
		rest, ok := strings.CutPrefix(path, prefix)
		parts := strings.Split(rest, "/")
		for i := range parts {
			parts[i], _ = hs.unescape(parts[i])
		}
		return parts, ok
	}
	end := func(user string, which func(string, session) bool) func(*world) {
		return func(w *world) { w.endSessions(user, which) }
	}
	if parts, ok := cut("/_synapse/admin/v2/users/"); ok {
		switch {
		case method == http.MethodPut && len(parts) == 1:
			return modify(parts[0])
		case method == http.MethodDelete && len(parts) == 3 && parts[1] == "devices":
			return end(parts[0], these(parts[2]))
		case method == http.MethodPost && len(parts) == 2 && parts[1] == "delete_devices":
			return end(parts[0], these(devices...))
		}
	}
	if method != http.MethodPost {
		return nil
	}
	if parts, ok := cut("/_synapse/admin/v1/deactivate/"); ok && len(parts) == 1 {
		return func(w *world) { w.deactivate(parts[0]) }
	}
	for _, prefix := range []string{"/_synapse/admin/v1/reset_password/", "/_dendrite/admin/resetPassword/"} {
		if parts, ok := cut(prefix); ok && len(parts) == 1 {
			return end(parts[0], all)
		}
	}
	return nil
}

// troubled reports whether it was slow or broken at some moment of a span.
func (hs *homeserver) troubled(s span) bool {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return slices.ContainsFunc(hs.troubles, func(t span) bool { return !t.to.Before(s.from) && !t.from.After(s.to) })
}

func (hs *homeserver) arrival(n int) time.Time {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return hs.judged[n].arrived
}

// effectOf returns what a revocation did, if it did something.
func (hs *homeserver) effectOf(x *exchange) (effect, bool) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	done, ok := hs.effects[strconv.Itoa(x.id)]
	return done, ok
}

// rest waits until nothing is under way, at the homeserver and before it.
func (hs *homeserver) rest() {
	for synctest.Wait(); hs.working.Load() > 0; synctest.Wait() {
		time.Sleep(10 * time.Millisecond)
	}
}
