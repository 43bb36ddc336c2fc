package gateway

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/scripted"
)

// observed returns how often each outcome would have been, "hit read".
func (p *proxy) observed() map[string]float64 {
	p.t.Helper()
	return p.outcomesOf("observed_total ")
}

func (p *proxy) outcomesOf(metric string) map[string]float64 {
	p.t.Helper()
	counts := make(map[string]float64)
	for name, value := range p.samples() {
		if words, ok := strings.CutPrefix(name, metric); ok && value > 0 {
			counts[words] = value
		}
	}
	return counts
}

func (p *proxy) wantObserved(want map[string]float64) {
	p.t.Helper()
	synctest.Wait() // some are judged when the client has its answer
	if got := p.observed(); !maps.Equal(got, want) {
		p.t.Errorf("observed %v, want %v", got, want)
	}
}

func TestObservedRequestsGoThroughAsTheyCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{
			Mode: "observe", WriteLimit: &rate{Events: 1, Window: time.Hour}, ReadLimit: &rate{Events: 1, Window: time.Hour},
		})
		direct := &homeserver{scripted.New()}
		requests := []func() *http.Request{
			func() *http.Request { return request("GET", statusPath(alice), "bob-token", "") },
			func() *http.Request { return request("GET", statusPath(alice), "bob-token", "") },
			func() *http.Request { return request("GET", statusPath(alice), "carol-token", "") },
			func() *http.Request { return request("GET", statusPath(alice), "", "") },
			func() *http.Request { return request("GET", statusPath(alice), "unknown", "") },
			func() *http.Request { return request("HEAD", statusPath(alice), "bob-token", "") },
			func() *http.Request { return request("PUT", statusPath(alice), "alice-token", online) },
			func() *http.Request { return request("PUT", statusPath(alice), "alice-token", unavailable) },
			func() *http.Request { return request("PUT", statusPath(bob), "alice-token", online) },
			func() *http.Request { return request("PUT", statusPath(alice), "alice-token", "{") },
			func() *http.Request {
				return request("PUT", statusPath(alice), "alice-token", strings.Repeat(" ", 100_000))
			},
			func() *http.Request { return request("PUT", statusPath(alice), "", online) },
		}
		for i, next := range requests {
			got := p.Do(next())
			recorder := httptest.NewRecorder()
			if err := direct.ServeHTTP(recorder, next()); err != nil {
				t.Fatal(err)
			}
			recorded := recorder.Result()
			if got.StatusCode != recorded.StatusCode || bodyOf(got) != bodyOf(recorded) || fmt.Sprint(got.Header) != fmt.Sprint(recorded.Header) {
				t.Errorf("request %d: got %d %v %s, want %d %v %s", i, got.StatusCode, got.Header, bodyOf(got), recorded.StatusCode, recorded.Header, bodyOf(recorded))
			}
		}
		p.WantCounts(map[string]int{"GET": 5, "PUT": 6})
		synctest.Wait()
		if got, want := p.outcomesOf("outcomes_total "), (map[string]float64{"bypass read": 6, "forwarded write": 6}); !maps.Equal(got, want) {
			t.Errorf("the outcomes were %v, want %v", got, want)
		}
	})
}

func TestObservedOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{
			Mode: "observe", WriteLimit: &rate{Events: 2, Window: time.Hour},
			ReadLimit: &rate{Events: 3, Window: time.Hour}, Identity: &identifying{RejectedLimit: &rate{Off: true}},
			Classes: []userClass{{
				Name: "bots", Match: []string{bob}, RepeatWrites: "absorb", OverLimit: "coalesce",
				WriteLimit: &rate{Events: 1, Window: 20 * time.Second},
			}},
		})
		for range 5 {
			p.Get("bob-token", alice)
			synctest.Wait()
		}
		p.wantObserved(map[string]float64{"miss read": 1, "hit read": 2, "limited read": 2})
		for _, body := range []string{online, online, unavailable, "{"} {
			p.Put("bob-token", bob, body)
			p.Put("alice-token", alice, body)
			synctest.Wait()
		}
		p.Put("alice-token", bob, online)
		p.Put("unknown", bob, online)
		p.Put("", bob, online)
		p.Get("", bob)
		p.Get("carol-token", alice)
		synctest.Wait()
		p.Get("carol-token", alice)
		p.wantObserved(map[string]float64{
			"miss read": 2, "hit read": 3, "limited read": 2, "rejected read": 1,
			"forwarded write": 3, "absorbed write": 1, "coalesced write": 1, "invalid write": 1, "limited write": 2,
			"refused write": 1, "rejected write": 2,
		})
	})
}

// What is observed is what is then enforced.
func TestObservedReadsAreTheEnforcedOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		options := func(mode string) *options {
			return &options{
				Mode: mode, ReadLimit: &rate{Events: 1, Window: 3 * time.Second, Burst: 5}, WriteLimit: &rate{Off: true},
				Cache:    &caching{TTL: 5 * time.Second},
				Identity: &identifying{TTL: 20 * time.Second},
			}
		}
		observing, enforcing := newProxy(t, options("observe")), newProxy(t, options("enforce"))
		random := rand.New(rand.NewPCG(3, 4))
		users := map[string]string{"alice-token": alice, "bob-token": bob, "carol-token": carol}
		tokens := []string{"alice-token", "bob-token", "carol-token", "unknown", ""}
		for range 2000 {
			token, target := tokens[random.IntN(len(tokens))], []string{alice, bob, carol}[random.IntN(3)]
			method, body := "GET", ""
			if own, ok := users[token]; ok && random.IntN(20) == 0 {
				method, target, body = "PUT", own, message(random.IntN(10))
			}
			for _, p := range []*proxy{observing, enforcing} {
				p.Do(request(method, statusPath(target), token, body))
				synctest.Wait()
			}
			time.Sleep(time.Duration(random.IntN(1000)) * time.Millisecond)
		}
		got, want := observing.observed(), enforcing.outcomesOf("outcomes_total ")
		if !maps.Equal(got, want) {
			t.Errorf("observed %v, enforced %v", got, want)
		}
		for _, outcome := range []string{"hit read", "miss read", "limited read", "rejected read", "forwarded write"} {
			if want[outcome] == 0 {
				t.Errorf("there was no %s", outcome)
			}
		}
	})
}

