package leaks_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"unicode/utf8"
)

// dialect is how one kind of homeserver reads requests, and what it refuses. It is
// written after the homeservers, not after package policy.
type dialect struct {
	name string

	presence *regexp.Regexp // of an escaped path; the user ID is its last group
	account  *regexp.Regexp // of the other routes of the client API; what follows the version is its last group

	unescape   func(segment string) (string, bool)
	parameters func(rawQuery string) parameters
	token      func(authorization []string, p parameters) (string, bool)

	head       bool // a HEAD is answered
	seesSelf   bool // also a user who is in no room
	hidden     refusal
	foreign    refusal // an appservice acts for somebody who isn't its user
	deviceless bool    // device_id means nothing
}

// refusal is an answer to who may not do what was asked.
type refusal struct {
	status  int
	errcode string
}

var (
	missingToken  = refusal{401, "M_MISSING_TOKEN"}
	unknownToken  = refusal{401, "M_UNKNOWN_TOKEN"}
	lockedUser    = refusal{401, "M_USER_LOCKED"}
	unknownDevice = refusal{400, "ORG.MATRIX.MSC4326.M_UNKNOWN_DEVICE"}
	unrecognized  = refusal{404, "M_UNRECOGNIZED"}
)

var dialects = []*dialect{
	{
		name:       "synapse",
		presence:   regexp.MustCompile(`^/_matrix/client/(api/v1|r0|v3|unstable)/presence/([^/]*)/status`),
		account:    regexp.MustCompile(`^/_matrix/client/(api/v1|r0|v3|unstable)/(.*)$`),
		unescape:   unquote,
		parameters: twistedQuery,
		token:      synapseToken,
		head:       true,
		seesSelf:   true,
		hidden:     refusal{403, "M_FORBIDDEN"},
		foreign:    refusal{403, "M_FORBIDDEN"},
	},
	{
		name:       "dendrite",
		presence:   regexp.MustCompile(`^/_matrix/client/(r0|v3)/presence/([^/]+)/status$`),
		account:    regexp.MustCompile(`^/_matrix/client/(r0|v3)/(.*)$`),
		unescape:   pathUnescape,
		parameters: goQuery,
		token:      dendriteToken,
		seesSelf:   true,
		hidden:     refusal{403, "M_FORBIDDEN"},
		foreign:    refusal{403, "M_FORBIDDEN"},
		deviceless: true,
	},
	{
		name:       "tuwunel",
		presence:   regexp.MustCompile(`^/_matrix/client/(r0|v3)/presence/([^/]+)/status$`),
		account:    regexp.MustCompile(`^/_matrix/client/(r0|v3)/(.*)$`),
		unescape:   pathUnescape,
		parameters: lastOfQuery,
		token:      tuwunelToken,
		head:       true,
		hidden:     refusal{404, "M_NOT_FOUND"},
		foreign:    refusal{400, "M_EXCLUSIVE"},
	},
}

// reading is what a homeserver takes a request for.
type reading struct {
	target string // of a presence request
	of     intent
	path   string   // what is left of the path of an account's route
	shown  shown    // the credential
	bad    *refusal // of the credential, before any look at the accounts
}

type intent int

const (
	ofNothing intent = iota
	ofPresence
	ofAccount
	ofAdmin
)

// shown is a credential as a homeserver reads it.
type shown struct{ token, user, device string }

// read reads a request. Its method is left to the caller.
func (d *dialect) read(r *http.Request) reading {
	var in reading
	path := r.URL.EscapedPath()
	p := d.parameters(r.URL.RawQuery)
	token, ok := d.token(r.Header["Authorization"], p)
	if !ok {
		in.bad = &missingToken
	}
	in.shown = shown{token: token, user: p["user_id"], device: p["device_id"]}
	if in.shown.device == "" {
		in.shown.device = p["org.matrix.msc3202.device_id"]
	}

	if match := d.presence.FindStringSubmatch(path); match != nil {
		if target, ok := d.unescape(match[len(match)-1]); ok {
			in.of, in.target = ofPresence, target
		}
		return in
	}
	if match := d.account.FindStringSubmatch(path); match != nil {
		in.of, in.path = ofAccount, match[len(match)-1]
		return in
	}
	if d.name != "tuwunel" && (strings.HasPrefix(path, "/_synapse/admin/") || strings.HasPrefix(path, "/_dendrite/admin/")) {
		in.of, in.path = ofAdmin, path
	}
	return in
}

