package model

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"
)

// Homeserver is a homeserver. It never checks whose presence a write is to but as its
// dialect does.
type Homeserver struct {
	Dialect *Dialect
	*ledger
	diary

	working atomic.Int32 // requests that it has not done with, whoever waits for them

	mu       sync.Mutex // guards all below
	mood     func(r *http.Request) Conduct
	received []Received
}

// Conduct is what happens to one request.
type Conduct struct {
	Before, After time.Duration // its effect
	Fault         Fault
}

// Fault is a way in which an answer fails.
type Fault int

const (
	NoFault       Fault = iota
	Unreachable         // fails before it has an effect
	AnswerLost          // fails after its effect
	InternalError       // 500, as the homeserver says it
	LargeError          // 500 with a body of 70 KB
	BadGateway          // 502, as some proxy says it
)

// Received is a request that has come.
type Received struct {
	At            time.Time
	Method, Path  string // escaped
	Authorization string
}

// New returns a homeserver without accounts.
func New(d *Dialect) *Homeserver {
	return &Homeserver{Dialect: d, ledger: newLedger(), diary: diary{deeds: make(map[string][]deed)}}
}

// Become has it treat requests in another way from now on, or well if that is nil.
func (hs *Homeserver) Become(mood func(r *http.Request) Conduct) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.mood = mood
}

// Received returns the requests that have come so far.
func (hs *Homeserver) Received() []Received {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return append([]Received(nil), hs.received...)
}

// Set sets a presence as if by a device elsewhere.
func (hs *Homeserver) Set(user, device, state, message string) {
	hs.note(user, deed{at: time.Now(), device: device, state: state, message: &message, write: true})
}

var errUnreachable = errors.New("dial tcp: connection refused")

// RoundTrip answers a request as it looks on the wire. A client that goes away doesn't
// stop what it began.
func (hs *Homeserver) RoundTrip(sent *http.Request) (*http.Response, error) {
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
	hs.mu.Lock()
	hs.received = append(hs.received, Received{time.Now(), r.Method, r.URL.EscapedPath(), r.Header.Get("Authorization")})
	mood := hs.mood
	hs.mu.Unlock()
	if hs.Dialect.refuses(r) {
		return nil, errors.New("read tcp: connection reset by peer")
	}
	var c Conduct
	if mood != nil {
		c = mood(r)
	}
	answers := make(chan *answer, 1)
	gone := sent.Context().Done()
	hs.working.Add(1)
	go func() {
		defer hs.working.Add(-1)
		time.Sleep(c.Before)
		var a *answer
		switch c.Fault {
		case Unreachable:
		case InternalError:
			a = errorAnswer(500, "M_UNKNOWN")
		case LargeError:
			a = &answer{500, "text/html", strings.Repeat("<p>Internal error</p>", 4000)}
		case BadGateway:
			a = &answer{502, "text/html", "<html>Bad Gateway</html>"}
		default:
			a = hs.answer(r, body, gone)
		}
		time.Sleep(c.After)
		answers <- a
	}()
	select {
	case a := <-answers:
		if a == nil || c.Fault == AnswerLost {
			return nil, errUnreachable
		}
		return a.response(sent), nil
	case <-gone:
		return nil, sent.Context().Err()
	}
}

// answer is what the homeserver says.
type answer struct {
	status            int
	contentType, body string
}

func errorAnswer(status int, errcode string) *answer {
	return &answer{status, "application/json", `{"errcode":"` + errcode + `","error":"No"}`}
}

func ok(v any) *answer {
	body, _ := json.Marshal(v)
	return &answer{200, "application/json", string(body)}
}

func (a *answer) response(r *http.Request) *http.Response {
	header := make(http.Header)
	header.Set("Content-Type", a.contentType)
	header.Set("Content-Length", strconv.Itoa(len(a.body)))
	header.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	header.Set("Access-Control-Allow-Origin", "*")
	body := io.Reader(strings.NewReader(a.body))
	if r.Method == http.MethodHead {
		body = http.NoBody
	}
	return &http.Response{
		StatusCode: a.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, ContentLength: int64(len(a.body)), Body: io.NopCloser(body), Request: r,
	}
}

