package world_test

import (
	"fmt"
	"net/http"
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
	ahead   time.Duration // the homeserver's clock is
	gzip    bool          // the homeserver compresses
	site    site
	steps   []step
}

// step is something that happens at a moment. One of the fields after it is set.
type step struct {
	at     time.Duration // since the world began; no two steps have the same
	values []string      // that made it, if it is no call

	call    *call
	behind  *behind
	mood    *mood
	machine *machine
	reload  *site
}

// call is a request of somebody.
type call struct {
	who      *actor
	values   []string // that made it, as axis=value
	device   string
	token    string // that it has; see shows
	user     string // on whose behalf it is shown
	as       string // the user that an appservice acts for
	target   string // of a presence
	method   string
	path     string            // escaped
	form     *strings.Replacer // what is odd about the path of a presence
	query    []string
	fields   [][2]string
	body     string
	patience time.Duration // after which the client leaves; 0: never

	protocol      bubble.Protocol
	presence      bool // asks for a presence, or writes one
	syncs         bool
	unknownLength bool // a body of which the length isn't announced
	zeroLength    bool // the length of no body is announced
	slow          bool // the second half of the body comes later
	trailers      bool // come after the body
	cutOff        bool // the body ends early
	stuck         bool // its body never comes
	http1         bool // its header fields aren't for HTTP/2
	hopByHop      bool // its Authorization is for Caddy only, which is to send it no further
	expects       bool // asks whether to send a body
	elsewhere     bool // asks by another name of the site
	staging       bool // goes to the staging site, if there is one
	again         bool // is sent once more after the Retry-After of a 429
}

func (c *call) field(name, value string) { c.fields = append(c.fields, [2]string{name, value}) }
func (c *call) ask(parameter string)     { c.query = append(c.query, parameter) }

// shows returns the access token that a homeserver would take from the request as the client sends
// it, and the user_id.
func (c *call) shows(d *model.Dialect) (token, as string) {
	header := make(http.Header)
	for _, field := range c.fields {
		header.Add(field[0], field[1])
	}
	query, _ := url.ParseQuery(strings.Join(c.query, "&"))
	return d.Token(header["Authorization"], query), query.Get("user_id")
}

// sends returns the token that comes to the homeserver.
func (c *call) sends(d *model.Dialect) (token string) {
	if !c.hopByHop {
		token, _ = c.shows(d)
		return token
	}
	bare := *c
	bare.fields = slices.DeleteFunc(slices.Clone(c.fields), func(field [2]string) bool { return field[0] == "Authorization" })
	token, _ = bare.shows(d)
	return token
}

// tokens are all that the request has, whichever of them a homeserver takes.
func (c *call) tokens() (all []string) {
	for _, field := range c.fields {
		if field[0] == "Authorization" {
			_, token, _ := strings.Cut(field[1], " ")
			all = append(all, strings.TrimSpace(token))
		}
	}
	query, _ := url.ParseQuery(strings.Join(c.query, "&"))
	return append(all, query["access_token"]...)
}

// behind is a change of the homeserver's that doesn't come through Caddy.
type behind struct {
	name   string
	whom   *actor
	device string
	do     func(hs *model.Homeserver)
}

// mood is how the homeserver treats requests from now on.
type mood struct {
	name                    string
	whoami, presence, other model.Conduct
}

// machine is what happens to where Caddy runs.
type machine struct {
	name     string
	restarts bool          // Caddy
	leap     time.Duration // of the wall clock: above a ttl, the machine was suspended
}

// draw draws a plan.
func draw(t *rapid.T, seen *coverage) *plan {
	drawing.begin()
	p := &plan{site: newSite()}
	about := choose(t, seen, dialectAxis, p, nil)
	about = choose(t, seen, waysAxis, p, about)
	for _, axis := range []axis[*site]{profileAxis, handlersAxis, sitesAxis, shapeAxis, upstreamAxis, doorAxis} {
		about = choose(t, seen, axis, &p.site, about)
	}
	p.site.names = about[1:]
	if p.site.staging && p.site.host != "example.com" {
		p.site.staging = false // one host could be either homeserver's
	}

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
	for range number(t, "steps", 1, 40) {
		drawing.cut()
		pause := pick(t, "pause", pauses...)
		for i, s := range drawSteps(t, seen, p, about) {
			if i == 0 {
				s.at = pause
			}
			if s.machine != nil && s.machine.restarts {
				s.at = 3 * time.Minute // when all are done, which takes longer directly
			}
			p.steps = append(p.steps, s)
		}
	}
	// Pauses become moments, no two of them the same.
	at := time.Duration(0)
	for i := range p.steps {
		at += p.steps[i].at + time.Millisecond
		p.steps[i].at = at
	}
	return p
}

