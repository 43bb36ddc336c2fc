package gateway

import (
	"encoding/json"
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
)

// issuer is a homeserver on which everything by which a token may end does, as on any of
// them: a login with a device that is there, a refresh, a logout, a password. It takes its time
// before and after it does what it is asked for, and now and then the answer is lost.
type issuer struct {
	mu      sync.Mutex // guards all below
	random  *rand.Rand
	n       int
	tokens  map[string]device // access token → whose
	refresh map[string]device
}

type device struct{ user, id string }

func (hs *issuer) rand(n int) int {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return hs.random.IntN(n)
}

func (hs *issuer) nap() { time.Sleep(time.Duration(hs.rand(50)) * time.Millisecond) }

// issue gives out the only tokens that a device has from now on. It needs the lock.
func (hs *issuer) issue(d device) map[string]string {
	same := func(_ string, other device) bool { return other == d }
	maps.DeleteFunc(hs.tokens, same)
	maps.DeleteFunc(hs.refresh, same)
	hs.n++
	access, refresh := fmt.Sprint("access-", hs.n), fmt.Sprint("refresh-", hs.n)
	hs.tokens[access], hs.refresh[refresh] = d, d
	return map[string]string{"access_token": access, "refresh_token": refresh}
}

func (hs *issuer) serve(path, token string, body map[string]string) (status int, answer map[string]string) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	answer = make(map[string]string)
	own, known := hs.tokens[token]
	end := func(ended func(d device) bool) {
		maps.DeleteFunc(hs.tokens, func(_ string, d device) bool { return d.user == own.user && ended(d) })
	}
	switch {
	case path == "login":
		answer = hs.issue(device{body["user"], body["device"]})
		answer["user_id"] = body["user"]
	case path == "refresh":
		d, ok := hs.refresh[body["refresh_token"]]
		if !ok {
			return 403, map[string]string{"errcode": "M_FORBIDDEN"}
		}
		answer = hs.issue(d)
	case !known:
		return 401, map[string]string{"errcode": unknownToken, "error": "?"}
	case path == "account/whoami":
		answer["user_id"] = own.user
	case path == "logout":
		end(func(d device) bool { return d == own })
	case path == "logout/all", path == "account/deactivate":
		end(func(device) bool { return true })
	case path == "account/password":
		end(func(d device) bool { return d != own })
	case path == "delete_devices":
		end(func(d device) bool { return d.id == body["device"] })
	default:
		answer["presence"] = "online"
	}
	return 200, answer
}

func (hs *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) error {
	sent, _ := io.ReadAll(r.Body)
	var body map[string]string
	_ = json.Unmarshal(sent, &body)
	path := strings.TrimPrefix(r.URL.Path, clientAPI)
	hs.nap()
	status, says := hs.serve(path, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), body)
	hs.nap()
	if (path == "logout" || path == "refresh") && hs.rand(6) == 0 {
		return failed(502, io.ErrUnexpectedEOF)
	}
	text, _ := json.Marshal(says)
	answer(w, status, string(text))
	return nil
}

// Whatever ends a token, by whichever of these requests, in whatever order and with whatever
// going on beside it: when all is over it reads nothing, and all others do. Whose sessions a
// refreshed token ends, that had asked for nothing before, was once not known in time.
func TestTokensThatHaveEndedReadNothing(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			p := newProxy(t, &options{Identity: &identifying{RejectedLimit: &rate{Off: true}}, ReadLimit: &rate{Off: true}})
			hs := &issuer{random: rand.New(rand.NewPCG(seed, 1)), tokens: make(map[string]device), refresh: make(map[string]device)} // #nosec G404 -- to be repeated
			var mu sync.Mutex
			issued := []map[string]string{{"access_token": "none", "refresh_token": "none"}}
			one := func(kind string) string { // that was given out of late
				mu.Lock()
				defer mu.Unlock()
				return issued[max(0, len(issued)-1-hs.rand(12))][kind]
			}
			do := func(method, path, token string, body map[string]string) int {
				text, _ := json.Marshal(body)
				w := httptest.NewRecorder()
				if p.gateway.Serve(w, prepared(request(method, path, token, string(text))), hs) != nil {
					return 502
				}
				if got := make(map[string]string); json.Unmarshal(w.Body.Bytes(), &got) == nil && got["access_token"] != "" {
					mu.Lock()
					defer mu.Unlock()
					issued = append(issued, got)
				}
				return w.Code
			}
			read := func(token string) int {
				r := request("GET", statusPath(alice), token, "")
				w := httptest.NewRecorder()
				_ = p.gateway.Serve(w, prepared(r), hs)
				return w.Code
			}
			var clients sync.WaitGroup
			for range 6 {
				clients.Go(func() {
					for range 60 {
						hs.nap()
						someone := map[string]string{"user": []string{alice, bob}[hs.rand(2)], "device": fmt.Sprint(hs.rand(4))}
						switch action := hs.rand(20); action {
						case 0, 1, 2:
							do("POST", clientAPI+"login", "", someone)
						case 3:
							do("POST", clientAPI+"refresh", "", map[string]string{"refresh_token": one("refresh_token")})
						case 4, 5, 6, 7, 8:
							path := []string{"logout", "logout/all", "account/deactivate", "account/password", "delete_devices"}[action-4]
							do("POST", clientAPI+path, one("access_token"), someone)
						default:
							read(one("access_token"))
						}
					}
				})
			}
			clients.Wait()
			synctest.Wait()
			for _, tokens := range issued {
				token := tokens["access_token"]
				_, good := hs.tokens[token]
				if got, want := read(token), map[bool]int{true: 200, false: 401}[good]; got != want {
					t.Errorf("seed %d: a read by %s: %d, want %d", seed, token, got, want)
				}
			}
		})
	}
}
