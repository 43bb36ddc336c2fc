package differential_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/vitals"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/wire"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

// TestWriteSequencesEndAlike writes the same sequences directly as one user and through the
// busy profile as another, each by three devices and faster than the budget: in the end the
// homeserver shows the same of both. Under over_limit coalesce a write that waited was once
// lost with the one that took its place, which the homeserver refused; on Dendrite a
// message was lost that the newer write left out; and over the budget bodies got 200 that
// the homeserver answers with 400.
func TestWriteSequencesEndAlike(t *testing.T) {
	suite.EachHomeserver(t, homeserver.Options{}, func(t *testing.T, hs *homeserver.Homeserver) {
		for _, recognised := range []string{"auto", hs.Name} {
			t.Run(recognised, func(t *testing.T) {
				s := newBusySite(t, hs, recognised)
				const writers = 8
				var tries, refused, limited, sequences atomic.Int64
				var all sync.WaitGroup
				for n := range writers {
					twins := newTwins(t, hs, s, fmt.Sprintf("%s-%d", recognised, n))
					twins.r = rand.New(rand.NewPCG(*seed, uint64(n)))
					all.Go(func() {
						for range counts().sequences {
							sequences.Add(1)
							if !twins.sequence(&tries, &refused, &limited) {
								return
							}
						}
					})
				}
				all.Wait()
				t.Logf("%s: %d sequences of %d writes, of which %d were refused as the homeserver does, and %d told to come again",
					hs.Name, sequences.Load(), tries.Load(), refused.Load(), limited.Load())
				counters, n := s.vitals(t).Counters, int(sequences.Load())
				coalesced := counters.Outcomes("write", "coalesced")
				lost := counters.Sum("deliveries_total", "result", "lost")
				superseded := counters.Sum("deliveries_total", "result", "superseded")
				if lost != 0 || coalesced < n/2 || superseded < n/10 || refused.Load() == 0 {
					t.Errorf("%v writes waited, %v were superseded and %v lost", coalesced, superseded, lost)
				}
			})
		}
	})
}

// busySite is the busy profile before a homeserver.
type busySite struct{ *sidecar.Sidecar }

func newBusySite(t *testing.T, hs *homeserver.Homeserver, recognised string) busySite {
	t.Helper()
	return busySite{suite.Sidecar(t)(sidecar.StartCaddyfile(t.Context(), fmt.Sprintf(`
{
	admin {$ADMIN}
	metrics
}
http://{$LISTEN} {
	bind 127.0.0.1
	matrix_presence {
		repeat_writes absorb
		over_limit coalesce
		write_limit 2/1s burst 1
		sync_presence limit
		homeserver %s
	}
	reverse_proxy %s
}
`, recognised, hs.URL)))}
}

// vitals is what the site counts and holds.
func (s busySite) vitals(t *testing.T) vitals.Vitals {
	t.Helper()
	v, err := vitals.Read(t.Context(), s.Admin)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// twins are two users of three devices each. One writes directly, the other through the site.
type twins struct {
	t               *testing.T
	r               *rand.Rand
	hs              *homeserver.Homeserver
	site            busySite
	direct, through [3]homeserver.User
}

func newTwins(t *testing.T, hs *homeserver.Homeserver, site busySite, name string) *twins {
	t.Helper()
	w := &twins{t: t, hs: hs, site: site}
	for i, user := range []*[3]homeserver.User{&w.direct, &w.through} {
		first, err := hs.Register(t.Context(), fmt.Sprintf("twin-%d-%d-%s", casts.Add(1), i, name), "a password")
		if err != nil {
			t.Fatal(err)
		}
		user[0] = first
		for n := 1; n < len(user); n++ {
			if user[n], err = hs.Login(t.Context(), first.ID, first.Password); err != nil {
				t.Fatal(err)
			}
		}
	}
	return w
}

// sequence writes one and reports whether it ended alike.
func (w *twins) sequence(tries, refused, limited *atomic.Int64) bool {
	var story strings.Builder
	for range 1 + w.r.IntN(10) {
		device, body := w.r.IntN(3), w.body()
		through, answer := w.put(w.site.URL, w.through[device], body)
		tries.Add(1)
		fmt.Fprintf(&story, "device %d: %s: %d", device, body, through)
		if through == http.StatusTooManyRequests {
			// It has to come again, or not: then it is none.
			limited.Add(1)
			story.WriteString("\n")
			continue
		}
		direct, text := w.put(w.hs.URL, w.direct[device], body)
		fmt.Fprintf(&story, ", direct: %d\n", direct)
		if direct != through {
			w.t.Errorf("%s\n%s was answered %d %s, directly %d %s", &story, body, through, answer, direct, text)
			return false
		}
		if direct == http.StatusBadRequest {
			refused.Add(1)
		}
		if w.r.IntN(6) == 0 {
			time.Sleep(time.Duration(w.r.IntN(300)) * time.Millisecond)
		}
	}

	var want, got string
	for deadline := time.Now().Add(suite.Patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		waits := w.site.vitals(w.t).Pending
		want, got = w.shown(w.direct[0]), w.shown(w.through[0])
		if waits == 0 && want == got {
			return true
		}
	}
	w.t.Errorf("%sended as %s, directly as %s", &story, got, want)
	return false
}

// body is one of any class, more often a good one.
func (w *twins) body() string {
	pick := func(from ...string) string { return from[w.r.IntN(len(from))] }
	presence := pick("online", "unavailable", "offline", "online", "unavailable", "offline", "ONLINE", "busy", "away", "")
	body := `{"presence":"` + presence + `"`
	switch w.r.IntN(8) {
	case 0, 1, 2:
		body += fmt.Sprintf(`,"status_msg":"%s %d"`, pick("in a meeting", "lunch", `\u00fc\ud83d\ude00`), w.r.IntN(1000))
	case 3:
		body += `,"status_msg":` + pick(`""`, `null`, `1`, `{}`)
	case 4:
		body += pick(`,"currently_active":true`, `,"STATUS_MSG":"loud"`, `,"presence":"offline"`, `,"Presence":"offline"`, `,"status_msg":null,"status_msg":"twice"`)
	}
	return body + "}"
}

func (w *twins) put(base string, user homeserver.User, body string) (status int, text string) {
	return w.send(http.MethodPut, base, user, body)
}

// shown returns what the homeserver shows of a user but their age.
func (w *twins) shown(user homeserver.User) string {
	_, text := w.send(http.MethodGet, w.hs.URL, user, "")
	var shown struct {
		Presence  string `json:"presence"`
		StatusMsg string `json:"status_msg"`
	}
	if err := json.Unmarshal([]byte(text), &shown); err != nil {
		return text
	}
	return fmt.Sprintf("%s %q", shown.Presence, shown.StatusMsg)
}

func (w *twins) send(method, base string, user homeserver.User, body string) (status int, text string) {
	c := wire.Client{Address: base}
	defer c.Close()
	r, _, err := c.Ask(request{method, statusPath(user.ID), bearer(user.AccessToken), body}.bytes())
	if err != nil {
		return 0, err.Error()
	}
	return r.Status, string(r.Body)
}
