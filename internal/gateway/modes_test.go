package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// modes are two gateways of the same configuration, each with a homeserver of its own: one
// observes, one enforces. Both get the same requests.
type modes struct {
	t                    testing.TB
	observing, enforcing *proxy
}

func newModes(t testing.TB, o options) *modes {
	t.Helper()
	o.Mode = "observe"
	observing := newProxy(t, &o)
	o.Mode = "enforce"
	m := &modes{t, observing, newProxy(t, &o)}
	m.down(false)
	return m
}

// do sends a request to both, and fails unless what one counts is what became of it at the other.
func (m *modes) do(newRequest func() *http.Request) (outcome string) {
	m.t.Helper()
	observed := m.observing.gains(&m.observing.memory.counters.observed, newRequest())
	enforced := m.enforcing.gains(&m.enforcing.memory.counters.outcomes, newRequest())
	if observed != enforced {
		r := newRequest()
		m.t.Errorf("%s %s %v: observed %s, enforced %s", r.Method, r.URL, r.Header["Authorization"], observed, enforced)
	}
	return enforced
}

// gains returns which outcome has been counted once more when a request is over.
func (p *proxy) gains(counts *[routeCount][outcomeCount]atomic.Uint64, r *http.Request) (words string) {
	var before [routeCount][outcomeCount]uint64
	for route := range counts {
		for o := range counts[route] {
			before[route][o] = counts[route][o].Load()
		}
	}
	p.Do(r)
	synctest.Wait() // some are judged when the client has its answer
	for route := range counts {
		for o := range counts[route] {
			if gained := counts[route][o].Load() - before[route][o]; gained > 0 {
				words += strings.Repeat(outcomes[o].name+" "+routeNames[route], int(gained))
			}
		}
	}
	return words
}

func (m *modes) get(token, target, query string) (outcome string) {
	m.t.Helper()
	return m.do(func() *http.Request { return request("GET", statusPath(target)+query, token, "") })
}

var errDown = errors.New("the homeserver is down")

// down has both homeservers fail, or not any more. Then they take no write that no homeserver takes,
// also if we pass it on.
func (m *modes) down(is bool) {
	for _, p := range []*proxy{m.observing, m.enforcing} {
		p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
			if is {
				return false, failed(http.StatusBadGateway, errDown)
			}
			return p.refusesWrite(w, r), nil
		})
	}
}

// refusesWrite answers a write of another's presence, or of two tokens, as Synapse does, and one whose
// body is none.
func (p *proxy) refusesWrite(w http.ResponseWriter, r *http.Request) bool {
	token, isHeader := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	query := r.URL.Query()
	if !isHeader {
		token = query.Get("access_token")
	}
	p.hs.Mu.Lock()
	userID := p.hs.Tokens[token]
	p.hs.Mu.Unlock()
	if r.Method != http.MethodPut || userID == "" {
		return false
	}
	body, _ := io.ReadAll(r.Body)
	switch {
	case isHeader && query.Has("access_token"):
		answer(w, 401, `{"errcode":"M_MISSING_TOKEN","error":"Mixing Authorization headers and access_token query parameters."}`)
	case r.URL.Path != statusPath(userID):
		answer(w, 403, `{"errcode":"M_FORBIDDEN","error":"Cannot set presence state of another user"}`)
	case !json.Valid(body):
		answer(w, 400, `{"errcode":"M_NOT_JSON","error":"Content not JSON."}`)
	default:
		r.Body = io.NopCloser(bytes.NewReader(body))
		return false
	}
	return true
}

func (m *modes) want(got string, want ...string) {
	m.t.Helper()
	for _, w := range want {
		if got == w {
			return
		}
	}
	m.t.Errorf("it was %s, want %v", got, want)
}

// A read without a token goes through if nothing of reads is ours. It was counted as refused.
func TestObservedReadWithoutATokenWhereNothingIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newModes(t, options{ReadLimit: &rate{Off: true}, Cache: &caching{Off: true}})
		m.want(m.get("", alice, ""), "bypass read")
		m.want(m.get("bob-token", alice, ""), "bypass read")
		if n := m.observing.hs.Count("whoami"); n != 0 {
			t.Errorf("the homeserver was asked %d times whose token it is", n)
		}
	})
}