// pauses lie at and around the ends of what lasts for some time.
var pauses = []time.Duration{
	0, 0, 0, 0, 0, 5 * time.Millisecond, 100 * time.Millisecond, 300 * time.Millisecond, 999 * time.Millisecond, 1500 * time.Millisecond,
	6 * time.Second, 9990 * time.Millisecond, 19990 * time.Millisecond, 25 * time.Second, 29990 * time.Millisecond, 31 * time.Second, 61 * time.Second,
	119990 * time.Millisecond, 130 * time.Second, 301 * time.Second,
}

// drawSteps draws what happens next.
func drawSteps(t *rapid.T, seen *coverage, p *plan, about []string) []step {
	switch pick(t, "step", "call", "call", "call", "call", "call", "call", "call", "hostile", "hostile", "hostile", "again", "again", "behind", "behind", "mood", "reload", "crowd", "machine", "overload") {
	case "hostile":
		return []step{{call: drawHostile(t, seen, about)}}
	case "again": // what somebody else did, or the same once more
		before := calls(p.steps)
		again := *before[number(t, "which", 0, len(before)-1)]
		return []step{{call: &again}}
	case "behind":
		b := &behind{whom: pick(t, "whom", actors...)}
		b.device = pick(t, "device", b.whom.devices...)
		values := choose(t, seen, behindAxis, b, about)
		b.name = values[len(values)-1] + " of " + b.whom.name + "'s " + b.device
		return []step{{behind: b, values: values}}
	case "mood":
		return []step{drawMood(t, seen, moodAxis, about)}
	case "machine":
		m := new(machine)
		values := choose(t, seen, machineAxis, m, about)
		m.name = values[len(values)-1]
		if m.leap >= hour {
			return drawSuspend(t, seen, p, m, values)
		}
		return []step{{machine: m, values: values}}
	case "reload":
		s := drawReload(t, seen, &p.site)
		return []step{{reload: s, values: append(slices.Clone(about), s.names[1])}}
	case "crowd":
		return drawCrowd(t, about)
	case "overload":
		return drawOverload(t, seen, about)
	}
	return []step{{call: drawCall(t, seen, pick(t, "who", actors...), about)}}
}

// drawSuspend draws what shows whether it is noticed: the world goes on meanwhile, and somebody asks for
// the same as before.
func drawSuspend(t *rapid.T, seen *coverage, p *plan, m *machine, values []string) []step {
	reads := slices.DeleteFunc(calls(p.steps), func(c *call) bool { return !c.presence || c.method != http.MethodGet || c.who.hostile })
	read := *pick(t, "which", reads...)
	b := &behind{whom: read.who}
	if i := slices.IndexFunc(actors, func(a *actor) bool { return a.user == read.target }); i >= 0 && pick(t, "whom", "target", "reader") == "target" {
		b.whom = actors[i]
	}
	b.device = pick(t, "device", b.whom.devices...)
	changed := choose(t, seen, behindAxis, b, values)
	b.name = changed[len(changed)-1] + " of " + b.whom.name + "'s " + b.device
	before, after := read, read
	return []step{{call: &before}, {behind: b, values: changed}, {machine: m, values: values}, {call: &after}}
}

// drawReload draws a configuration of the same site with another profile, and other changes.
func drawReload(t *rapid.T, seen *coverage, before *site) *site {
	s := before.clone()
	s.directives, s.cache, s.identity, s.coalesce = nil, nil, nil, nil
	s.states, s.permissions, s.tokens = 0, 0, 0
	names := choose(t, seen, profileAxis, s, nil)
	s.names = append(choose(t, seen, reloadAxis, s, names), before.names...)
	return s
}

// drawCrowd draws many who do the same, one after the other.
func drawCrowd(t *rapid.T, about []string) (steps []step) {
	target, route := pick(t, "whose", actors...).user, pick(t, "crowd's route", named(routeAxis, "read", "write", "sync")...)
	if pick(t, "crowd", "neighbours", "ghosts") == "neighbours" {
		return neighboursDo(route, target, about)
	}
	bridge := actors[3]
	for _, ghost := range bridge.ghosts {
		steps = append(steps, oneOfMany(route, target, about, bridge, ghost, ghost))
	}
	return steps
}

// neighboursDo has all neighbours do the same.
func neighboursDo(route value[*call], target string, about []string) (steps []step) {
	for _, who := range neighbours {
		steps = append(steps, oneOfMany(route, target, about, who, who.user, ""))
	}
	return steps
}

// oneOfMany is a plain request of somebody in a crowd.
func oneOfMany(route value[*call], target string, about []string, who *actor, user, as string) step {
	c := &call{who: who, device: who.devices[0], user: user, as: as, token: tokenOf(who, who.devices[0]), target: target, protocol: bubble.HTTP1}
	c.values = append(slices.Clone(about), "route="+route.name)
	if route.set(c); c.method == "PUT" {
		c.target = user
		named(wordAxis, "online")[0].set(c)
	}
	credentialAxis.values[0].set(c)
	c.finish()
	return step{call: c}
}

