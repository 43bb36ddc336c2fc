package integration_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/protocol"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

// row is one behaviour on the presence routes. Its path is a template for
// cast.path, and its tokens are the names of users.
type row struct {
	name string
	send request

	// What the homeservers answer; a body of "" is not compared.
	dendrite, synapse expected

	// own is the sidecar's answer where the design says that it answers by
	// itself. Everywhere else it must be the homeserver's.
	own own
}

type expected struct {
	status int
	body   string
}

type own struct {
	status  int
	errcode string
}

const (
	r0       = "/_matrix/client/r0/presence/{alice}/status"
	unstable = "/_matrix/client/unstable/presence/{alice}/status"
	apiV1    = "/_matrix/client/api/v1/presence/{alice}/status"
)

// What more than one row expects.
var (
	fishing        = expected{200, `{"presence":"offline","status_msg":"fishing"}`}                         // alice, says Synapse
	activeFishing  = expected{200, `{"presence":"offline","status_msg":"fishing","currently_active":true}`} // alice, says Dendrite
	unavailable    = expected{200, `{"presence":"unavailable"}`}                                            // who has no user ID, says Dendrite
	taken          = expected{200, `{}`}                                                                    // a write
	unrouted       = expected{404, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`}           // both
	notVisible     = expected{403, `{"errcode":"M_FORBIDDEN","error":"You are not allowed to see their presence."}`}
	notAUser       = expected{400, `{"errcode":"M_INVALID_PARAM","error":"Expected UserID string to start with '@'"}`}
	dendriteOthers = expected{403, `{"errcode":"M_FORBIDDEN","error":"Unable to set presence for other user."}`}
	synapseOthers  = expected{403, `{"errcode":"M_FORBIDDEN","error":"Can only set your own presence state"}`}
	dendriteNone   = expected{401, `{"errcode":"M_MISSING_TOKEN","error":"missing access token"}`}
	synapseNone    = expected{401, `{"errcode":"M_MISSING_TOKEN","error":"Missing access token"}`}
	dendriteBad    = expected{401, `{"errcode":"M_UNKNOWN_TOKEN","error":"Unknown token"}`}
	synapseBad     = expected{401, `{"errcode":"M_UNKNOWN_TOKEN","error":"Invalid access token passed.","soft_logout":false}`}
	dendriteMixed  = expected{401, `{"errcode":"M_MISSING_TOKEN","error":"mixing Authorization headers and access_token query parameters"}`}
	synapseMixed   = expected{401, `{"errcode":"M_MISSING_TOKEN","error":"Mixing Authorization headers and access_token query parameters."}`}
	synapseTwo     = expected{401, `{"errcode":"M_MISSING_TOKEN","error":"Too many Authorization headers."}`}
	dendriteNotOK  = expected{400, ""} // its text is that of Go's JSON package
	noState        = expected{400, `{"errcode":"M_UNKNOWN","error":"Unable to parse state"}`}
	badState       = expected{400, `{"errcode":"M_UNKNOWN","error":"Invalid presence state"}`}
	badStatusMsg   = expected{400, `{"errcode":"M_UNKNOWN","error":"status_msg must be a string."}`}
	notJSON        = expected{400, `{"errcode":"M_NOT_JSON","error":"Content not JSON."}`}

	missing   = own{401, "M_MISSING_TOKEN"}
	forbidden = own{403, "M_FORBIDDEN"}
)

func get(path, as string) request { return request{method: http.MethodGet, path: path, token: as} }
func put(path, as, body string) request {
	return request{method: http.MethodPut, path: path, token: as, body: body}
}
func second(r request, as string) request { r.second = as; return r }

const online = `{"presence":"online"}`

var readRows = []row{
	{"of a user in a shared room", get(ofAlice, "bob"), activeFishing, fishing, own{}},
	{"of oneself", get(ofAlice, "alice"), activeFishing, fishing, own{}},
	{"of a user without a shared room", get(ofAlice, "stranger"), activeFishing, notVisible, own{}},
	{"of an unknown local user", get("/_matrix/client/v3/presence/%40nobody:hs.test/status", "bob"),
		expected{200, `{"presence":"","status_msg":"","currently_active":false}`}, notVisible, own{}},
	{"of what is no user ID", get("/_matrix/client/v3/presence/nobody/status", "bob"), unavailable, notAUser, own{}},

	{"without a token", get(ofAlice, ""), dendriteNone, synapseNone, missing},
	{"with a bad token", get(ofAlice, "nonsense"), dendriteBad, synapseBad, own{}},
	{"with a bad token again", get(ofAlice, "nonsense"), dendriteBad, synapseBad, own{}},
	{"with a query token", get(ofAlice+"?access_token={bob.token}", ""), activeFishing, fishing, own{}},
	{"with a bad query token", get(ofAlice+"?access_token=nonsense", ""), dendriteBad, synapseBad, own{}},
	{"with a header and a query token", get(ofAlice+"?access_token={bob.token}", "bob"), dendriteMixed, synapseMixed, own{}},
	{"with two Authorization headers", second(get(ofAlice, "bob"), "nonsense"), activeFishing, synapseTwo, own{}},
	{"with two Authorization headers, the bad one first", second(get(ofAlice, "nonsense"), "bob"), dendriteBad, synapseTwo, own{}},

	{"by r0", get(r0, "bob"), activeFishing, fishing, own{}},
	{"by unstable", get(unstable, "bob"), unrouted, fishing, own{}},
	{"by api v1", get(apiV1, "bob"), unrouted, fishing, own{}},
	{"by v1", get("/_matrix/client/v1/presence/{alice}/status", "bob"), unrouted, unrouted, own{}},

	{"with a double slash in front", get("/"+ofAlice, "bob"), unrouted, unrouted, own{}},
	{"with a double slash within", get("/_matrix/client/v3//presence/{alice}/status", "bob"), unrouted, unrouted, own{}},
	{"with a slash at the end", get(ofAlice+"/", "bob"), unrouted, unrouted, own{}},
	{"with a longer last word", get(ofAlice+"foo", "bob"), unrouted, unrouted, own{}},
	{"with a path parameter", get(ofAlice+";x=1", "bob"), unrouted, unrouted, own{}},
	{"in upper case", get("/_matrix/client/v3/PRESENCE/{alice}/status", "bob"), unrouted, unrouted, own{}},
	{"with an escaped letter in presence", get("/_matrix/client/v3/%70resence/{alice}/status", "bob"), unrouted, unrouted, own{}},
	{"with an escaped letter in status", get("/_matrix/client/v3/presence/{alice}/%73tatus", "bob"), unrouted, unrouted, own{}},
	{"with a dot segment", get("/_matrix/client/v3/./presence/{alice}/status", "bob"), unrouted, unrouted, own{}},
	{"of the presence list", get("/_matrix/client/v3/presence/list/{alice}", "bob"), unrouted, unrouted, own{}},

	{"of a bare ID", get("/_matrix/client/v3/presence/{alice.bare}/status", "bob"), activeFishing, fishing, own{}},
	{"of an ID with its colon escaped", get("/_matrix/client/v3/presence/@{alice.local}%3Ahs.test/status", "bob"), activeFishing, fishing, own{}},
	{"of an ID with its colon escaped in lower case", get("/_matrix/client/v3/presence/@{alice.local}%3ahs.test/status", "bob"), activeFishing, fishing, own{}},
	{"of an ID with a letter escaped", get("/_matrix/client/v3/presence/%40%61{alice.local.tail}:hs.test/status", "bob"), activeFishing, fishing, own{}},
	{"of an ID escaped twice", get("/_matrix/client/v3/presence/%2540{alice.local}:hs.test/status", "bob"), unavailable, notAUser, own{}},

	{"by OPTIONS", request{method: http.MethodOptions, path: ofAlice}, expected{200, ""}, expected{204, ""}, own{}},
	{"by POST", request{method: http.MethodPost, path: ofAlice, token: "bob", body: online},
		expected{405, unrouted.body}, expected{405, unrouted.body}, own{}},
}

var writeRows = []row{
	{"of one's own", put(ofBob, "bob", online), taken, taken, own{}},
	{"of one's own with a status", put(ofBob, "bob", `{"presence":"unavailable","status_msg":"at lunch"}`), taken, taken, own{}},
	{"of another's", put(ofAlice, "bob", online), dendriteOthers, synapseOthers, forbidden},
	{"of another's by r0", put(r0, "bob", online), dendriteOthers, synapseOthers, forbidden},
	{"of another's by unstable", put(unstable, "bob", online), unrouted, synapseOthers, forbidden},
	{"of another's by api v1", put(apiV1, "bob", online), unrouted, synapseOthers, forbidden},
	{"of another's with a slash at the end", put(ofAlice+"/", "bob", online), unrouted, unrouted, forbidden},
	{"of another's, not JSON", put(ofAlice, "bob", "nonsense"), dendriteOthers, synapseOthers, forbidden},
	{"of one's own by r0", put(strings.Replace(ofBob, "v3", "r0", 1), "bob", online), taken, taken, own{}},
	{"of one's own by unstable", put(strings.Replace(ofBob, "v3", "unstable", 1), "bob", online), unrouted, taken, own{}},
	{"of one's own by api v1", put(strings.Replace(ofBob, "v3", "api/v1", 1), "bob", online), unrouted, taken, own{}},
	{"of one's own with a slash at the end", put(ofBob+"/", "bob", online), unrouted, unrouted, own{}},
	{"of one's own with a double slash", put("/"+ofBob, "bob", online), unrouted, unrouted, own{}},
	{"of a bare ID", put("/_matrix/client/v3/presence/{bob.bare}/status", "bob", online), taken, taken, own{}},
	{"of an ID escaped twice", put("/_matrix/client/v3/presence/%2540{bob.local}:hs.test/status", "bob", online), dendriteOthers, notAUser, forbidden},
	{"of what is no user ID", put("/_matrix/client/v3/presence/nobody/status", "bob", online), dendriteOthers, notAUser, forbidden},

	{"without a token", put(ofBob, "", online), dendriteNone, synapseNone, missing},
	{"with a bad token", put(ofBob, "nonsense", online), dendriteBad, synapseBad, own{}},
	{"with a query token", put(ofBob+"?access_token={bob.token}", "", online), taken, taken, own{}},
	{"with a header and a query token", put(ofBob+"?access_token={bob.token}", "bob", online), dendriteMixed, synapseMixed, missing},
	{"with two Authorization headers", second(put(ofBob, "bob", online), "nonsense"), taken, synapseTwo, missing},

	{"not JSON", put(ofBob, "bob", "nonsense"), dendriteNotOK, notJSON, own{400, "M_NOT_JSON"}},
	{"empty", put(ofBob, "bob", ""), dendriteNotOK, notJSON, own{400, "M_NOT_JSON"}},
	{"an array", put(ofBob, "bob", "[]"), dendriteNotOK,
		expected{400, `{"errcode":"M_BAD_JSON","error":"Content must be a JSON object."}`}, own{400, "M_BAD_JSON"}},
	{"an empty object", put(ofBob, "bob", "{}"), expected{400, `{"errcode":"M_UNKNOWN","error":"Unknown presence ''."}`},
		noState, own{400, "M_BAD_JSON"}},
	{"a bad presence", put(ofBob, "bob", `{"presence":"asleep"}`), expected{400, `{"errcode":"M_UNKNOWN","error":"Unknown presence 'asleep'."}`},
		badState, own{400, "M_BAD_JSON"}},
	{"busy, which neither knows", put(ofBob, "bob", `{"presence":"busy"}`), expected{400, `{"errcode":"M_UNKNOWN","error":"Unknown presence 'busy'."}`},
		badState, own{}},
	{"a presence in upper case", put(ofBob, "bob", `{"presence":"ONLINE"}`), taken, badState, own{}},
	{"a key in upper case", put(ofBob, "bob", `{"Presence":"online"}`), taken, noState, own{}},
	{"an extra key", put(ofBob, "bob", `{"presence":"online","mood":"good"}`), taken, noState, own{}},
	{"a status of null", put(ofBob, "bob", `{"presence":"online","status_msg":null}`), taken, badStatusMsg, own{}},
	{"a status that is a number", put(ofBob, "bob", `{"presence":"online","status_msg":1}`), dendriteNotOK, badStatusMsg, own{}},
	{"a status that is an object", put(ofBob, "bob", `{"presence":"online","status_msg":{}}`), dendriteNotOK, badStatusMsg, own{}},
	// Not bob: on Synapse, all who read it would get the megabyte.
	{"a status of a megabyte", put("/_matrix/client/v3/presence/{stranger}/status", "stranger",
		`{"presence":"online","status_msg":"`+strings.Repeat("x", 1<<20)+`"}`), expected{500, `{"Err":""}`}, taken, own{413, "M_TOO_LARGE"}},
}

// TestPresenceRoutes is the table of what the homeservers do on the presence
// routes, and that a client sees the same through the sidecar.
func TestPresenceRoutes(t *testing.T) {
	eachProtocol(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver, p protocol.Protocol) {
		c := newCast(t, hs)
		c.settle(t, "fishing")
		s := siteOver(t, p, hs.URL, unlimitedSite...)
		t.Run("read", func(t *testing.T) { runRows(t, c, s, readRows) })
		t.Run("write", func(t *testing.T) { runRows(t, c, s, writeRows) })
	})
}

// runRows sends each row to the homeserver, then through the sidecar.
func runRows(t *testing.T, c *cast, s *sidecar.Sidecar, rows []row) {
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			send := c.request(row.send)
			want := row.dendrite
			if c.hs.Name == "synapse" {
				want = row.synapse
			}
			direct := send.to(t, c.hs.URL)
			if direct.status != want.status || want.body != "" && !direct.is(want.status, want.body) {
				t.Errorf("by the homeserver: %s, want %d %s", direct, want.status, want.body)
			}
			through := send.to(t, s.URL)
			if row.own == (own{}) {
				expectSame(t, direct, through)
			} else {
				expectOwn(t, through, row.own.status, row.own.errcode)
			}
		})
	}
}

// TestHeadIsServedAsGet: Synapse does so, and the sidecar does so in front of
// Dendrite too, which by itself answers 405.
func TestHeadIsServedAsGet(t *testing.T) {
	eachProtocol(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver, p protocol.Protocol) {
		c := newCast(t, hs)
		c.settle(t, "fishing")
		s := siteOver(t, p, hs.URL, unlimitedSite...)
		head := c.request(request{method: http.MethodHead, path: ofAlice, token: "bob"})

		direct := head.to(t, hs.URL)
		if want := map[string]int{"dendrite": 405, "synapse": 200}[hs.Name]; direct.status != want {
			t.Errorf("by the homeserver: %s, want %d", direct, want)
		}
		for range 2 { // not remembered, then remembered
			if a := head.to(t, s.URL); a.status != http.StatusOK || len(a.body) > 0 {
				t.Errorf("through the sidecar: %s, want 200 and no body", a)
			}
		}
	})
}
