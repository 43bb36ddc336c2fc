package integration_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// bodies are one of each class, and the state that Dendrite and Synapse set by it, "" where they
// answer 400.
var bodies = []struct{ name, body, dendrite, synapse string }{
	{"online", `{"presence":"online"}`, "online", "online"},
	{"unavailable", `{"presence":"unavailable","status_msg":"x"}`, "unavailable", "unavailable"},
	{"offline", `{"presence":"offline","status_msg":""}`, "offline", "offline"},
	{"an escaped key and value", `{"pr\u0065sence":"\u006fnline"}`, "online", "online"},
	{"an emoji as a pair", `{"presence":"online","status_msg":"\ud83d\ude00"}`, "online", "online"},

	{"other case", `{"presence":"OFFLINE"}`, "offline", ""},
	{"a key in another case", `{"Presence":"online"}`, "online", ""},
	{"a key in two cases", `{"presence":"online","Presence":"offline"}`, "offline", ""},
	{"a key in another case, not a string", `{"presence":"online","STATUS_MSG":1}`, "", ""},
	{"a long s", `{"pre` + "\u017f" + `ence":"online"}`, "online", ""},

	{"unknown", `{"presence":"asleep"}`, "", ""},
	{"empty", `{"presence":""}`, "", ""},
	{"busy", `{"presence":"busy"}`, "", ""},
	{"busy of MSC3026", `{"presence":"org.matrix.msc3026.busy"}`, "", ""},
	{"missing", `{"status_msg":"x"}`, "", ""},

	{"twice", `{"presence":"online","presence":"offline"}`, "offline", "offline"},
	{"twice, first unknown", `{"presence":"asleep","presence":"online"}`, "online", "online"},
	{"twice, last unknown", `{"presence":"online","presence":"asleep"}`, "", ""},
	{"twice, first a number", `{"presence":1,"presence":"online"}`, "", "online"},
	{"twice, last null", `{"presence":"online","presence":null}`, "online", ""},
	{"status twice, first a number", `{"presence":"online","status_msg":1,"status_msg":"x"}`, "", "online"},
	{"status twice, first null", `{"presence":"online","status_msg":null,"status_msg":"x"}`, "online", "online"},
	{"status twice, last null", `{"presence":"online","status_msg":"x","status_msg":null}`, "online", ""},

	// What doesn't count, and is valid JSON, Synapse has to read all the same.
	{"twice, first deep", `{"presence":` + strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + `,"presence":"online"}`, "", ""},
	{"twice, first of many digits", `{"presence":` + strings.Repeat("9", 5000) + `,"presence":"online"}`, "", ""},

	{"null", `{"presence":null}`, "", ""},
	{"a number", `{"presence":1}`, "", ""},
	{"an array", `{"presence":["online"]}`, "", ""},
	{"status null", `{"presence":"online","status_msg":null}`, "online", ""},
	{"status a number", `{"presence":"online","status_msg":1}`, "", ""},
	{"status an object", `{"presence":"online","status_msg":{}}`, "", ""},
	{"a further member", `{"presence":"online","currently_active":true}`, "online", ""},
	{"an array for the object", `["online","x"]`, "", ""},
	{"no Unicode", "{\"presence\":\"online\",\"status_msg\":\"\xff\"}", "", ""},
	{"no JSON", `{"presence":"online"`, "", ""},
}

// TestBodiesOfEachClass: what a homeserver takes and what it refuses a client hears through the
// sidecar too, within the budget and over it. Over it a body that would be refused got 200 once.
func TestBodiesOfEachClass(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		c := newCast(t, hs)
		for _, recognised := range []string{"auto", hs.Name} {
			within := site(t, "write_limit off\n\t\thomeserver "+recognised, hs.URL)
			over := site(t, "write_limit 1/30s burst 1\n\t\tover_limit coalesce\n\t\tcoalesce {\n\t\t\tmax_age 10m\n\t\t}\n\t\thomeserver "+recognised, hs.URL)
			if a := c.request(put(ofBob, "bob", online)).to(t, over.URL); a.status != http.StatusOK {
				t.Fatal(a)
			}
			for n, tt := range bodies {
				want := tt.dendrite
				if hs.Name == "synapse" {
					want = tt.synapse
				}
				t.Run(recognised+"/"+tt.name, func(t *testing.T) {
					for name, base := range map[string]string{"directly": hs.URL, "within the budget": within.URL} {
						// Something else before, so that an effect shows.
						before := stateWith(fmt.Sprint(recognised, n, name))
						if want == "offline" {
							before = `{"presence":"online","status_msg":"` + fmt.Sprint(recognised, n, name) + `"}`
						}
						c.request(put(ofAlice, "alice", before)).to(t, hs.URL)
						read := c.request(get(ofAlice, "alice"))
						suite.Eventually(t, "the state before shows", func() bool {
							return read.to(t, hs.URL).field("status_msg") == fmt.Sprint(recognised, n, name)
						})
						a := c.request(put(ofAlice, "alice", tt.body)).to(t, base)
						if want == "" {
							if a.status != http.StatusBadRequest {
								t.Errorf("%s: %s, want 400", name, a)
							}
							continue
						}
						if a.status != http.StatusOK {
							t.Errorf("%s: %s, want 200", name, a)
							continue
						}
						suite.Eventually(t, name+": the state shows", func() bool { return read.to(t, hs.URL).field("presence") == want })
					}
					a := c.request(put(ofBob, "bob", tt.body)).to(t, over.URL)
					switch a.status {
					case http.StatusOK:
						if want == "" {
							t.Errorf("over the budget: %s (%s)", a, a.cacheStatus())
						}
					case http.StatusTooManyRequests: // nothing was promised
						if recognised == hs.Name && want != "" {
							t.Errorf("over the budget: %s, but the homeserver surely takes it", a)
						}
					case http.StatusBadRequest:
						if want != "" {
							t.Errorf("over the budget: %s", a)
						}
					default:
						t.Errorf("over the budget: %s", a)
					}
				})
			}
		}
	})
}
