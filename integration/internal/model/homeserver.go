package model

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
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
	Ahead   time.Duration // its clock is
	Gzip    bool          // it compresses for those who accept that
	*ledger
	*diary

	working atomic.Int32 // requests that it has not done with, whoever waits for them

	mu       sync.Mutex // guards all below
	mood     func(r *http.Request) Conduct
	received []Received
}

// Conduct is what happens to one request.
type Conduct struct {
	Before, After time.Duration // its effect
	Fault         Fault
	Says          *Answer // instead of having an effect
}

// Fault is a way in which an answer fails.
type Fault int

const (
	NoFault     Fault = iota
	Unreachable       // fails before it has an effect
	AnswerLost        // fails after its effect
)

// Received is a request that has come.
type Received struct {
	At            time.Time
	Method, Path  string // escaped
	Query         string
	Authorization string
}

// New returns a homeserver without accounts.
func New(d *Dialect) *Homeserver {
	return &Homeserver{Dialect: d, ledger: newLedger(), diary: newDiary(d.Name)}
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
	hs.diary.write(user, device, state, &message, hs.Dialect.keeps)
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
	hs.received = append(hs.received, Received{time.Now(), r.Method, r.URL.EscapedPath(), r.URL.RawQuery, r.Header.Get("Authorization")})
	mood := hs.mood
	hs.mu.Unlock()
	if hs.Dialect.refuses(r) {
		return nil, errors.New("read tcp: connection reset by peer")
	}
	var c Conduct
	if mood != nil {
		c = mood(r)
	}
	answers := make(chan *Answer, 1)
	gone := sent.Context().Done()
	hs.working.Add(1)
	go func() {
		defer hs.working.Add(-1)
		time.Sleep(c.Before)
		var a *Answer
		switch {
		case c.Fault == Unreachable:
		case c.Says != nil:
			a = c.Says
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
		return hs.response(a, sent), nil
	case <-gone:
		return nil, sent.Context().Err()
	}
}

// Answer is what the homeserver says.
type Answer struct {
	Status            int
	ContentType, Body string
	Fields            [][2]string
}

func errorAnswer(status int, errcode string) *Answer {
	return &Answer{Status: status, ContentType: "application/json", Body: `{"errcode":"` + errcode + `","error":"No"}`}
}

func ok(v any) *Answer {
	body, _ := json.Marshal(v)
	return &Answer{Status: 200, ContentType: "application/json", Body: string(body)}
}

func (hs *Homeserver) response(a *Answer, r *http.Request) *http.Response {
	header := http.Header{
		"Content-Type":                {a.ContentType},
		"Cache-Control":               {"no-cache, no-store, must-revalidate"},
		"Access-Control-Allow-Origin": {"*"},
		"Date":                        {time.Now().Add(hs.Ahead).UTC().Format(http.TimeFormat)},
	}
	for _, field := range a.Fields {
		header.Add(field[0], field[1])
	}
	content := a.Body
	if hs.Gzip && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		_, _ = io.WriteString(w, content)
		_ = w.Close() // into memory
		content = packed.String()
		header.Set("Content-Encoding", "gzip")
		header.Set("Vary", "Accept-Encoding")
	}
	header.Set("Content-Length", strconv.Itoa(len(content)))
	body := io.Reader(strings.NewReader(content))
	if r.Method == http.MethodHead {
		body = http.NoBody
	}
	return &http.Response{
		StatusCode: a.Status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, ContentLength: int64(len(content)), Body: io.NopCloser(body), Request: r,
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
		if asUser != s.User && !strings.HasPrefix(asUser, "@ghost_") {
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
	switch {
	case hs.Dialect.Name == "dendrite":
		return true
	case at.PresenceOff:
		return hs.Dialect.Name == "synapse"
	}
	return viewer == target || at.ShareRoom(viewer, target)
}

var admins = regexp.MustCompile(`^/_synapse/admin/(v1/(?:deactivate|reset_password)/([^/]+)|v2/users/([^/]+)/delete_devices)$`)

func (hs *Homeserver) answer(r *http.Request, body []byte, gone <-chan struct{}) *Answer {
	d, path := hs.Dialect, r.URL.EscapedPath()
	query := r.URL.Query()
	token := d.Token(r.Header["Authorization"], query)
	now := hs.Now()
	user, device, no := hs.Viewer(now, token, query.Get("user_id"))

	if match := d.presence.FindStringSubmatch(path); match != nil {
		target, err := url.PathUnescape(match[len(match)-1])
		switch {
		case err != nil:
			return errorAnswer(400, "M_INVALID_PARAM")
		case no != nil:
			return errorAnswer(no.status, no.errcode)
		case now.Sessions[token].Guest && d.Name != "tuwunel":
			return errorAnswer(403, "M_GUEST_ACCESS_FORBIDDEN")
		}
		return hs.presence(now, r.Method, user, device, target, body)
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
			return errorAnswer(no.status, no.errcode)
		case !now.Sessions[token].Admin:
			return errorAnswer(403, "M_FORBIDDEN")
		}
		named, _ := url.PathUnescape(match[2] + match[3])
		var these struct{ Devices []string }
		_ = json.Unmarshal(body, &these)
		hs.Change(func(a *Accounts) {
			a.End(named, func(_ string, s Session) bool { return match[3] == "" || slices.Contains(these.Devices, s.Device) })
		})
		return ok(struct{}{})
	}
	if match := d.client.FindStringSubmatch(path); match != nil {
		if a := hs.clientAPI(r.Method, match[len(match)-1], r.URL.RawQuery, body, token, user, device, no, gone); a != nil {
			return a
		}
	}
	if strings.HasPrefix(path, "/_matrix/media/") || strings.HasPrefix(path, "/_matrix/federation/") {
		sum := fnv.New64a()
		fmt.Fprint(sum, r.Method, r.URL.RequestURI(), r.Header.Get("Range"), string(body))
		return &Answer{Status: 200, ContentType: "application/octet-stream", Body: strconv.FormatUint(sum.Sum64(), 16)}
	}
	return errorAnswer(404, "M_UNRECOGNIZED")
}

// presence answers a request of a user's for a target's presence.
func (hs *Homeserver) presence(now *Accounts, method, user, device, target string, body []byte) *Answer {
	d, writes := hs.Dialect, method == http.MethodPut
	switch {
	case now.PresenceOff && d.Name == "tuwunel":
		return errorAnswer(403, "M_FORBIDDEN")
	case now.PresenceOff && writes && (user == target || d.Name == "dendrite"):
		return ok(struct{}{})
	case now.PresenceOff && d.Name == "synapse" && !writes:
		return ok(map[string]string{"presence": "offline"})
	case writes:
		return hs.write(user, device, target, body)
	case method != http.MethodGet && method != http.MethodHead:
		return errorAnswer(405, "M_UNRECOGNIZED")
	case !hs.MaySee(now, user, target):
		return errorAnswer(d.hidden.status, d.hidden.errcode)
	}
	return hs.show(target)
}

// show returns a user's presence, which was last active a second ago.
func (hs *Homeserver) show(target string) *Answer {
	state := hs.State(target)
	shown := map[string]any{"presence": state.Presence, "last_active_ago": 1000}
	if state.Message != "" {
		shown["status_msg"] = state.Message
	}
	return ok(shown)
}

func (hs *Homeserver) write(user, device, target string, body []byte) *Answer {
	if user != target {
		return errorAnswer(hs.Dialect.other.status, hs.Dialect.other.errcode)
	}
	word, message, good := hs.Dialect.says(body)
	if !good {
		return errorAnswer(400, "M_BAD_JSON")
	}
	hs.diary.write(user, device, word, message, hs.Dialect.keeps)
	return ok(struct{}{})
}

// clientAPI answers the other routes of the client API, or returns nil if there is none such.
func (hs *Homeserver) clientAPI(method, path, query string, body []byte, token, user, device string, no *refusal, gone <-chan struct{}) *Answer {
	var asked struct {
		User    string
		Device  string `json:"device_id"`
		Token   string // that it is to get
		Refresh string `json:"refresh_token"`
		Devices []string
	}
	_ = json.Unmarshal(body, &asked) // what isn't there is empty
	these := func(devices ...string) func(string, Session) bool {
		return func(_ string, s Session) bool { return slices.Contains(devices, s.Device) }
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
	if method == http.MethodPost && path == "refresh" {
		return hs.refresh(asked.Refresh, asked.Token)
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
		return ok(map[string]any{"user_id": user, "device_id": device, "is_guest": hs.Now().Sessions[token].Guest})
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
		name, err := url.PathUnescape(path)
		if err == nil && hs.Dialect.active.MatchString(name) {
			hs.diary.of.Active(user, device, time.Now())
		}
	default:
		return nil
	}
	return ok(struct{}{})
}

// RefreshOf is the refresh token of an access token.
func RefreshOf(token string) string { return "refresh-" + token }

// refresh ends an access token, and makes another.
func (hs *Homeserver) refresh(token, wanted string) *Answer {
	if hs.Dialect.Name == "dendrite" {
		return nil
	}
	for old, s := range hs.Now().Sessions {
		if RefreshOf(old) != token || s.Appservice {
			continue
		}
		hs.Change(func(a *Accounts) {
			delete(a.Sessions, old)
			a.Sessions[wanted] = s
		})
		return ok(map[string]any{"access_token": wanted, "refresh_token": RefreshOf(wanted), "expires_in_ms": 300_000})
	}
	return errorAnswer(401, "M_UNKNOWN_TOKEN")
}

// sync sets a presence and waits for news, of which there are none.
func (hs *Homeserver) sync(user, device, query string, gone <-chan struct{}) *Answer {
	if !hs.Now().PresenceOff {
		status, end := hs.diary.of.Sync(user, device, query, nil, time.Now())
		if status != http.StatusOK {
			return errorAnswer(status, "M_INVALID_PARAM")
		}
		defer func() { end(time.Now()) }()
	}
	values, _ := url.ParseQuery(query)
	milliseconds, _ := strconv.Atoi(values.Get("timeout"))
	timer := time.NewTimer(time.Duration(milliseconds) * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-gone:
	}
	return ok(map[string]any{"next_batch": "s1", "device": device})
}

// Rest waits until nothing is under way, at the homeserver and before it.
func (hs *Homeserver) Rest() {
	for synctest.Wait(); hs.working.Load() > 0; synctest.Wait() {
		time.Sleep(10 * time.Millisecond)
	}
}