// Viewer returns on whose behalf a credential is shown, at some moment: by its token and the
// parameter user_id.
func (hs *Homeserver) Viewer(at *Accounts, token, asUser string) (user, device string, no *refusal) {
	s, known := at.Sessions[token]
	switch {
	case token == "":
		return "", "", &refusal{401, "M_MISSING_TOKEN"}
	case !known:
		return "", "", &refusal{401, "M_UNKNOWN_TOKEN"}
	}
	user, device = s.User, s.Device
	if s.Appservice && asUser != "" {
		if !strings.HasPrefix(asUser, "@ghost_") {
			return "", "", &refusal{403, "M_FORBIDDEN"}
		}
		user, device = asUser, "AS"
	}
	if at.Locked[user] {
		return "", "", &refusal{401, "M_USER_LOCKED"}
	}
	return user, device, nil
}

// MaySee reports whether a viewer may see a target's presence at some moment.
func (hs *Homeserver) MaySee(at *Accounts, viewer, target string) bool {
	return hs.Dialect.Name == "dendrite" || viewer == target || at.ShareRoom(viewer, target)
}

var admins = regexp.MustCompile(`^/_synapse/admin/v1/(deactivate|reset_password)/([^/]+)$`)

func (hs *Homeserver) answer(r *http.Request, body []byte, gone <-chan struct{}) *answer {
	d, path := hs.Dialect, r.URL.EscapedPath()
	query := r.URL.Query()
	token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !bearer {
		token = query.Get("access_token")
	}
	now := hs.Now()
	user, device, no := hs.Viewer(now, token, query.Get("user_id"))
	refuse := func() *answer { return errorAnswer(no.status, no.errcode) }

	if match := d.presence.FindStringSubmatch(path); match != nil {
		target, err := url.PathUnescape(match[len(match)-1])
		switch {
		case err != nil:
			return errorAnswer(400, "M_INVALID_PARAM")
		case no != nil:
			return refuse()
		case r.Method == http.MethodPut:
			return hs.write(user, device, target, body)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			return errorAnswer(405, "M_UNRECOGNIZED")
		case !hs.MaySee(now, user, target):
			return errorAnswer(d.hidden.status, d.hidden.errcode)
		}
		return hs.show(target)
	}
	switch {
	case path == "/_matrix/federation/v1/version":
		return ok(map[string]any{"server": map[string]string{"name": d.Name, "version": "1"}})
	case r.Method == http.MethodPost && path == "/_tuwunel/oidc/revoke" && d.Name == "tuwunel":
		form, _ := url.ParseQuery(string(body))
		hs.Change(func(a *Accounts) { delete(a.Sessions, form.Get("token")) })
		return ok(struct{}{})
	}
	if match := admins.FindStringSubmatch(path); match != nil && r.Method == http.MethodPost && d.Name == "synapse" {
		switch {
		case no != nil:
			return refuse()
		case !now.Sessions[token].Admin:
			return errorAnswer(403, "M_FORBIDDEN")
		}
		named, _ := url.PathUnescape(match[2])
		hs.Change(func(a *Accounts) { a.End(named, func(string, Session) bool { return true }) })
		return ok(struct{}{})
	}
	if match := d.client.FindStringSubmatch(path); match != nil {
		if a := hs.clientAPI(r.Method, match[len(match)-1], query, body, token, user, device, no, gone); a != nil {
			return a
		}
	}
	if strings.HasPrefix(path, "/_matrix/media/") || strings.HasPrefix(path, "/_matrix/federation/") {
		sum := fnv.New64a()
		fmt.Fprint(sum, r.Method, r.URL.RequestURI(), r.Header.Get("Range"), string(body))
		return &answer{200, "application/octet-stream", strconv.FormatUint(sum.Sum64(), 16)}
	}
	return errorAnswer(404, "M_UNRECOGNIZED")
}

// show returns a user's presence, which was last active a second ago.
func (hs *Homeserver) show(target string) *answer {
	state := hs.stateAt(target, time.Now())
	shown := map[string]any{"presence": state.Presence, "last_active_ago": 1000}
	if state.Message != "" {
		shown["status_msg"] = state.Message
	}
	return ok(shown)
}