// A read with two tokens is charged to the user of each. It was counted as passed on, however many
// there were.
func TestObservedUncertainCredentialOverTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newModes(t, options{ReadLimit: &rate{Events: 2, Window: time.Hour}})
		m.want(m.get("bob-token", alice, "?access_token=carol-token"), "bypass read")
		m.want(m.get("bob-token", alice, "?access_token=carol-token"), "bypass read")
		m.want(m.get("bob-token", alice, "?access_token=carol-token"), "limited read")
		m.want(m.get("carol-token", alice, ""), "limited read")
	})
}

// While the homeserver is down, who asked before gets a stale answer, also if it is no longer sure
// who they are. It was counted as passed on.
func TestObservedStaleAnswerForAnExpiredIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newModes(t, options{
			Cache:    &caching{TTL: 10 * time.Second, StaleIfError: time.Hour},
			Identity: &identifying{TTL: time.Minute},
		})
		m.want(m.get("bob-token", carol, ""), "miss read")
		time.Sleep(2 * time.Minute)
		m.down(true)
		m.want(m.get("bob-token", carol, ""), "stale read")
	})
}

// Whatever comes, what is observed is what is then enforced.
func TestModesDecideAlike(t *testing.T) {
	for name, tc := range map[string]struct {
		options
		writes int // of 20 requests
		reads  bool
		downs  bool // the homeserver, now and then
		want   []string

		// oddBodies are in some writes. In mode observe these go to the homeserver, which may change
		// what can be read, and are not looked at if it is down.
		oddBodies bool
	}{
		"reads": {
			options: options{
				ReadLimit: &rate{Events: 1, Window: 3 * time.Second, Burst: 5}, WriteLimit: &rate{Off: true},
				Cache:    &caching{TTL: 5 * time.Second},
				Identity: &identifying{TTL: 20 * time.Second, RejectedLimit: &rate{Events: 6, Window: time.Minute}},
			},
			reads: true, writes: 1,
			want: []string{"hit read", "miss read", "limited read", "rejected read", "bypass read", "forwarded write", "refused write"},
		},
		"reads of a homeserver that is down now and then": {
			options: options{
				ReadLimit: &rate{Events: 1, Window: time.Second, Burst: 5}, WriteLimit: &rate{Off: true},
				Cache:    &caching{TTL: 5 * time.Second, StaleIfError: 5 * time.Minute},
				Identity: &identifying{TTL: 20 * time.Second, RejectedLimit: &rate{Off: true}},
			},
			reads: true, downs: true,
			want: []string{"hit read", "miss read", "stale read", "failed read", "bypass read"},
		},
		"limited reads, none kept": {
			options: options{
				ReadLimit: &rate{Events: 1, Window: 3 * time.Second, Burst: 5}, Cache: &caching{Off: true},
				WriteLimit: &rate{Off: true}, RepeatWrites: "absorb",
			},
			reads: true, writes: 5,
			want: []string{"limited read", "rejected read", "bypass read", "forwarded write", "absorbed write"},
		},
		"reads, nothing of them ours": {
			options: options{ReadLimit: &rate{Off: true}, Cache: &caching{Off: true}},
			reads:   true, want: []string{"bypass read"},
		},
		"writes": {
			options:   options{WriteLimit: &rate{Events: 1, Window: 5 * time.Second, Burst: 3}},
			writes:    20,
			want:      []string{"forwarded write", "limited write", "refused write", "invalid write", "rejected write"},
			oddBodies: true,
		},
		"repeated writes": {
			options:   options{WriteLimit: &rate{Events: 1, Window: 2 * time.Second, Burst: 3}, RepeatWrites: "absorb"},
			writes:    20,
			want:      []string{"forwarded write", "absorbed write", "limited write", "refused write", "invalid write"},
			oddBodies: true,
		},
		"writes that wait": { // until after the test
			options: options{
				WriteLimit: &rate{Events: 1, Window: 30 * time.Hour, Burst: 3}, OverLimit: "coalesce",
				Coalesce: &waiting{MaxAge: 100 * time.Hour},
			},
			writes:    20,
			want:      []string{"forwarded write", "coalesced write", "refused write", "invalid write"},
			oddBodies: true,
		},
		"writes that would wait too long": {
			options: options{
				WriteLimit: &rate{Events: 1, Window: 30 * time.Hour, Burst: 3}, OverLimit: "coalesce", RepeatWrites: "absorb",
				Coalesce: &waiting{MaxAge: time.Minute},
			},
			writes:    20,
			want:      []string{"forwarded write", "limited write", "refused write", "invalid write"},
			oddBodies: true,
		},
		"writes to a homeserver that is down now and then": {
			options: options{WriteLimit: &rate{Events: 1, Window: 2 * time.Second, Burst: 3},
				Identity: &identifying{TTL: 20 * time.Second, RejectedLimit: &rate{Off: true}}},
			writes: 20, downs: true,
			want: []string{"forwarded write", "failed write", "limited write", "refused write"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, random := newModes(t, tc.options), rand.New(rand.NewPCG(3, 4))
				seen := make(map[string]bool)
				for range 1500 {
					if tc.downs && random.IntN(20) == 0 {
						m.down(random.IntN(2) == 0)
					}
					newRequest := randomRead(random)
					if !tc.reads || random.IntN(20) < tc.writes {
						newRequest = randomWrite(random, tc.oddBodies)
					}
					seen[m.do(newRequest)] = true
					if t.Failed() {
						return
					}
					time.Sleep(time.Duration(random.IntN(1000)) * time.Millisecond)
				}
				for _, outcome := range tc.want {
					if !seen[outcome] {
						t.Errorf("there was no %s, only %v", outcome, seen)
					}
				}
			})
		})
	}
}

