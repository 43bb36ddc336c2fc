package world_test

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/bubble"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/model"
)

// plan is a world and what happens in it. It is data: the same plan runs more than once.
type plan struct {
	dialect *model.Dialect
	site    site
	steps   []step
}

// site is what a Caddyfile says.
type site struct {
	names      []string // of the values that made it
	directives []string // of matrix_presence
	cache      []string // of its cache block
	before     []string // directives that stand before it
	proxy      []string // of reverse_proxy
	handle     bool     // the site has handle blocks
	name       string   // the option of its cache block, or empty
	staging    bool     // there is another homeserver on port 8080

	busy, observe bool
	stale         time.Duration
}

// step is something that happens at a moment. One of the fields after it is set.
type step struct {
	at time.Duration // since the world began; no two steps have the same

	call   *call
	behind *behind
	mood   *mood
	reload *site
}

// call is a request of somebody.
type call struct {
	who      *actor
	values   []string // that made it, as axis=value
	device   string
	token    string
	user     string // on whose behalf it is shown
	as       string // the user that an appservice acts for
	target   string // of a presence
	method   string
	path     string // escaped
	query    []string
	fields   [][2]string
	body     string
	patience time.Duration // after which the client leaves; 0: never

	protocol      bubble.Protocol
	presence      bool // asks for a presence, or writes one
	syncs         bool
	unknownLength bool // a body of which the length isn't announced
	stuck         bool // its body never comes
	staging       bool // goes to the staging site, if there is one
	again         bool // is sent once more after the Retry-After of a 429
}

func (c *call) field(name, value string) { c.fields = append(c.fields, [2]string{name, value}) }
func (c *call) ask(parameter string)     { c.query = append(c.query, parameter) }

// behind is a change of the homeserver's that doesn't come through Caddy.
type behind struct {
	name string
	do   func(hs *model.Homeserver)
}

// mood is how the homeserver treats requests from now on.
type mood struct {
	whoami, presence, other model.Conduct
}

// actor is somebody who sends requests.
type actor struct {
	name    string
	user    string
	address net.IP
	devices []string
	hostile bool     // has no account
	ghosts  []string // users that an appservice acts for
}

const (
	stranger = "@stranger:example.com"
	aNAT     = "192.0.2.1"
)

// actors are those who are there. Some are behind one address.
var actors = []*actor{
	{name: "alice", user: "@alice:example.com", address: net.ParseIP(aNAT), devices: []string{"PHONE", "LAPTOP"}},
	{name: "bob", user: "@bob:example.com", address: net.ParseIP(aNAT), devices: []string{"PHONE"}},
	{name: "carol", user: "@carol:example.com", address: net.ParseIP("2001:db8::1"), devices: []string{"LAPTOP"}},
	{name: "bridge", user: "@bridge:example.com", address: net.ParseIP("10.0.0.5"), devices: []string{"AS"}, ghosts: []string{"@ghost_1:example.com", "@ghost_2:example.com"}},
	{name: "admin", user: "@admin:example.com", address: net.ParseIP("198.51.100.1"), devices: []string{"ADMIN"}},
}

// mallory has no account, and is behind the address of others.
var mallory = &actor{name: "mallory", user: "@mallory:example.com", address: net.ParseIP(aNAT), devices: []string{"NONE"}, hostile: true}

// tokenOf is the access token of a device, which is made anew when it logs in again.
func tokenOf(a *actor, device string) string { return bubble.TokenMark + "-" + a.name + "-" + device }

// secondToken is the one that it has then.
func secondToken(a *actor, device string) string { return tokenOf(a, device) + "-2" }

// found gives a homeserver its accounts.
func found(d *model.Dialect) *model.Homeserver {
	hs := model.New(d)
	hs.Change(func(now *model.Accounts) {
		for _, a := range actors {
			for _, device := range a.devices {
				now.Sessions[tokenOf(a, device)] = model.Session{User: a.user, Device: device, Admin: a.name == "admin", Appservice: len(a.ghosts) > 0}
			}
			for _, user := range append(a.ghosts, a.user) {
				now.Joined[model.Membership{Room: 0, User: user}] = true
			}
		}
		now.Joined[model.Membership{Room: 1, User: stranger}] = true
		now.Joined[model.Membership{Room: 0, User: "@x/y:example.com"}] = true
	})
	return hs
}

// founded is the homeserver of the staging site: whoever has no account at the other one is
// there who they like.
func founded(d *model.Dialect) *model.Homeserver {
	hs := model.New(d)
	hs.Change(func(now *model.Accounts) {
		for i, a := range actors {
			now.Sessions[fmt.Sprintf("%s-made-up-%d", bubble.TokenMark, i+1)] = model.Session{User: a.user, Device: "STAGING", Admin: true}
			now.Joined[model.Membership{Room: 0, User: a.user}] = true
		}
		now.Joined[model.Membership{Room: 0, User: stranger}] = true
	})
	return hs
}