// drawMood draws another mood of the homeserver.
func drawMood(t *rapid.T, seen *coverage, moods axis[*mood], about []string) step {
	m := new(mood)
	values := choose(t, seen, moods, m, about)
	m.name = values[len(values)-1]
	return step{mood: m, values: values}
}

// drawOverload draws what has presence give way where it may: a homeserver in trouble, and many who ask it, twice.
func drawOverload(t *rapid.T, seen *coverage, about []string) []step {
	troubles := moodAxis
	troubles.values = named(moodAxis, "all is slow", "slow whoami", "slow reads", "presence fails", "whoami fails", "down")
	trouble := drawMood(t, seen, troubles, about)
	read, target := routeAxis.values[0], pick(t, "whose", actors...).user
	again := neighboursDo(read, target, about)
	again[0].at = pick(t, "until again", 3*time.Second, 31*time.Second)
	return slices.Concat([]step{trouble}, neighboursDo(read, target, about), again)
}

func drawCall(t *rapid.T, seen *coverage, who *actor, about []string) *call {
	device := pick(t, "device", who.devices...)
	c := &call{who: who, device: device, user: who.user, token: tokenOf(who, device), target: pick(t, "whose", actors...).user, again: true}
	if len(who.ghosts) > 0 {
		if c.as = pick(t, "ghost", append([]string{""}, who.ghosts[:2]...)...); c.as != "" {
			c.user = c.as
		}
	} else if pick(t, "session", "first", "first", "second") == "second" {
		c.token = secondToken(who, device)
	}
	routes := routeAxis
	if pick(t, "what about", "presence", "presence", "anything") == "presence" {
		routes.values = named(routeAxis, "read", "write", "read by HEAD", "sync", "long poll")
	}
	c.values = choose(t, seen, routes, c, about)
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
		c.values = choose(t, seen, formAxis, c, c.values)
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
	if !c.stuck {
		c.values = choose(t, seen, bodyAxis, c, c.values)
	}
	if c.patience == 0 {
		c.patience = pick(t, "patience", 0, 0, 0, 0, 700*time.Millisecond)
	}
	c.finish()
}

// finish makes the path of a presence. What not all protocols can carry goes by HTTP/1.1, as a head
// of more than 16 KiB, which Caddy takes over no other, and who asks whether to send a body that isn't
// there: HTTP/3 doesn't say that it isn't, so it is taken for one. HTTP/1.0 has neither chunks nor trailers, so each
// body's length is announced: Caddy's request_body itself answers a large one that is announced, and
// not one that isn't. Who has to wait for a body's end to announce it can't begin before.
func (c *call) finish() {
	if c.presence {
		c.path = "/_matrix/client/v3/presence/" + url.PathEscape(c.target) + "/status"
		if c.form != nil {
			c.path = c.form.Replace(c.path)
		}
	}
	size := len(c.path) + len(strings.Join(c.query, "&"))
	for _, field := range c.fields {
		size += len(field[0]) + len(field[1]) + 32 // as HTTP/2 counts (RFC 9113, 6.5.2)
	}
	if c.staging && c.protocol != bubble.H2C {
		c.protocol = bubble.HTTP1
	}
	if c.http1 || size > 15<<10 {
		switch c.protocol {
		case bubble.H2C, bubble.HTTP2, bubble.Pipelined: // whose limit is larger than that of others
			c.protocol = bubble.HTTP1
		case bubble.HTTP3:
			if c.http1 || size > 60<<10 {
				c.protocol = bubble.HTTP1
			}
		}
	}
	if c.body == "" && (c.expects && c.protocol == bubble.HTTP3 || c.slow && c.protocol == bubble.HTTP10) {
		c.protocol = bubble.HTTP1
	}
	if c.protocol == bubble.HTTP10 {
		c.unknownLength, c.trailers = false, false
	}
	if c.cutOff || c.zeroLength {
		c.protocol = bubble.Raw
	}
}

func calls(steps []step) (calls []*call) {
	for _, s := range steps {
		if s.call != nil {
			calls = append(calls, s.call)
		}
	}
	return calls
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
		return s.mood.name
	case s.machine != nil:
		return s.machine.name
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
	for _, odd := range []struct {
		what string
		is   bool
	}{
		{"no length", c.unknownLength}, {"length 0", c.zeroLength}, {"slow", c.slow}, {"trailers", c.trailers}, {"cut off", c.cutOff},
		{"stuck", c.stuck}, {"at another name", c.elsewhere}, {"at the staging site", c.staging},
	} {
		if odd.is {
			s += " (" + odd.what + ")"
		}
	}
	if c.patience > 0 {
		s += fmt.Sprintf(" (leaves after %v)", c.patience)
	}
	return s
}