// randomToken returns that of somebody, one that is made up, or none.
func randomToken(random *rand.Rand) string {
	switch tokens := []string{"alice-token", "alice-phone", "bob-token", "carol-token"}; random.IntN(10) {
	case 0:
		return ""
	case 1:
		return "unknown"
	case 2:
		return fmt.Sprint("unknown-", random.IntN(1000))
	default:
		return tokens[random.IntN(len(tokens))]
	}
}

var users = []string{alice, bob, carol}

// randomRead returns a read as clients make it, or an odd one.
func randomRead(random *rand.Rand) func() *http.Request {
	token, path := randomToken(random), statusPath(users[random.IntN(len(users))])
	body := ""
	switch random.IntN(15) {
	case 0:
		path += "?access_token=" + randomToken(random) // whose is it?
	case 1:
		path = strings.Replace(path, "/v3/", "/r0/", 1)
	case 2:
		path = strings.Replace(path, "@", "%40", 1)
	case 3:
		body = "{}"
	}
	return func() *http.Request { return request("GET", path, token, body) }
}

// randomWrite returns a write, of one's own presence as a rule. Its body may be odd.
func randomWrite(random *rand.Rand, odd bool) func() *http.Request {
	token := randomToken(random)
	target := map[string]string{"alice-token": alice, "alice-phone": alice, "bob-token": bob, "carol-token": carol}[token]
	if target == "" || random.IntN(10) == 0 {
		target = users[random.IntN(len(users))]
	}
	path, body := statusPath(target), message(random.IntN(3))
	switch n := random.IntN(20); {
	case n == 0 && odd:
		body = "{"
	case n == 1 && odd:
		body = strings.Repeat(" ", 1<<17)
	case n == 2:
		path += "?access_token=" + randomToken(random)
	}
	return func() *http.Request { return request("PUT", path, token, body) }
}

// What has no line in the tables would be counted as a hit.
func TestEveryEndIsCounted(t *testing.T) {
	for step := range policy.ReadSteps {
		end := readEnds[step]
		if step.Ends() && step != policy.ReadAnswer && end.outcome == outcomeHit {
			t.Errorf("step %d of a read is counted as a hit", step)
		}
		if (end.outcome == outcomeBypass) != (end.detail != "") {
			t.Errorf("step %d of a read is counted as %s and has the detail %q", step, outcomes[end.outcome].name, end.detail)
		}
	}
	for step := range policy.WriteSteps {
		if step.Ends() && writeEnds[step] == outcomeHit {
			t.Errorf("step %d of a write is counted as a hit", step)
		}
	}
}