// draw draws a plan.
func draw(t *rapid.T, seen *coverage) *plan {
	p := new(plan)
	about := choose(t, seen, dialectAxis, p, nil)
	about = choose(t, seen, profileAxis, &p.site, about)
	about = choose(t, seen, handlersAxis, &p.site, about)
	about = choose(t, seen, sitesAxis, &p.site, about)
	p.site.names = about[1:]

	// Everybody has been there before anything happens.
	for _, a := range actors {
		for _, device := range a.devices {
			c := &call{who: a, device: device, user: a.user, token: tokenOf(a, device), target: a.user, protocol: bubble.HTTP1}
			routeAxis.values[0].set(c)
			credentialAxis.values[0].set(c)
			c.finish()
			p.steps = append(p.steps, step{call: c})
		}
	}
	n := rapid.IntRange(1, 25).Draw(t, "steps")
	for range n {
		pause := pick(t, "pause", 0, 0, 0, 5*time.Millisecond, 300*time.Millisecond, 1500*time.Millisecond, 6*time.Second, 31*time.Second, 130*time.Second)
		var s step
		switch pick(t, "step", "call", "call", "call", "call", "call", "hostile", "hostile", "again", "behind", "mood", "reload") {
		case "call":
			s.call = drawCall(t, seen, pick(t, "who", actors...), about)
		case "hostile":
			s.call = drawHostile(t, seen, about)
		case "again": // what somebody else did, or the same once more
			if before := calls(p.steps); len(before) > 0 {
				again := *pick(t, "which", before...)
				s.call = &again
			}
		case "behind":
			s.behind = drawBehind(t)
		case "mood":
			s.mood = new(mood)
			choose(t, seen, moodAxis, s.mood, about)
		case "reload":
			s.reload = new(site)
			*s.reload = site{before: p.site.before, proxy: p.site.proxy, handle: p.site.handle, name: p.site.name, staging: p.site.staging, names: p.site.names[1:]}
			names := choose(t, seen, profileAxis, s.reload, nil)
			s.reload.names = append(names, s.reload.names...)
		}
		s.at = pause
		p.steps = append(p.steps, s)
	}
	// Pauses become moments, no two of them the same.
	at := time.Duration(0)
	for i := range p.steps {
		at += p.steps[i].at + time.Millisecond
		p.steps[i].at = at
	}
	return p
}

func drawCall(t *rapid.T, seen *coverage, who *actor, about []string) *call {
	device := pick(t, "device", who.devices...)
	c := &call{who: who, device: device, user: who.user, token: tokenOf(who, device), target: pick(t, "whose", actors...).user, again: true}
	if len(who.ghosts) > 0 {
		c.as = pick(t, "ghost", who.ghosts...)
		c.user = c.as
	} else if pick(t, "session", "first", "first", "second") == "second" {
		c.token = secondToken(who, device)
	}
	c.values = choose(t, seen, routeAxis, c, about)
	c.more(t, seen)
	return c
}

func drawHostile(t *rapid.T, seen *coverage, about []string) *call {
	c := &call{who: mallory, device: "NONE", user: mallory.user, target: pick(t, "whose", actors...).user}
	c.token = bubble.TokenMark + "-made-up-" + pick(t, "token", "1", "2", "3")
	c.values = choose(t, seen, hostileRoutes, c, about)
	c.more(t, seen)
	return c
}

// more draws what else there is of a request.
func (c *call) more(t *rapid.T, seen *coverage) {
	c.values = choose(t, seen, protocolAxis, c, c.values)
	if c.presence {
		c.values = choose(t, seen, targetAxis, c, c.values)
	}
	if c.method == "PUT" && c.presence {
		c.target = pick(t, "one's own", c.user, c.user, c.target)
		c.values = choose(t, seen, wordAxis, c, c.values)
	}
	if c.syncs {
		c.values = choose(t, seen, syncAxis, c, c.values)
	}
	if c.method != "OPTIONS" {
		c.values = choose(t, seen, credentialAxis, c, c.values)
	}
	c.values = choose(t, seen, headAxis, c, c.values)
	if c.body == "" && !c.stuck {
		c.values = choose(t, seen, bodyAxis, c, c.values)
	}
	if c.patience == 0 {
		c.patience = pick(t, "patience", 0, 0, 0, 0, 700*time.Millisecond)
	}
	c.finish()
}

// finish makes the path of a presence. A head of more than 16 KiB goes by a protocol over which
// Caddy takes it.
func (c *call) finish() {
	if c.presence {
		c.path = "/_matrix/client/v3/presence/" + url.PathEscape(c.target) + "/status"
	}
	size := len(c.path) + len(strings.Join(c.query, "&"))
	for _, field := range c.fields {
		size += len(field[0]) + len(field[1]) + 32 // as HTTP/2 counts (RFC 9113, 6.5.2)
	}
	if c.staging && c.protocol != bubble.H2C {
		c.protocol = bubble.HTTP1
	}
	if size > 15<<10 && (c.protocol == bubble.H2C || c.protocol == bubble.HTTP2) {
		c.protocol = bubble.HTTP1
	}
}

