package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
)

// act is one request of the scene.
type act struct {
	says   string // who does what
	method string
	target homeserver.User
	token  string
	status string // the status_msg of a write
	// until polls until the status_msg shows: Dendrite applies a write after it
	// has acknowledged it.
	until string
}

// outcome is what came of an act.
type outcome struct {
	code  int
	body  map[string]any
	cache string // the Cache-Status header
	took  time.Duration
	reads int // how many it took to see what an act waits for
}

// play plays the scene and prints a line an act.
func play(ctx context.Context, p *printer, s *stage, base string) error {
	read := act{says: "bob reads alice", method: http.MethodGet, target: s.alice, token: s.bob.AccessToken}
	again, shows := read, read
	again.says = "bob reads alice again"
	shows.says, shows.until = "bob reads alice's new state", "gone for lunch"
	write := act{method: http.MethodPut, target: s.alice, token: s.alice.AccessToken}
	writes := func(says, status string) act {
		a := write
		a.says, a.status = says, status
		return a
	}

	p.header()
	for _, a := range []act{
		read,
		again,
		writes("alice writes", "gone for lunch"),
		shows,
		{says: "the stranger writes alice", method: http.MethodPut, target: s.alice, token: s.stranger.AccessToken, status: "hacked"},
		writes("alice writes again", "soup"),
		writes("alice writes again", "salad"),
		writes("alice writes once more", "cake"),
		{says: "a wrong token reads alice", method: http.MethodGet, target: s.alice, token: "nobodys-token"},
	} {
		o, err := a.do(ctx, base)
		if err != nil {
			return fmt.Errorf("playing %q: %w", a.says, err)
		}
		p.row(a, o)
	}
	return nil
}

// do sends the request, once or until it shows what the act waits for. What
// never shows is printed as it is: the homeserver may have refused the write.
func (a act) do(ctx context.Context, base string) (outcome, error) {
	giveUp := time.Now().Add(30 * time.Second)
	for reads := 1; ; reads++ {
		o, err := a.send(ctx, base)
		o.reads = reads
		if err != nil || a.until == "" || o.body["status_msg"] == a.until || time.Now().After(giveUp) {
			return o, err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return o, ctx.Err()
		}
	}
}

func (a act) send(ctx context.Context, base string) (outcome, error) {
	var body io.Reader
	if a.method == http.MethodPut {
		body = strings.NewReader(fmt.Sprintf(`{"presence":"online","status_msg":%q}`, a.status))
	}
	req, err := http.NewRequestWithContext(ctx, a.method, base+presenceOf(a.target), body)
	if err != nil {
		return outcome{}, err
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	start := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return outcome{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	o := outcome{code: resp.StatusCode, cache: resp.Header.Get("Cache-Status"), took: time.Since(start)}
	if err != nil {
		return o, err
	}
	_ = json.Unmarshal(text, &o.body) // a body that is no JSON has no fields
	return o, nil
}

// answer is the outcome in words.
func (o outcome) answer() string {
	switch {
	case o.code == http.StatusTooManyRequests:
		ms, _ := o.body["retry_after_ms"].(float64)
		return fmt.Sprintf("%d, wait %.0f s", o.code, ms/1000)
	case o.code != http.StatusOK:
		return fmt.Sprintf("%d %v", o.code, o.body["errcode"])
	case o.body["presence"] == nil:
		return "200"
	case o.body["status_msg"] == nil:
		return fmt.Sprintf("200 %v", o.body["presence"])
	}
	return fmt.Sprintf("200 %v, %q", o.body["presence"], o.body["status_msg"])
}

// answered says who answered, which Cache-Status (RFC 9211) tells: its
// parameters are hit and ttl for an answer from memory, fwd with a reason for one
// that the homeserver was asked for. The sidecar's own answers have none.
func (o outcome) answered() string {
	if o.cache == "" {
		return "sidecar"
	}
	var ttl string
	for param := range strings.SplitSeq(o.cache, ";") {
		key, value, _ := strings.Cut(strings.TrimSpace(param), "=")
		switch key {
		case "fwd":
			return "homeserver (" + value + ")"
		case "ttl":
			ttl = ", for " + value + " s"
		}
	}
	return "sidecar, from memory" + ttl
}
