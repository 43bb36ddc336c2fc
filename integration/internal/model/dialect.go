package model

import (
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// Dialect is what a homeserver makes of requests about presence.
type Dialect struct {
	Name string

	presence *regexp.Regexp // of an escaped path; the user ID is its last group
	client   *regexp.Regexp // of the other routes of the client API; what follows the version is its last group

	hidden refusal        // a target whom the viewer may not see
	other  refusal        // a write to another's presence
	active *regexp.Regexp // matches what follows the version on other routes by which a user is active
	keeps  bool           // a write without status_msg keeps the one before

	// write returns the state that a body sets.
	write func(body []byte) (word string, ok bool)

	maxHead, maxFields int // of a request; above them the connection is dropped
}

type refusal struct {
	status  int
	errcode string
}

// Dialects are those that there are.
var Dialects = []*Dialect{
	{
		Name:     "synapse",
		presence: regexp.MustCompile(`^/_matrix/client/(api/v1|r0|v3|unstable)/presence/([^/]*)/status`),
		client:   regexp.MustCompile(`^/_matrix/client/(api/v1|r0|v3|unstable)/(.*)$`),
		active:   regexp.MustCompile(`^rooms/[^/]*/(send|typing|receipt|read_markers)(/|$)`),
		hidden:   refusal{403, "M_FORBIDDEN"}, other: refusal{403, "M_FORBIDDEN"},
		maxHead: 16 << 10, maxFields: 1 << 20,
		write: func(body []byte) (string, bool) {
			var given map[string]any
			if json.Unmarshal(body, &given) != nil {
				return "", false
			}
			for key, value := range given {
				if _, text := value.(string); key != "presence" && key != "status_msg" || !text {
					return "", false
				}
			}
			word, _ := given["presence"].(string)
			return word, word == "online" || word == "unavailable" || word == "offline"
		},
	},
	{
		Name:     "dendrite",
		presence: regexp.MustCompile(`^/_matrix/client/(r0|v3)/presence/([^/]+)/status$`),
		client:   regexp.MustCompile(`^/_matrix/client/(r0|v3)/(.*)$`),
		active:   regexp.MustCompile(`^$`),
		hidden:   refusal{403, "M_FORBIDDEN"}, other: refusal{403, "M_FORBIDDEN"},
		keeps: true, maxHead: 1 << 20, maxFields: 1 << 20,
		write: func(body []byte) (string, bool) {
			var given struct {
				Presence string
				Status   *string `json:"status_msg"`
			}
			if json.Unmarshal(body, &given) != nil {
				return "", false
			}
			word := strings.ToLower(given.Presence)
			return word, word == "online" || word == "unavailable" || word == "offline"
		},
	},
	{
		Name:     "tuwunel",
		presence: regexp.MustCompile(`^/_matrix/client/(r0|v3)/presence/([^/]+)/status$`),
		client:   regexp.MustCompile(`^/_matrix/client/(r0|v3)/(.*)$`),
		active:   regexp.MustCompile(`^rooms/[^/]*/(typing|receipt|read_markers)(/|$)`),
		hidden:   refusal{404, "M_NOT_FOUND"}, other: refusal{400, "M_INVALID_PARAM"},
		maxHead: 1 << 20, maxFields: 100,
		write: func(body []byte) (string, bool) {
			var given struct {
				Presence *string `json:"presence"`
				Status   *string `json:"status_msg"`
			}
			if json.Unmarshal(body, &given) != nil || given.Presence == nil {
				return "", false
			}
			return known(*given.Presence), true
		},
	},
}

// Target returns whose presence a path is, as it is on the wire, if the homeserver serves it.
func (d *Dialect) Target(escapedPath string) (user string, ok bool) {
	match := d.presence.FindStringSubmatch(escapedPath)
	if match == nil {
		return "", false
	}
	user, err := url.PathUnescape(match[len(match)-1])
	return user, err == nil
}

// known is what tuwunel takes a word for: offline, unless it knows it.
func known(word string) string {
	switch word {
	case "online", "unavailable", "busy":
		return word
	}
	return "offline"
}

// refuses tells that the homeserver drops a request for its head before it reads it.
func (d *Dialect) refuses(r *http.Request) bool {
	fields, size := 1, len(r.RequestURI)+20
	for name, values := range r.Header {
		for _, value := range values {
			fields++
			size += len(name) + len(value) + 4
		}
	}
	return size > d.maxHead || fields > d.maxFields
}