func drawBehind(t *rapid.T) *behind {
	a := pick(t, "whom", actors...)
	switch pick(t, "behind", "kick", "join", "log out", "lock", "unlock", "presence") {
	case "kick":
		return &behind{"kick " + a.name, func(hs *model.Homeserver) {
			hs.Change(func(now *model.Accounts) { delete(now.Joined, model.Membership{Room: 0, User: a.user}) })
		}}
	case "join":
		return &behind{a.name + " joins", func(hs *model.Homeserver) {
			hs.Change(func(now *model.Accounts) { now.Joined[model.Membership{Room: 0, User: a.user}] = true })
		}}
	case "log out":
		device := pick(t, "device", a.devices...)
		return &behind{a.name + "'s " + device + " is logged out", func(hs *model.Homeserver) {
			hs.Change(func(now *model.Accounts) { delete(now.Sessions, tokenOf(a, device)) })
		}}
	case "lock":
		return &behind{"lock " + a.name, func(hs *model.Homeserver) {
			hs.Change(func(now *model.Accounts) { now.Locked[a.user] = true })
		}}
	case "unlock":
		return &behind{"unlock " + a.name, func(hs *model.Homeserver) {
			hs.Change(func(now *model.Accounts) { delete(now.Locked, a.user) })
		}}
	}
	word := pick(t, "word", "online", "unavailable", "offline")
	return &behind{a.name + " is " + word, func(hs *model.Homeserver) { hs.Set(a.user, "ELSEWHERE", word, "elsewhere") }}
}

func calls(steps []step) (calls []*call) {
	for _, s := range steps {
		if s.call != nil {
			calls = append(calls, s.call)
		}
	}
	return calls
}

// pick draws one of some values. The first is the plainest, which a failure is reduced to.
func pick[T any](t *rapid.T, label string, values ...T) T {
	return rapid.SampledFrom(values).Draw(t, label)
}

// choose draws a value of an axis and applies it. Those that have not been seen beside the
// values so far come three times as often. It returns these with the new one.
func choose[T any](t *rapid.T, seen *coverage, from axis[T], to T, with []string) []string {
	var likely []int
	for i, v := range from.values {
		likely = append(likely, i)
		if seen.isNew(from.name+"="+v.name, with) {
			likely = append(likely, i, i)
		}
	}
	slices.SortStableFunc(likely, cmp.Compare)
	v := from.values[rapid.SampledFrom(likely).Draw(t, from.name)]
	v.set(to)
	return append(slices.Clone(with), from.name+"="+v.name)
}

// caddyfile returns the site, with matrix_presence in it or without.
func (s *site) caddyfile(with bool, certificate, key string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "{\n%s\nservers {\nprotocols h1 h2 h2c h3\n}\n}\n(site) {\nbind pipe/site\n%s\n", bubble.Options, bubble.Log)
	for _, directive := range s.before {
		b.WriteString(directive + "\n")
	}
	presence := "matrix_presence {\n" + strings.Join(s.directives, "\n") + "\n"
	presence += "cache {\n" + strings.Join(append([]string{s.name}, s.cache...), "\n") + "\n}\n"
	presence += "}\n"
	if with {
		b.WriteString(presence)
	}
	proxy := "reverse_proxy localhost:8008 {\ntransport model\n" + strings.Join(s.proxy, "\n") + "\n}\n"
	if s.handle {
		proxy = "handle /_matrix/* {\n" + proxy + "}\nhandle {\nrespond \"nothing here\" 200\n}\n"
	}
	b.WriteString(proxy + "}\nhttp://example.com {\nimport site\n}\nhttps://example.com {\nimport site\ntls " + certificate + " " + key + "\n}\n")
	if s.staging && with {
		b.WriteString("http://example.com:8080 {\nbind pipe/site\n" + strings.Replace(presence, "name world", "", 1) + "reverse_proxy localhost:8009 {\ntransport model\n}\n}\n")
	}
	return b.String()
}

func (p *plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s\n", p.dialect.Name, strings.Join(p.site.names, ", "))
	for i, s := range p.steps {
		fmt.Fprintf(&b, "%3d %v: %v\n", i, s.at, s)
	}
	return b.String()
}

func (s step) String() string {
	switch {
	case s.call != nil:
		return s.call.String()
	case s.behind != nil:
		return s.behind.name
	case s.mood != nil:
		return fmt.Sprintf("the homeserver becomes whoami %+v, presence %+v, other %+v", s.mood.whoami, s.mood.presence, s.mood.other)
	case s.reload != nil:
		return "reload: " + strings.Join(s.reload.names, ", ")
	}
	return "nothing"
}

func (c *call) String() string {
	s := fmt.Sprintf("%s by %s: %s %.100s %.100s", c.who.name, c.protocol, c.method, c.path, strings.Join(c.query, "&"))
	for i, field := range c.fields {
		if i == 4 {
			s += fmt.Sprintf(" … %d fields", len(c.fields))
			break
		}
		s += fmt.Sprintf(" [%s: %.60s]", field[0], field[1])
	}
	if c.body != "" {
		s += fmt.Sprintf(" %.80s", c.body)
	}
	if c.unknownLength {
		s += " (no length)"
	}
	if c.staging {
		s += " (at the staging site)"
	}
	if c.patience > 0 {
		s += fmt.Sprintf(" (leaves after %v)", c.patience)
	}
	return s
}
