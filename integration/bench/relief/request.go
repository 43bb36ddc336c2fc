package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// action is what a request does.
type action int

const (
	read action = iota
	write
	sync_
	preflight
	list    // of a room's members
	message // to a room; no presence, but what presence may slow down
)

// request is one of a schedule.
type request struct {
	at   time.Duration // since the schedule began
	kind action
	by   *person
	of   string // whose presence is read, or which room's members
	from string // the client's address, for X-Forwarded-For
	// presence is what a write or a sync sets; change says that the write is to have a new
	// status_msg, too. Without it a write repeats the user's last.
	presence string
	change   bool
	// token is an unknown one, used instead of the person's.
	token string
	// want is the presence that a read has to show, if only one is possible.
	want string
}

// answer is what came back. Status is 0 if nothing did.
type answer struct {
	status     int
	header     http.Header
	body       []byte
	begin, end time.Time
}

func statusPath(user string) string {
	return "/_matrix/client/v3/presence/" + url.PathEscape(user) + "/status"
}

// send sends a request to base.
func (w *world) send(ctx context.Context, base string, r request) answer {
	if r.kind == write {
		return w.write(ctx, base, r)
	}
	w.recording.note(base, r, "")
	switch r.kind {
	case sync_:
		return w.sync(ctx, base, r)
	case message:
		path := "/_matrix/client/v3/rooms/" + url.PathEscape(r.by.room) + "/send/m.room.message/" + strconv.FormatInt(time.Now().UnixNano(), 36)
		return w.do(ctx, http.MethodPut, base+path, r, []byte(`{"msgtype":"m.text","body":"hello"}`))
	case preflight:
		return w.do(ctx, http.MethodOptions, base+statusPath(r.of), r, nil)
	case list:
		return w.do(ctx, http.MethodGet, base+"/_matrix/client/v3/rooms/"+url.PathEscape(r.of)+"/members?not_membership=leave", r, nil)
	}
	return w.do(ctx, http.MethodGet, base+r.by.speak(statusPath(r.of)), r, nil)
}

// write writes a presence and keeps the ledger.
func (w *world) write(ctx context.Context, base string, r request) answer {
	account := w.ledger.of(r.by.id)
	account.writing.Lock()
	defer account.writing.Unlock()
	version, presence := account.sends(r.presence, r.change, time.Now())
	r.presence = presence
	w.recording.note(base, r, statusOf(version, r.by.id))
	text, err := json.Marshal(map[string]string{"presence": presence, "status_msg": statusOf(version, r.by.id)})
	if err != nil {
		return answer{body: []byte(err.Error())}
	}
	a := w.do(ctx, http.MethodPut, base+r.by.speak(statusPath(r.by.id)), r, text)
	if a.status == http.StatusOK {
		account.acks(version, r.by.token, a.end)
	}
	return a
}

// syncFilter leaves rooms out as far as a filter can: presence is what it is about.
var syncFilter = url.QueryEscape(`{"room":{"rooms":[],"timeline":{"limit":1},"state":{"lazy_load_members":true}}}`)

// sync is a /sync that doesn't wait, from where the last one ended.
func (w *world) sync(ctx context.Context, base string, r request) answer {
	query := "?timeout=0&filter=" + syncFilter + "&set_presence=" + r.presence
	if since := r.by.since.Load(); since != nil {
		query += "&since=" + url.QueryEscape(*since)
	}
	w.ledger.of(r.by.id).syncs(r.by.token, r.presence)
	a := w.do(ctx, http.MethodGet, base+"/_matrix/client/v3/sync"+query, r, nil)
	var next struct {
		Batch string `json:"next_batch"`
	}
	if a.status == http.StatusOK {
		if json.Unmarshal(a.body, &next) != nil || next.Batch == "" {
			return answer{body: a.body, begin: a.begin, end: a.end}
		}
		r.by.since.Store(&next.Batch)
	}
	return a
}

func (w *world) do(ctx context.Context, method, target string, r request, body []byte) (a answer) {
	a.begin = time.Now()
	defer func() { a.end = time.Now() }()
	var content io.Reader
	if body != nil {
		content = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, content)
	if err != nil {
		a.body = []byte(err.Error())
		return a
	}
	switch {
	case r.kind == preflight: // as a browser asks: without the token
		req.Header.Set("Origin", "https://app.example.com")
		req.Header.Set("Access-Control-Request-Method", http.MethodGet)
		req.Header.Set("Access-Control-Request-Headers", "authorization")
	case r.token != "":
		req.Header.Set("Authorization", "Bearer "+r.token)
	default:
		req.Header.Set("Authorization", "Bearer "+r.by.token)
	}
	if r.from != "" {
		req.Header.Set("X-Forwarded-For", r.from)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		a.body = []byte(strings.ReplaceAll(err.Error(), target, "…"))
		return a
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		a.body = []byte(err.Error())
		return a
	}
	a.status, a.header, a.body = resp.StatusCode, resp.Header, text
	return a
}
