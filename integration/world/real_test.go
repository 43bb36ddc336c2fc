package world_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/bubble"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/model"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/wallclock"
)

var real = flag.Duration("real", 0, "for how long plans are played before each real homeserver")

// TestReal plays the same plans before a real Synapse and a real Dendrite, one request after the other, by
// the laws that hold in real time: others' requests pass, nobody is changed by whoever has no account, each
// protocol is answered alike, and what is answered from memory is what the homeserver says of
// the same bytes when it is asked directly. There are no moods, and nothing lasts long.
func TestReal(t *testing.T) {
	if *real == 0 {
		t.Skip("only with -real 5m, or another time")
	}
	certificate, key, err := bubble.Certificate(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, start := range map[string]func(context.Context, homeserver.Options) (*homeserver.Homeserver, error){
		"synapse": homeserver.StartSynapse, "dendrite": homeserver.StartDendrite,
	} {
		t.Run(name, func(t *testing.T) {
			hs, err := start(t.Context(), homeserver.Options{Progress: os.Stderr})
			if err != nil {
				t.Fatal(err)
			}
			defer hs.Stop()
			playAll(t, hs, [2]string{certificate, key})
		})
	}
}

// playAll draws plans for a homeserver until the time is over.
func playAll(t *testing.T, hs *homeserver.Homeserver, files [2]string) {
	dialect := model.Dialects[slices.IndexFunc(model.Dialects, func(d *model.Dialect) bool { return d.Name == hs.Name })]
	seen := newCoverage()
	began, requests, worlds := time.Now(), 0, 0
	for number := *from; time.Since(began) < *real; number++ {
		if err := flag.Set("rapid.seed", fmt.Sprint(number)); err != nil {
			t.Fatal(err)
		}
		var p *plan
		t.Run(fmt.Sprint(number), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				p = draw(rt, seen)
				p.dialect, p.gzip = dialect, false
				var runs []*run
				for _, v := range []variant{{direct: true}, {}, {peaceful: true}, {protocol: bubble.HTTP1}} {
					r := p.playReal(t.Context(), hs, files, v)
					requests += len(r.outcomes)
					runs = append(runs, r)
				}
				if wrong := judgeReal(p, runs[0], runs[1], runs[2], runs[3]); wrong != "" {
					law, details, _ := strings.Cut(wrong, ":")
					rt.Log(fmt.Sprintf("seed %d: %s:%s\nin\n%v", number, law, details, p))
					rt.Fatal(law)
				}
			})
		})
		seen.add(p)
		worlds++
	}
	t.Logf("%d worlds, %d requests", worlds, requests)
}

// playReal plays a plan before a real homeserver, for people of its own.
func (p *plan) playReal(ctx context.Context, hs *homeserver.Homeserver, files [2]string, v variant) *run {
	r := &run{began: time.Now()}
	to, err := populate(ctx, hs)
	if r.trouble = err; err != nil {
		return r
	}
	for _, address := range []string{"localhost:8008", "localhost:8018", socket, "localhost:8009"} {
		bubble.Behind(address, to)
	}
	bubble.Behind("localhost:8010", gatekeeper{})
	journal := new(bubble.Journal)
	current, leapt := &p.site, time.Duration(0)
	defer wallclock.Shift(0)
	defer func() {
		if err := bubble.Quit(); err != nil {
			r.trouble = cmp.Or(r.trouble, err)
		}
		r.tokens, r.panics = journal.Found()
	}()
	if r.trouble = bubble.Load(current.caddyfile(!v.direct, files[0], files[1]), journal); r.trouble != nil {
		return r
	}
	for i, s := range p.steps {
		switch {
		case s.reload != nil && s.reload.broken == "":
			current = s.reload
			r.trouble = bubble.Load(current.caddyfile(!v.direct, files[0], files[1]), journal)
		case s.machine != nil && s.machine.restarts:
			r.trouble = bubble.Restart(current.caddyfile(!v.direct, files[0], files[1]), journal)
		case s.machine != nil:
			leapt += s.machine.leap
			wallclock.Shift(leapt)
		case s.call != nil && !s.call.staging && !(v.peaceful && s.call.who.hostile) && playable(s.call):
			o := s.call.send(current, v.protocol)
			if o.step = i; !v.direct && o.fromMemory() {
				o.control = s.call.directly(to)
			}
			r.outcomes = append(r.outcomes, o)
		}
		if r.trouble != nil {
			return r
		}
	}
	return r
}

