package gateway

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const typingPath = "/_matrix/client/v3/rooms/!r:x/typing/" + alice

// slowly delays the requests to a path until release is closed, or by a time if that is nil,
// before the homeserver acts upon them.
func (m *modelled) slowly(path string, release <-chan struct{}, delay time.Duration) {
	m.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if strings.Contains(r.URL.Path, path) {
			if release != nil {
				<-release
			}
			time.Sleep(delay)
		}
		return m.serve(w, r)
	})
}

// Whoever types is online on Synapse, however long the homeserver takes to note it. What came
// of an activity once was looked at when it began and thrown away when it ended: the user
// was online by then, a sync inside it made them unavailable, and readers kept
// that although the homeserver acted upon the activity last.
func TestActivityThatEndsAfterASyncInsideItIsSeen(t *testing.T) {
	for _, name := range []string{"synapse", "tuwunel"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, &options{SyncPresence: "limit", Homeserver: name})
				p.knows("alice-token")
				m := p.behaves(name)
				p.Do(request("GET", syncPath+"?since=s&timeout=0", "alice-token", ""))
				release := make(chan struct{})
				m.slowly("/typing/", release, 0)
				go p.Do(request("PUT", typingPath, "alice-token", "{}"))
				synctest.Wait()
				p.Do(request("GET", syncPath+"?since=s&timeout=0&set_presence=unavailable", "alice-token", ""))
				time.Sleep(2 * time.Second)
				p.wantShown(m, alice, "the sync")
				close(release)
				synctest.Wait()
				if state := p.wantShown(m, alice, "the activity"); state != "online" {
					t.Errorf("the model says %q", state)
				}
				time.Sleep(2 * time.Second)
				p.wantShown(m, alice, "the activity and a while")
			})
		})
	}
}

// After a restart nobody's token and no device is known, and whatever comes of one may change
// the presence of its user. An activity, and a sync that couldn't be judged, were passed on
// as if they changed nothing, so that readers kept an old state for a ttl. Nothing waits for
// it to turn out whose it was.
func TestWhatIsNotKnownMayHaveChanged(t *testing.T) {
	requests := map[string]func() *http.Request{
		"activity":                               func() *http.Request { return request("PUT", typingPath, "alice-token", "{}") },
		"sync":                                   func() *http.Request { return request("GET", syncPath+"?since=s&timeout=0", "alice-token", "") },
		"sync of a homeserver that is not known": func() *http.Request { return request("GET", syncPath+"?since=s&timeout=0", "alice-token", "") },
	}
	for what, comes := range requests {
		for _, known := range []bool{false, true} {
			for name, slow := range map[string]string{"whoami is slow": "/whoami", "the request is slow": "/_matrix/client/v3/"} {
				t.Run(fmt.Sprintf("%s, token known %v, %s", what, known, name), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						h := &options{SyncPresence: "limit", RepeatWrites: "absorb", Homeserver: "synapse"}
						if strings.HasSuffix(what, "not known") {
							h.Homeserver = ""
						}
						p := newProxy(t, h)
						m := p.behaves("synapse")
						m.unnamed = true
						m.Sync(alice, "alice-token", "set_presence=unavailable", nil, time.Now()) // before the restart
						p.shows("bob-token", alice)
						time.Sleep(2 * time.Second)
						if got := p.shows("bob-token", alice); got != "unavailable" {
							t.Fatalf("at first a reader sees %q", got)
						}
						if known {
							p.knows("alice-token")
						}
						m.slowly(slow, nil, 3*time.Second)
						if slow != "/whoami" {
							m.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
								if r.Header.Get("Authorization") == "Bearer alice-token" && !strings.HasSuffix(r.URL.Path, "/whoami") {
									time.Sleep(3 * time.Second) // longer than settle
								}
								return m.serve(w, r)
							})
						}
						start := time.Now()
						p.Do(comes())
						if took := time.Since(start); slow == "/whoami" && took != 0 {
							t.Errorf("it took %v", took)
						}
						time.Sleep(5 * time.Second)
						if state := p.wantShown(m, alice, what); state != "online" {
							t.Errorf("the model says %q", state)
						}
					})
				})
			}
		}
	}
}

// A request with two tokens is taken for one of theirs, by some homeservers. Then that user's
// presence may have changed.
func TestSyncWithTwoTokensMayBeEithers(t *testing.T) {
	for _, comes := range []func() *http.Request{
		func() *http.Request {
			return request("GET", syncPath+"?since=s&timeout=0&access_token=carol-token", "alice-token", "")
		},
		func() *http.Request {
			return request("PUT", typingPath+"?access_token=carol-token", "alice-token", "{}")
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := newProxy(t, &options{SyncPresence: "limit", RepeatWrites: "absorb", Homeserver: "tuwunel"})
			m := p.behaves("tuwunel") // the header counts
			p.knows("alice-token")
			p.Do(request("GET", syncPath+"?since=s&timeout=0&set_presence=unavailable", "alice-token", ""))
			time.Sleep(2 * time.Second)
			p.wantShown(m, alice, "the first sync")
			p.Do(comes())
			if state := p.wantShown(m, alice, "a request with two tokens"); state != "online" {
				t.Errorf("the model says %q", state)
			}
			p.Do(request("GET", syncPath+"?since=s&timeout=0&set_presence=unavailable", "alice-token", ""))
			p.wantShown(m, alice, "the next sync")
		})
	}
}