// viewer returns whom the homeserver takes the credential for, in a world.
func (d *dialect) viewer(w *world, in *reading) (user string, no *refusal) {
	if in.bad != nil {
		return "", in.bad
	}
	s, ok := w.sessions[in.shown.token]
	if !ok {
		return "", &unknownToken
	}
	user = s.owner
	if s.appservice {
		if in.shown.user != "" {
			user = in.shown.user
		}
		if user != s.owner && !isBridged(user) || w.deactivated[user] {
			return "", &d.foreign
		}
		if in.shown.device != "" && !d.deviceless && !w.hasDevice(user, in.shown.device) {
			return "", &unknownDevice
		}
	}
	if w.locked[user] {
		return "", &lockedUser
	}
	return user, nil
}

func (d *dialect) maySee(w *world, viewer, target string) bool {
	return viewer == target && d.seesSelf || w.shareRoom(viewer, target)
}

// parameters are those of a query that a homeserver takes, one of each name.
type parameters map[string]string

// twistedQuery splits at ";" too, keeps bad escapes, and takes the first of a name.
func twistedQuery(rawQuery string) parameters {
	p := make(parameters)
	for pair := range strings.FieldsFuncSeq(rawQuery, func(c rune) bool { return c == '&' || c == ';' }) {
		name, value, ok := strings.Cut(strings.ReplaceAll(pair, "+", " "), "=")
		if !ok {
			continue
		}
		name, _ = unquote(name)
		if _, ok := p[name]; !ok {
			p[name], _ = unquote(value)
		}
	}
	return p
}

// goQuery is net/url's: it drops what has a ";" or a bad escape.
func goQuery(rawQuery string) parameters {
	values, _ := url.ParseQuery(rawQuery)
	p := make(parameters)
	for name := range values {
		p[name] = values.Get(name)
	}
	return p
}

// lastOfQuery takes the last of a name.
func lastOfQuery(rawQuery string) parameters {
	values, _ := url.ParseQuery(rawQuery)
	p := make(parameters)
	for name, all := range values {
		p[name] = all[len(all)-1]
	}
	return p
}

func synapseToken(authorization []string, p parameters) (string, bool) {
	token, inQuery := p["access_token"]
	switch {
	case len(authorization) == 0:
		return token, inQuery
	case inQuery || len(authorization) > 1:
		return "", false
	}
	parts := strings.Split(authorization[0], " ")
	if len(parts) != 2 || parts[0] != "Bearer" {
		return "", false
	}
	return parts[1], true
}

func dendriteToken(authorization []string, p parameters) (string, bool) {
	first := ""
	if len(authorization) > 0 {
		first = authorization[0]
	}
	token := p["access_token"]
	switch {
	case first != "" && token != "":
		return "", false
	case first == "":
		return token, token != ""
	}
	scheme, token, ok := strings.Cut(first, " ")
	return token, ok && scheme == "Bearer"
}

func tuwunelToken(authorization []string, p parameters) (string, bool) {
	if len(authorization) > 0 {
		if scheme, token, ok := strings.Cut(authorization[0], " "); ok && strings.EqualFold(scheme, "Bearer") {
			return strings.TrimLeft(token, " "), true
		}
	}
	token, ok := p["access_token"]
	return token, ok
}

// unquote decodes as Python does: a bad escape stays, and what is no UTF-8 is replaced.
func unquote(s string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if decoded, err := url.PathUnescape(s[i : i+3]); err == nil {
				b.WriteString(decoded)
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return strings.ToValidUTF8(b.String(), string(utf8.RuneError)), true
}

func pathUnescape(s string) (string, bool) {
	decoded, err := url.PathUnescape(s)
	return decoded, err == nil
}