// playable tells of calls of those who are there, and that take no time.
func playable(c *call) bool {
	return c.who.hostile || slices.Contains(actors, c.who) && !c.who.guest && !c.slow
}

// directly asks the homeserver directly for what a call asks for.
func (c *call) directly(to *population) *outcome {
	o := &outcome{call: c}
	r, err := c.request(&site{host: "example.com"}, bubble.HTTP1)
	if o.err = err; err != nil {
		return o
	}
	resp, err := to.RoundTrip(r)
	if o.err = err; err != nil {
		return o
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	o.status, o.header, o.body, o.err = resp.StatusCode, resp.Header, string(body), err
	return o
}

// judgeReal returns what is wrong with the runs of a plan before a real homeserver, or "".
func judgeReal(p *plan, direct, ours, peaceful, plain *run) string {
	for _, r := range []*run{direct, ours, peaceful, plain} {
		switch {
		case r.trouble != nil:
			return fmt.Sprintf("Caddy or the homeserver: %v", r.trouble)
		case len(r.tokens) > 0:
			return "a token is in the log: " + r.tokens[0]
		case len(r.panics) > 0 && len(direct.panics) == 0:
			return "a panic: " + r.panics[0]
		}
	}
	if unhealthy(direct) {
		return ""
	}
	refused := slices.ContainsFunc(direct.outcomes, func(o *outcome) bool {
		return o.status == 0 && !o.call.cutOff || o.status == http.StatusRequestHeaderFieldsTooLarge
	})
	for _, law := range []struct {
		what   string
		other  *run
		judges func(o *outcome) bool
	}{
		{"a request that isn't about presence gets another answer than without the module", direct, func(o *outcome) bool { return !o.call.presence }},
		{"somebody without an account changes another's answer", peaceful, func(o *outcome) bool { return !o.call.who.hostile }},
		{"a request is answered otherwise over HTTP/1.1", plain, func(*outcome) bool { return !refused }},
	} {
		others := make(map[int]*outcome)
		for _, o := range law.other.outcomes {
			others[o.step] = o
		}
		for _, o := range ours.outcomes {
			other := others[o.step]
			if o.call.patience > 0 || !law.judges(o) || o.givesWay() || other != nil && other.givesWay() {
				continue
			}
			if other == nil || said(o) != said(other) {
				return fmt.Sprintf("%s:\n%v\nand\n%v", law.what, o, other)
			}
		}
	}
	return remembersRight(p, ours)
}

// remembersRight: what is answered from memory is what the homeserver says directly to the same bytes, or what
// was last seen, unless its user has written since.
func remembersRight(p *plan, ours *run) string {
	seen := make(map[string][]model.State) // by target
	for _, o := range ours.outcomes {
		target := o.call.target
		if acknowledges(o, target) {
			seen[target] = nil
		}
		state, shows := o.shown()
		if o.control == nil {
			if shows && o.call.presence {
				seen[target] = append(seen[target], state)
			}
			continue
		}
		now, _ := o.control.shown()
		if said(o) != said(o.control) || shows && state != now && !slices.Contains(seen[target], state) {
			return fmt.Sprintf("memory says what the homeserver doesn't:\n%v\nand directly\n%v\nbefore %v", o, o.control, seen[target])
		}
		seen[target] = append(seen[target], now)
	}
	return ""
}

// said is of an answer what doesn't change from one time to the next.
func said(o *outcome) string {
	var body struct{ Errcode string }
	_ = json.Unmarshal([]byte(o.body), &body) // if it is one
	return fmt.Sprint(o.status, " ", body.Errcode)
}

// population is a homeserver as a plan's people see it: they have names and tokens of the plan, and the
// homeserver others.
type population struct {
	url     string
	there   *strings.Replacer // from the plan's words to the homeserver's
	back    *strings.Replacer
	words   []string // pairs of both
	reverse []string
}

func (to *population) knows(ours, theirs string) {
	to.words, to.reverse = append(to.words, ours, theirs), append(to.reverse, theirs, ours)
	to.there, to.back = strings.NewReplacer(to.words...), strings.NewReplacer(to.reverse...)
}

var populations int

// populate makes the people of a plan at a homeserver, in a room.
func populate(ctx context.Context, hs *homeserver.Homeserver) (*population, error) {
	populations++
	to, client := &population{url: hs.URL}, hs.Client()
	to.knows(bubble.TokenMark+"-bridge-AS", homeserver.ASToken)
	room := ""
	for _, a := range actors {
		if len(a.ghosts) > 0 {
			for n, ghost := range a.ghosts[:2] {
				local := fmt.Sprintf("ghost_%d_%d", populations, n+1)
				if err := client.RegisterGhost(ctx, homeserver.ASToken, local); err != nil {
					return nil, err
				}
				to.person(ghost, hs.UserID(local))
			}
			to.person(a.user, hs.UserID("bridge"))
			continue
		}
		local := fmt.Sprintf("%s-%d", a.name, populations)
		register := client.Register
		if a.name == "admin" {
			register = client.RegisterAdmin
		}
		user, err := register(ctx, local, "a password")
		if err != nil {
			return nil, err
		}
		to.person(a.user, user.ID)
		for _, device := range a.devices {
			var session homeserver.User
			err := client.Do(ctx, http.MethodPost, "/_matrix/client/v3/login", "", map[string]any{
				"type": "m.login.password", "identifier": map[string]any{"type": "m.id.user", "user": user.ID}, "password": "a password", "device_id": device,
			}, &session)
			if err != nil {
				return nil, err
			}
			to.knows(tokenOf(a, device), session.AccessToken)
		}
		if room, err = enter(ctx, client, user, room); err != nil {
			return nil, err
		}
	}
	return to, nil
}

// person is somebody with two names. In paths they are escaped, in part or not.
func (to *population) person(ours, theirs string) {
	to.knows(ours, theirs)
	to.knows(strings.Replace(ours, ":", "%3A", 1), strings.Replace(theirs, ":", "%3A", 1))
	to.knows("%40"+strings.Replace(ours[1:], ":", "%3A", 1), "%40"+strings.Replace(theirs[1:], ":", "%3A", 1))
}

// enter has a user join a room, or make it.
func enter(ctx context.Context, client homeserver.Client, user homeserver.User, room string) (string, error) {
	if room != "" {
		return room, client.Do(ctx, http.MethodPost, "/_matrix/client/v3/join/"+strings.ReplaceAll(room, "!", "%21"), user.AccessToken, map[string]any{}, nil)
	}
	var made struct {
		RoomID string `json:"room_id"`
	}
	err := client.Do(ctx, http.MethodPost, "/_matrix/client/v3/createRoom", user.AccessToken, map[string]any{"preset": "public_chat"}, &made)
	return made.RoomID, err
}

// RoundTrip sends a request to the homeserver, in its words.
func (to *population) RoundTrip(r *http.Request) (*http.Response, error) {
	content := []byte(nil)
	if r.Body != nil {
		var err error
		if content, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
	}
	target := to.there.Replace(r.URL.RequestURI())
	target = strings.NewReplacer("timeout=30000", "timeout=50", "timeout=3000", "timeout=0").Replace(target)
	sent, err := http.NewRequestWithContext(r.Context(), r.Method, to.url+"/", bytes.NewReader([]byte(to.there.Replace(string(content)))))
	if err != nil {
		return nil, err
	}
	path, query, _ := strings.Cut(target, "?")
	sent.URL.Opaque, sent.URL.RawQuery = "//"+sent.URL.Host+path, query
	if len(content) == 0 {
		sent.Body, sent.ContentLength = http.NoBody, 0
	}
	for name, values := range r.Header {
		for _, value := range values {
			sent.Header.Add(name, to.there.Replace(value))
		}
	}
	resp, err := realTransport.RoundTrip(sent)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.Header.Get("Content-Encoding") == "" && r.Method != http.MethodHead {
		body = []byte(to.back.Replace(string(body)))
		resp.ContentLength = int64(len(body))
		resp.Header.Set("Content-Length", fmt.Sprint(len(body)))
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

var realTransport = &http.Transport{DisableCompression: true}