func (hs *Homeserver) write(user, device, target string, body []byte) *answer {
	if user != target {
		return errorAnswer(hs.Dialect.other.status, hs.Dialect.other.errcode)
	}
	word, good := hs.Dialect.write(body)
	if !good {
		return errorAnswer(400, "M_BAD_JSON")
	}
	var given struct {
		Message *string `json:"status_msg"`
	}
	_ = json.Unmarshal(body, &given) // it was read before
	hs.note(user, deed{at: time.Now(), device: device, state: word, message: given.Message, write: true})
	return ok(struct{}{})
}

// clientAPI answers the other routes of the client API, or returns nil if there is none such.
func (hs *Homeserver) clientAPI(method, path string, query url.Values, body []byte, token, user, device string, no *refusal, gone <-chan struct{}) *answer {
	var asked struct {
		User    string
		Device  string `json:"device_id"`
		Token   string // that it is to get
		Devices []string
	}
	_ = json.Unmarshal(body, &asked) // what isn't there is empty
	these := func(devices ...string) func(string, Session) bool {
		return func(_ string, s Session) bool {
			for _, device := range devices {
				if s.Device == device {
					return true
				}
			}
			return false
		}
	}
	if method == http.MethodPost && path == "login" {
		hs.Change(func(a *Accounts) {
			if hs.Dialect.Name == "dendrite" {
				a.End(asked.User, these(asked.Device))
			}
			a.Sessions[asked.Token] = Session{User: asked.User, Device: asked.Device}
		})
		return ok(map[string]string{"user_id": asked.User, "device_id": asked.Device, "access_token": asked.Token})
	}
	if no != nil {
		return errorAnswer(no.status, no.errcode)
	}
	device, isDevice := device, false
	name := ""
	if name, isDevice = strings.CutPrefix(path, "devices/"); !isDevice {
		name = ""
	}
	switch {
	case path == "account/whoami" && method == http.MethodGet:
		return ok(map[string]string{"user_id": user, "device_id": device})
	case path == "sync" && method == http.MethodGet:
		return hs.sync(user, device, query, gone)
	case path == "logout" && method == http.MethodPost:
		hs.Change(func(a *Accounts) {
			if !a.Sessions[token].Appservice {
				delete(a.Sessions, token)
			}
		})
	case path == "logout/all" && method == http.MethodPost:
		hs.Change(func(a *Accounts) { a.End(user, func(string, Session) bool { return true }) })
	case isDevice && method == http.MethodDelete:
		hs.Change(func(a *Accounts) { a.End(user, these(name)) })
	case path == "delete_devices" && method == http.MethodPost:
		hs.Change(func(a *Accounts) { a.End(user, these(asked.Devices...)) })
	case strings.HasPrefix(path, "rooms/") && (method == http.MethodPut || method == http.MethodPost):
		// A message, typing, a receipt.
	default:
		return nil
	}
	return ok(struct{}{})
}

// sync sets a presence and waits for news, of which there are none.
func (hs *Homeserver) sync(user, device string, query url.Values, gone <-chan struct{}) *answer {
	words, given := query["set_presence"]
	word := ""
	if given {
		word = words[0]
	}
	state, good := hs.Dialect.sync(word, given)
	if !good {
		return errorAnswer(400, "M_INVALID_PARAM")
	}
	index := -1
	if state != "" {
		index = hs.note(user, deed{at: time.Now(), device: device, state: state})
	}
	milliseconds, _ := strconv.Atoi(query.Get("timeout"))
	timer := time.NewTimer(time.Duration(milliseconds) * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-gone:
	}
	if index >= 0 {
		hs.end(user, index, time.Now())
	}
	return ok(map[string]any{"next_batch": "s1", "device": device})
}

// Rest waits until nothing is under way, at the homeserver and before it.
func (hs *Homeserver) Rest() {
	for synctest.Wait(); hs.working.Load() > 0; synctest.Wait() {
		time.Sleep(10 * time.Millisecond)
	}
}