// A user who has logged a device out is seen as their next one says at once. On Dendrite
// the old one's state held for as long as refresh.
func TestLoggedOutDeviceHoldsNobodyDown(t *testing.T) {
	ends := map[string]func(p *proxy){
		"logout":     func(p *proxy) { p.Do(request("POST", "/_matrix/client/v3/logout", "alice-token", "{}")) },
		"logout all": func(p *proxy) { p.Do(request("POST", "/_matrix/client/v3/logout/all", "alice-token", "{}")) },
		"a sync that is refused": func(p *proxy) {
			p.hs.Mu.Lock()
			delete(p.hs.Tokens, "alice-token")
			p.hs.Mu.Unlock()
			p.Do(request("GET", syncPath+"?since=s&timeout=0", "alice-token", ""))
		},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, &options{SyncPresence: "limit", Homeserver: "dendrite"})
				p.wantSync("alice-token", "since=s&timeout=0", "since=s&timeout=0")
				p.wantSync("alice-phone", "set_presence=unavailable", "set_presence=unchanged")
				end(p)
				p.hs.Mu.Lock()
				p.hs.Tokens["alice-phone"] = alice
				p.hs.Mu.Unlock()
				p.wantSync("alice-phone", "set_presence=unavailable", "set_presence=unavailable")
			})
		})
	}
	t.Run("a logout that is refused", func(t *testing.T) {
		p := newProxy(t, &options{SyncPresence: "limit", Homeserver: "dendrite"})
		p.wantSync("alice-token", "since=s&timeout=0", "since=s&timeout=0")
		p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
			if strings.HasSuffix(r.URL.Path, "/logout") {
				answer(w, 403, `{"errcode":"M_FORBIDDEN","error":"No"}`)
				return true, nil
			}
			return false, nil
		})
		p.Do(request("POST", "/_matrix/client/v3/logout", "alice-token", "{}"))
		p.wantSync("alice-phone", "set_presence=unavailable", "set_presence=unchanged")
	})
}

// A token's parameters are made up at will, and have no effect on an ordinary one. Each once
// was a new device, which goes as it asks and costs no budget.
func TestMadeUpParametersMakeNoNewDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{SyncPresence: "limit", Homeserver: "synapse"})
		p.knows("alice-token")
		for i := range 4 {
			made := fmt.Sprintf("?user_id=%s&device_id=x%d", url.QueryEscape(fmt.Sprintf("@x%d:example.com", i)), i)
			p.Do(request("GET", statusPath(alice)+made, "alice-token", "")) // shows that they have no effect
			p.Do(request("GET", syncPath+made, "alice-token", ""))
			p.Do(request("PUT", statusPath(alice)+made, "alice-token", online))
		}
		if n := p.memory.devices.Len(); n != 1 {
			t.Errorf("%d devices", n)
		}
	})
}

// A sync that is refused, by the homeserver or by another handler of the site, is nothing to
// what comes after it.
func TestRefusedSyncsAreNotTakenForSaid(t *testing.T) {
	for name, refuse := range map[string]func(w http.ResponseWriter) error{
		"by the homeserver": func(w http.ResponseWriter) error {
			answer(w, 400, `{"errcode":"M_INVALID_PARAM","error":"No such filter"}`)
			return nil
		},
		"by the site": func(http.ResponseWriter) error { return failed(429, errors.New("too many")) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, &options{SyncPresence: "limit", Homeserver: "synapse", SyncLimit: &rate{Events: 1, Window: 1e15}})
				p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if strings.Contains(r.URL.RawQuery, "filter=bad") {
						return true, refuse(w)
					}
					return false, nil
				})
				const long = "&timeout=30000&since=s"
				p.wantSync("alice-token", "set_presence=online"+long, "set_presence=online"+long)
				p.wantSync("alice-token", "set_presence=unavailable"+long, "set_presence=unavailable"+long)
				for range 5 {
					p.sync("alice-token", "filter=bad&set_presence=online"+long)
					p.wantSync("alice-token", "set_presence=online"+long, "set_presence=unavailable"+long)
				}
			})
		})
	}
}