func TestObservedPreflightsAreTheHomeservers(t *testing.T) {
	p := newProxy(t, &options{Mode: "observe", Preflight: "local"})
	p.hs.AnswerPreflights(204, scripted.SynapsePreflight...)
	for range 3 {
		resp := p.Do(scripted.Preflight("https://app.example.com", "GET", "authorization"))
		if resp.Header.Get("Access-Control-Max-Age") != "" || resp.Header.Get("Cache-Status") != "" {
			t.Errorf("got %v", resp.Header)
		}
	}
	if got, want := p.observed(), (map[string]float64{"forwarded preflight": 1, "hit preflight": 2}); !maps.Equal(got, want) {
		t.Errorf("observed %v, want %v", got, want)
	}
}

func TestObservingUnpacksWhatTheClientAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{Mode: "observe"})
		p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
			if r.Header.Get("Accept-Encoding") != "gzip" {
				return false, nil
			}
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Encoding", "gzip")
			packer := gzip.NewWriter(w)
			_, _ = io.WriteString(packer, `{"presence":"offline"}`)
			return true, packer.Close()
		}
		for range 2 {
			r := request("GET", statusPath(alice), "bob-token", "")
			r.Header.Set("Accept-Encoding", "gzip")
			resp := p.Do(r)
			if unpacker, err := gzip.NewReader(resp.Body); err != nil || resp.Header.Get("Content-Encoding") != "gzip" {
				t.Errorf("the client got %v, %v", resp.Header, err)
			} else if body, err := io.ReadAll(unpacker); err != nil || !bytes.Equal(body, []byte(`{"presence":"offline"}`)) {
				t.Errorf("the client got %s, %v", body, err)
			}
			synctest.Wait()
		}
		p.wantObserved(map[string]float64{"miss read": 1, "hit read": 1})
	})
}

// A homeserver that doesn't tell whose token it is must not hold up a client that only
// is observed.
func TestObservedClientDoesNotWaitForWhoAmI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{Mode: "observe"})
		p.hs.Intercept = func(w http.ResponseWriter, r *http.Request) (bool, error) {
			if strings.HasSuffix(r.URL.Path, "/whoami") {
				<-r.Context().Done()
				return true, r.Context().Err()
			}
			return false, nil
		}
		start := time.Now()
		var clients sync.WaitGroup
		for n := range 2 * maxLearning {
			clients.Go(func() { p.Want(p.Get(fmt.Sprintf("token-%d", n), alice), 401, "", "") })
		}
		p.Want(p.Get("bob-token", alice), 200, "", "")
		clients.Wait()
		if took := time.Since(start); took != 0 {
			t.Errorf("it took %v", took)
		}
		time.Sleep(time.Minute)
		// Who would have found too many in the line would have been told to come later.
		if got := p.observed(); got["bypass read"]+got["limited read"] != 2*maxLearning+1 {
			t.Errorf("observed %v", got)
		}
	})
}

// Whoever had no account had as much of memory as there were connections, each with a body of
// max_body that never ended: it was kept to be judged, also if it would have been refused unread.
func TestBodiesOfWhoMayHaveNoAccountAreNotKept(t *testing.T) {
	const tuwunelSync = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
	for name, tc := range map[string]struct {
		mode, method, path, token string
		size, want                int
	}{
		"no token":         {"observe", "PUT", statusPath(alice), "", 100, 0},
		"made up":          {"observe", "PUT", statusPath(alice), "made-up", 1 << 15, 0},
		"made up, small":   {"observe", "PUT", statusPath(alice), "made-up", 100, 100},
		"another's":        {"observe", "PUT", statusPath(bob), "alice-token", 100, 0},
		"one's own":        {"observe", "PUT", statusPath(alice), "alice-token", 1 << 15, 1 << 15},
		"a made-up sync":   {"enforce", "POST", tuwunelSync, "made-up", 1 << 15, 0},
		"one's own sync":   {"enforce", "POST", tuwunelSync, "alice-token", 1 << 15, 1 << 15},
		"uncertain, a PUT": {"observe", "PUT", statusPath(alice) + "?user_id=", "alice-token", 100, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, &options{Mode: tc.mode, SyncPresence: "limit", Homeserver: "tuwunel"})
				p.knows("alice-token")
				sent := &counted{Reader: strings.NewReader(strings.Repeat(" ", tc.size))}
				path, _, _ := strings.Cut(tc.path, "?")
				p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if r.URL.Path != path {
						return false, nil
					}
					kept := sent.n // read before the homeserver does
					if n, _ := io.Copy(io.Discard, r.Body); n != int64(tc.size) {
						t.Errorf("the homeserver got %d bytes", n)
					}
					if body, ok := r.Body.(*copied); ok {
						kept = body.kept.Len()
					}
					if kept != tc.want {
						t.Errorf("%d bytes are kept, want %d", kept, tc.want)
					}
					answer(w, 200, "{}")
					return true, nil
				})
				r := request(tc.method, tc.path, tc.token, "")
				r.Body, r.ContentLength = io.NopCloser(sent), int64(tc.size)
				p.Do(r)
				synctest.Wait()
			})
		})
	}
}

// counted counts what is read.
type counted struct {
	io.Reader
	n int
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n += n
	return n, err
}
