package model

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// Dialect is what a homeserver makes of requests about presence.
type Dialect struct {
	Name string

	presence *regexp.Regexp // of an escaped path; the user ID is its last group
	client   *regexp.Regexp // of the other routes of the client API; what follows the version is its last group

	hidden refusal // a target whom the viewer may not see
	other  refusal // a write to another's presence
	merges bool    // shows the highest state of a user's devices; else what came last
	keeps  bool    // a write without status_msg keeps the one before

	syncTimeout time.Duration // after which a device that doesn't sync is offline

	// write and sync return the state that a word sets: "" with ok is none.
	write func(body []byte) (word string, ok bool)
	sync  func(word string, given bool) (state string, ok bool)

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
		hidden:   refusal{403, "M_FORBIDDEN"}, other: refusal{403, "M_FORBIDDEN"},
		merges: true, syncTimeout: 30 * time.Second, maxHead: 16 << 10, maxFields: 1 << 20,
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
		sync: func(word string, given bool) (string, bool) {
			switch {
			case !given, word == "online":
				return "online", true
			case word == "unavailable":
				return word, true
			}
			return "", word == "offline"
		},
	},
	{
		Name:     "dendrite",
		presence: regexp.MustCompile(`^/_matrix/client/(r0|v3)/presence/([^/]+)/status$`),
		client:   regexp.MustCompile(`^/_matrix/client/(r0|v3)/(.*)$`),
		hidden:   refusal{403, "M_FORBIDDEN"}, other: refusal{403, "M_FORBIDDEN"},
		keeps: true, syncTimeout: 5 * time.Minute, maxHead: 1 << 20, maxFields: 1 << 20,
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
		sync: func(word string, given bool) (string, bool) {
			if !given || word == "" {
				return "online", true
			}
			switch word = strings.ToLower(word); word {
			case "online", "unavailable", "offline":
				return word, true
			}
			return "", true
		},
	},
	{
		Name:     "tuwunel",
		presence: regexp.MustCompile(`^/_matrix/client/(r0|v3)/presence/([^/]+)/status$`),
		client:   regexp.MustCompile(`^/_matrix/client/(r0|v3)/(.*)$`),
		hidden:   refusal{404, "M_NOT_FOUND"}, other: refusal{400, "M_INVALID_PARAM"},
		merges: true, syncTimeout: 5 * time.Minute, maxHead: 1 << 20, maxFields: 100,
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
		sync: func(word string, given bool) (string, bool) {
			if !given {
				return "online", true
			}
			return known(word), true
		},
	},
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

var ranks = map[string]int{"": 0, "offline": 1, "unavailable": 2, "online": 3, "busy": 4}