// On tuwunel sync_presence strip can't keep syncs from setting a presence. So a write after one is
// no repeat.
func TestNothingIsAbsorbedPastASyncThatCantBeSilenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{SyncPresence: "strip", RepeatWrites: "absorb", WriteLimit: &rate{Off: true}})
		p.knows("alice-token")
		m := p.behaves("tuwunel")
		p.Do(request("GET", syncPath, "bob-token", "")) // has the homeserver asked for its name
		synctest.Wait()
		for range 3 {
			p.Put("alice-token", alice, `{"presence":"unavailable"}`)
			if state := p.wantShown(m, alice, "the write"); state != "unavailable" {
				t.Errorf("after a write the model says %q", state)
			}
			p.Do(request("GET", syncPath, "alice-token", ""))
			if state := p.wantShown(m, alice, "the sync"); state != "online" {
				t.Errorf("after a sync the model says %q", state)
			}
		}
	})
}

// A write whose answer breaks off may have been applied. The sync after it, which says what
// the device said before, once was taken out as a repeat: the user stayed what the write
// had made of them for up to refresh, and for readers up to a ttl more.
func TestSyncAfterAWriteThatMayHaveHappened(t *testing.T) {
	for _, name := range []string{"synapse", "tuwunel"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, &options{SyncPresence: "limit", Homeserver: name})
				p.knows("alice-token")
				m := p.behaves(name)
				const sync = syncPath + "?since=s&timeout=0"
				p.Do(request("GET", sync, "alice-token", ""))
				m.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
					if r.Method != http.MethodPut {
						return m.serve(w, r)
					}
					_, _ = m.serve(httptest.NewRecorder(), r)
					return true, failed(502, io.ErrUnexpectedEOF)
				})
				p.Put("alice-token", alice, `{"presence":"unavailable"}`)
				time.Sleep(2 * time.Second)
				if state := p.wantShown(m, alice, "the write"); state != "unavailable" {
					t.Errorf("the model says %q", state)
				}
				p.Do(request("GET", sync, "alice-token", ""))
				if state := p.wantShown(m, alice, "the sync"); state != "online" {
					t.Errorf("the model says %q", state)
				}
			})
		})
	}
}

// A device of Dendrite whose token nobody knew yet says unavailable by its first sync. Dendrite
// has one state of all devices, and the next sync of another one, which says online as
// before, changes that. It was once taken for a repeat, because what couldn't be judged was
// held against its own device only: readers saw "unavailable" for many seconds.
func TestSyncOfANewDeviceOfDendriteIsSeen(t *testing.T) {
	for name, slow := range map[string]string{"whoami is slow": "/whoami", "nothing is slow": "/nothing"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, &options{SyncPresence: "limit", Homeserver: "dendrite"})
				p.knows("alice-token")
				p.hs.Mu.Lock()
				p.hs.Tokens["alice-new"] = alice
				p.hs.Mu.Unlock()
				m := p.behaves("dendrite")
				m.slowly(slow, nil, 3*time.Second)
				const sync = syncPath + "?since=s&timeout=0&set_presence="
				p.Do(request("GET", sync+"online", "alice-token", ""))
				time.Sleep(15 * time.Second)
				p.Do(request("GET", sync+"unavailable", "alice-new", ""))
				time.Sleep(5 * time.Second)
				if state := p.wantShown(m, alice, "the new device's sync"); state != "unavailable" {
					t.Errorf("the model says %q", state)
				}
				time.Sleep(2 * time.Second)
				p.wantShown(m, alice, "a while")
				p.Do(request("GET", sync+"online", "alice-token", ""))
				if state := p.wantShown(m, alice, "the first device's sync"); state != "online" {
					t.Errorf("the model says %q", state)
				}
			})
		})
	}
}

// A write that goes by in mode observe is none of that site's business, but changes what the
// other site's next sync of the device does. If the write would have been refused, that was let
// through as a repeat that changes nothing; with a parameter that has no effect it wasn't,
// because the device was taken for another.
func TestSyncAfterAnObservedWriteIsSeen(t *testing.T) {
	for _, parameter := range []string{"", "?device_id=made-up"} {
		synctest.Test(t, func(t *testing.T) {
			p := newProxy(t, &options{SyncPresence: "limit", Homeserver: "synapse"})
			beside := p.beside(&options{Mode: "observe", Homeserver: "synapse", WriteLimit: &rate{Events: 1, Window: time.Hour}})
			p.knows("alice-token")
			m := p.behaves("synapse")
			const sync = syncPath + "?since=s&timeout=0&set_presence=unavailable"
			p.Do(request("GET", sync, "alice-token", ""))
			for _, body := range []string{unavailable, online} { // one over the limit
				beside.Do(request("PUT", statusPath(alice)+parameter, "alice-token", body))
				synctest.Wait()
			}
			time.Sleep(2 * time.Second)
			if state := p.wantShown(m, alice, "the write"); state != "online" {
				t.Errorf("the model says %q", state)
			}
			p.Do(request("GET", sync, "alice-token", ""))
			if state := p.wantShown(m, alice, "the sync"); state != "unavailable" {
				t.Errorf("the model says %q", state)
			}
		})
	}
}
