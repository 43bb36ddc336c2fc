package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/wallclock"
)

// scriptedFeed says what a test has it say.
type scriptedFeed struct {
	News
	followed chan struct{}
}

func (f *scriptedFeed) Run(ctx context.Context, news News) {
	f.News = news
	close(f.followed)
	<-ctx.Done()
}

// follow gives the memory of p a feed, which is live if heard.
func (p *proxy) follow(heard bool) (*scriptedFeed, *testkit.Logs) {
	p.t.Helper()
	feed := &scriptedFeed{followed: make(chan struct{})}
	logger, logs := testkit.NewLogs(slog.LevelInfo)
	p.t.Cleanup(p.memory.Follow(feed, logger))
	<-feed.followed
	feed.Connected()
	if heard {
		feed.Heard(LineOther)
	}
	time.Sleep(2 * time.Second) // settles
	return feed, logs
}

// newFedProxy returns a proxy with a feed that is live.
func newFedProxy(t *testing.T) (*proxy, *scriptedFeed, *testkit.Logs) {
	t.Helper()
	p := newProxy(t, &options{Cache: &caching{LiveTTL: 10 * time.Minute}})
	p.hs.Presence[alice] = `{"presence":"unavailable","last_active_ago":1000,"status_msg":"one"}`
	feed, logs := p.follow(true)
	// The first says nothing about how long the next ones take.
	feed.news("@stranger:example.com", "offline", "")
	return p, feed, logs
}

// news tells of a presence that has just changed.
func (f *scriptedFeed) news(userID, presence, status string) bool {
	now := time.Now().UnixMilli()
	return f.PresenceChanged(PresenceNews{
		UserID: userID, Presence: presence, StatusMsg: status, LastActive: now - 1000, Changed: now, CurrentlyActive: true,
	})
}

func (p *proxy) wantPresence(token, body, cacheStatus string) {
	p.t.Helper()
	p.Want(p.Get(token, alice), 200, body, "matrix_presence; "+cacheStatus)
}

func TestWhatTheFeedCoversLivesLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, feed, logs := newFedProxy(t)
		p.wantPresence("bob-token", "", "fwd=miss; stored")
		time.Sleep(5 * time.Minute)
		feed.Heard(LineOther)
		p.wantPresence("bob-token", `{"presence":"unavailable","last_active_ago":301000,"status_msg":"one"}`, "hit")
		feed.Lost(FeedConnection, errors.New("reset by peer"))
		p.wantPresence("bob-token", "", "fwd=miss; stored")
		time.Sleep(31 * time.Second)
		p.wantPresence("bob-token", "", "fwd=miss; stored")
		if logs.Count("the feed is live") != 1 || logs.Count("there is no connection") != 1 {
			t.Errorf("logged: %v", logs.All())
		}
	})
}

func TestPresenceThatTheFeedTellsOfIsReadWithoutAQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, feed, _ := newFedProxy(t)
		p.wantPresence("bob-token", "", "fwd=miss; stored")
		time.Sleep(time.Minute)
		for _, tt := range []struct{ presence, status, want string }{
			{"offline", `"\u00e4 two"`, `{"presence":"offline","last_active_ago":1000,"status_msg":"\u00e4 two"}`},
			{"unavailable", "", `{"presence":"unavailable","last_active_ago":1000}`},
			{"unavailable", `""`, ""},
			{"online", `"three"`, `{"presence":"online","last_active_ago":1000,"status_msg":"three","currently_active":true}`},
		} {
			if !feed.news(alice, tt.presence, tt.status) {
				t.Fatalf("%+v is no presence", tt)
			}
			p.wantPresence("bob-token", tt.want, "hit")
			time.Sleep(10 * time.Second)
		}
		s := p.samples()
		if s["feed_presence_total updated"] != 3 || s["feed_presence_total same"] != 1 || s["feed_presence_total unread"] != 1 {
			t.Errorf("counted: %v", s)
		}
		// A user who was never active, and one whom nobody reads.
		if !feed.PresenceChanged(PresenceNews{UserID: alice, Presence: "offline", Changed: time.Now().UnixMilli()}) {
			t.Fatal("no presence")
		}
		p.wantPresence("bob-token", `{"presence":"offline"}`, "hit")
	})
}

func TestWhatIsNoPresenceIsRefused(t *testing.T) {
	p := newProxy(t, new(options))
	f := &Follower{store: p.memory, pace: newPace()}
	for _, of := range []PresenceNews{
		{}, {UserID: alice}, {UserID: alice, Presence: "busy"}, {UserID: "alice", Presence: "online"},
		{UserID: alice, Presence: "online", LastActive: -1}, {UserID: alice, Presence: "online", Changed: -1},
		{UserID: alice, Presence: "online", StatusMsg: "no JSON"},
		{UserID: alice, Presence: "online", LastActive: math.MaxInt64}, {UserID: alice, Presence: "online", Changed: 1 << 60},
	} {
		if f.PresenceChanged(of) {
			t.Errorf("%+v was taken", of)
		}
	}
}

func TestFeedEndsPermissionsAndIdentities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, feed, logs := newFedProxy(t)
		for name, tt := range map[string]struct {
			tell  func()
			count string
		}{
			"the viewer leaves":       {func() { feed.MembershipChanged(bob) }, "GET"},
			"the target is kicked":    {func() { feed.MembershipChanged(alice) }, "GET"},
			"a room is deleted":       {feed.MembershipsChanged, "GET"},
			"the token is logged out": {func() { feed.TokenEnded("bob-token") }, "whoami"},
			"the user is locked":      {func() { feed.SessionsEnded(bob) }, "whoami"},
		} {
			p.Get("bob-token", alice)
			p.wantPresence("bob-token", "", "hit")
			before := p.hs.Count(tt.count)
			tt.tell()
			p.Get("bob-token", alice)
			if got := p.hs.Count(tt.count); got != before+1 {
				t.Errorf("%s: %d questions more, want one", name, got-before)
			}
			time.Sleep(2 * time.Second)
		}
		for _, entry := range logs.All() {
			if strings.Contains(fmt.Sprint(entry), "bob") {
				t.Errorf("logged: %v", entry)
			}
		}
	})
}

// Bob is kicked elsewhere. From the moment at which the feed says so he is told what the
// homeserver says, and after 403 he isn't asked for again as long as nothing changes.
func TestViewerWhoIsKickedElsewhereReadsNothingMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, feed, _ := newFedProxy(t)
		p.wantPresence("bob-token", "", "fwd=miss; stored")
		p.hs.Mu.Lock()
		p.hs.Hidden[bob+" "+alice] = true
		p.hs.Mu.Unlock()
		p.wantPresence("bob-token", "", "hit")
		feed.MembershipChanged(bob)
		p.WantError(p.Get("bob-token", alice), 403, "M_FORBIDDEN")
		time.Sleep(2 * time.Second)
		p.WantError(p.Get("bob-token", alice), 403, "M_FORBIDDEN")
		before := p.hs.Count("GET")
		time.Sleep(time.Minute)
		p.WantError(p.Get("bob-token", alice), 403, "M_FORBIDDEN")
		if p.hs.Count("GET") != before {
			t.Error("the homeserver was asked again")
		}
		p.hs.Mu.Lock()
		delete(p.hs.Hidden, bob+" "+alice)
		p.hs.Mu.Unlock()
		feed.MembershipChanged(bob)
		p.wantPresence("bob-token", "", "fwd=miss")
	})
}

// A worker that answers reads may hear of a kick later than we do. What it answers until then is no permission.
func TestAnswerOfAWorkerThatDoesNotKnowOfAKickPermitsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, feed, _ := newFedProxy(t)
		for who, tell := range map[string]func(){"bob": func() { feed.MembershipChanged(bob) }, "anybody": feed.MembershipsChanged} {
			tell()
			time.Sleep(100 * time.Millisecond)
			p.wantPresence("bob-token", "", "fwd=miss; stored")
			p.hs.Mu.Lock()
			p.hs.Hidden[bob+" "+alice] = true
			p.hs.Mu.Unlock()
			if got := p.Get("bob-token", alice); got.StatusCode != 403 {
				t.Errorf("after a kick of %s a read is %d", who, got.StatusCode)
			}
			time.Sleep(2 * time.Second)
			p.hs.Mu.Lock()
			delete(p.hs.Hidden, bob+" "+alice)
			p.hs.Mu.Unlock()
		}
	})
}

// A worker that answers whoami may hear of a logout later than we do. What it says until then is of no use for the next read.
func TestAnswerOfAWorkerThatDoesNotKnowOfALogoutIsNotRemembered(t *testing.T) {
	for name, tell := range map[string]func(p *proxy, feed *scriptedFeed){
		"by its token": func(_ *proxy, feed *scriptedFeed) { feed.TokenEnded("bob-token") },
		"by its user":  func(_ *proxy, feed *scriptedFeed) { feed.SessionsEnded(bob) },
		"that passes by": func(p *proxy, _ *scriptedFeed) {
			p.hs.answers(clientAPI+"logout", 200, "{}", nil) // of a worker
			p.Want(p.Do(request("POST", clientAPI+"logout", "bob-token", "{}")), 200, "{}", "")
		},
		"of all that passes by": func(p *proxy, _ *scriptedFeed) {
			p.hs.answers(clientAPI+"logout/all", 200, "{}", nil)
			p.Want(p.Do(request("POST", clientAPI+"logout/all", "bob-token", "{}")), 200, "{}", "")
		},
		"whose answer is lost": func(p *proxy, _ *scriptedFeed) {
			p.hs.AnswerBy(func(_ http.ResponseWriter, r *http.Request) (bool, error) {
				return r.URL.Path == clientAPI+"logout", failed(502, errors.New("no answer"))
			})
			p.Do(request("POST", clientAPI+"logout", "bob-token", "{}"))
			p.hs.AnswerBy(nil)
		},
		"by a login that takes the device over": func(p *proxy, _ *scriptedFeed) {
			p.hs.answers(clientAPI+"login", 200, `{"user_id":"@bob:example.com","access_token":"bob-new","device_id":"D"}`, nil)
			p.Do(request("POST", clientAPI+"login", "", `{"type":"m.login.password","device_id":"D"}`))
		},
		"that another worker tells of": func(p *proxy, _ *scriptedFeed) {
			p.hs.answers(statusPath(carol), 401, `{"errcode":"M_UNKNOWN_TOKEN","error":"Unknown token"}`, nil)
			p.Want(p.Get("bob-token", carol), 401, "", "")
			p.hs.AnswerBy(nil)
		},
		"among what another node couldn't tell": func(p *proxy, _ *scriptedFeed) { (&member{store: p.memory}).Flush(0, true) },
		"among what another store has heard":    func(p *proxy, _ *scriptedFeed) { p.memory.DoubtAll() },
		"that another worker tells of when it is asked": func(p *proxy, _ *scriptedFeed) {
			time.Sleep(3 * time.Minute)
			p.hs.AnswerBy(func(w http.ResponseWriter, _ *http.Request) (bool, error) {
				answer(w, 401, `{"errcode":"M_UNKNOWN_TOKEN","error":"Unknown token"}`)
				return true, nil
			})
			p.Want(p.Get("bob-token", alice), 401, "", "")
			p.hs.AnswerBy(nil)
			p.Do(request("GET", clientAPI+"account/whoami", "bob-token", "")) // by which it is learned whose it is
		},
	} {
		t.Run("a logout "+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, feed, _ := newFedProxy(t)
				p.hs.Mu.Lock()
				p.hs.Tokens["bob-phone"] = bob
				p.hs.Mu.Unlock()
				p.wantPresence("bob-token", "", "fwd=miss; stored")
				tell(p, feed)
				p.Want(p.Get("bob-token", alice), 200, "", "")
				p.hs.Mu.Lock()
				delete(p.hs.Tokens, "bob-token")
				p.hs.Mu.Unlock()
				time.Sleep(2 * time.Second)
				p.Want(p.Get("bob-phone", alice), 200, "", "") // by which it is known again whom bob may see
				p.WantError(p.Get("bob-token", alice), 401, "M_UNKNOWN_TOKEN")
			})
		})
	}
}

// Likewise about another token of a device that was logged out, or is known to be by what a worker says of one of its tokens.
func TestAnswerAboutAnotherTokenOfADeviceThatHasEnded(t *testing.T) {
	for name, ends := range map[string]func(p *proxy){
		"a logout": func(p *proxy) {
			p.hs.answers(clientAPI+"logout", 200, "{}", nil)
			p.Want(p.Do(request("POST", clientAPI+"logout", "alice-token", "{}")), 200, "{}", "")
		},
		"a logout by one that only its login has told of": func(p *proxy) {
			p.hs.answers(clientAPI+"login", 200, `{"user_id":"@alice:example.com","access_token":"alice-new"}`, nil)
			p.Do(request("POST", clientAPI+"login", "", "{}"))
			time.Sleep(2 * time.Second) // what the login may have ended has settled
			p.hs.answers(clientAPI+"logout", 200, "{}", nil)
			p.Want(p.Do(request("POST", clientAPI+"logout", "alice-new", "{}")), 200, "{}", "")
		},
		"a refused read": func(p *proxy) {
			p.hs.answers(statusPath(carol), 401, `{"errcode":"M_UNKNOWN_TOKEN","error":"Unknown token"}`, nil)
			p.Want(p.Get("alice-token", carol), 401, "", "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, new(options))
				p.Get("alice-token", bob)
				p.Get("alice-phone", bob)
				ends(p)
				p.hs.AnswerBy(nil)
				p.Want(p.Get("alice-phone", bob), 200, "", "") // by a worker that doesn't know yet
				p.hs.Mu.Lock()
				delete(p.hs.Tokens, "alice-phone")
				p.hs.Mu.Unlock()
				p.WantError(p.Get("alice-phone", bob), 401, "M_UNKNOWN_TOKEN")
			})
		})
	}
}

// Likewise where a worker refuses a token that was known, and another serves what says whose it is.
func TestAnswerOfAWorkerThatDoesNotKnowWhatAnotherHasRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		errcode string
		put     bool
		query   string
	}{
		"a token that it doesn't know":                    {errcode: unknownToken},
		"a locked account":                                {errcode: "M_USER_LOCKED", put: true},
		"a locked account, with a parameter of no effect": {errcode: "M_USER_LOCKED", put: true, query: "?user_id=@x:example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, &options{Homeserver: "synapse", Identity: &identifying{TTL: 10 * time.Second, RejectedTTL: ptr(0)}})
				p.Get("alice-token", bob)
				time.Sleep(15 * time.Second) // whose it is isn't remembered any more, but what it may see
				refuses := func(says string) {
					p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
						if strings.Contains(r.URL.Path, "/user/") {
							answer(w, 200, "{}")
							return true, nil
						}
						answer(w, 401, fmt.Sprintf(`{"errcode":%q,"error":"No"}`, says))
						return true, nil
					})
				}
				if tc.put {
					p.Do(request("GET", statusPath(bob)+tc.query, "alice-token", ""))
					p.Get("alice-token", bob)
					refuses(tc.errcode)
					p.WantError(p.Do(request("PUT", statusPath(alice)+tc.query, "alice-token", online)), 401, tc.errcode)
				} else {
					refuses(tc.errcode)
					p.WantError(p.Get("alice-token", bob), 401, tc.errcode)
				}
				p.Want(p.Do(request("GET", clientAPI+"user/"+alice+"/filter/1", "alice-token", "")), 200, "{}", "")
				p.WantError(p.Get("alice-token", bob), 401, tc.errcode)
			})
		})
	}
}

// Likewise of a token that only its login has told of, whether that is learned or not.
func TestAnswerAboutATokenThatWasJustGivenOutAndEnded(t *testing.T) {
	for _, learnOff := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := newProxy(t, &options{LearnOff: learnOff})
			p.hs.answers(clientAPI+"login", 200, `{"user_id":"@bob:example.com","access_token":"bob-new","device_id":"D"}`, nil)
			p.Do(request("POST", clientAPI+"login", "", `{"type":"m.login.password"}`))
			time.Sleep(2 * time.Second) // what the login may have ended has settled
			p.hs.AnswerBy(func(_ http.ResponseWriter, r *http.Request) (bool, error) {
				return r.URL.Path == clientAPI+"logout", failed(502, errors.New("no answer"))
			})
			p.Do(request("POST", clientAPI+"logout", "bob-new", "{}"))
			p.hs.AnswerBy(nil)
			p.hs.Mu.Lock()
			p.hs.Tokens["bob-new"] = bob // a worker that doesn't know yet
			p.hs.Mu.Unlock()
			p.Want(p.Get("bob-new", alice), 200, "", "")
			p.hs.Mu.Lock()
			delete(p.hs.Tokens, "bob-new")
			p.hs.Mu.Unlock()
			p.WantError(p.Get("bob-new", alice), 401, "M_UNKNOWN_TOKEN")
		})
	}
}

// Once all know, it is remembered again whose a token is that was said to have ended, and hasn't.
func TestTokenThatHasNotEndedIsRememberedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, feed, _ := newFedProxy(t)
		feed.TokenEnded("bob-token")
		feed.SessionsEnded(bob)
		time.Sleep(time.Second)
		p.wantPresence("bob-token", "", "fwd=miss; stored")
		before := p.hs.Count("whoami")
		p.wantPresence("bob-token", "", "hit")
		if p.hs.Count("whoami") != before {
			t.Error("the homeserver was asked again")
		}
	})
}

// What comes late may be older than what was asked for meanwhile, so it takes nothing's place.
func TestNewsThatComesLateIsNotServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, feed, _ := newFedProxy(t)
		p.wantPresence("bob-token", "", "fwd=miss; stored")
		time.Sleep(time.Minute)
		made := time.Now().Add(-5 * time.Second).UnixMilli()
		if !feed.PresenceChanged(PresenceNews{UserID: alice, Presence: "offline", LastActive: made, Changed: made}) {
			t.Fatal("no presence")
		}
		p.wantPresence("bob-token", "", "fwd=miss")
		if s := p.samples(); s["feed_presence_total dropped"] != 1 {
			t.Errorf("counted: %v", s)
		}
	})
}

// The process, or the machine, has stood still. What came meanwhile may be lost.
func TestFeedIsDoubtedAfterTheMachineStoodStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer wallclock.Shift(0)
		p, _, logs := newFedProxy(t)
		p.wantPresence("bob-token", "", "fwd=miss; stored")
		wallclock.Shift(time.Minute)
		time.Sleep(2 * time.Second)
		p.wantPresence("bob-token", "", "fwd=miss; stored")
		if s := p.samples(); s["feed_losses_total stalled"] != 1 || logs.Count("this process stood still") != 1 {
			t.Errorf("counted %v, logged %v", s, logs.All())
		}
	})
}

// A wrong server_name is a channel that never speaks. Nothing may be believed of it.
func TestFeedThatNeverSpeaksIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{Cache: &caching{LiveTTL: 10 * time.Minute}})
		p.hs.Presence[bob] = `{"presence":"online","currently_active":true,"last_active_ago":5}`
		p.hs.Presence[alice] = `{"presence":"offline"}` // which would be live
		_, logs := p.follow(false)
		read := func(want string) {
			t.Helper()
			p.wantPresence("bob-token", "", want)
			p.Get("bob-token", bob)
		}
		read("fwd=miss; stored")
		for range 4 {
			time.Sleep(31 * time.Second)
			read("fwd=miss; stored")
		}
		if logs.Count("it has said nothing for a minute although users are online: check server_name") != 1 {
			t.Errorf("logged: %v", logs.All())
		}
		if s := p.samples(); s["feeds waiting"] != 1 || s["feeds live"] != 0 || s["feed_losses_total silent"] == 0 {
			t.Errorf("counted: %v", s)
		}
	})
}

// Nobody is online, so Synapse has nothing to say.
func TestFeedMayBeSilentAtNight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, logs := newFedProxy(t)
		p.wantPresence("bob-token", "", "fwd=miss; stored")
		time.Sleep(9 * time.Minute)
		p.wantPresence("bob-token", "", "hit")
		if len(logs.All()) != 1 {
			t.Errorf("logged: %v", logs.All())
		}
	})
}

// Synapse's own connection to Redis may be gone while ours stays.
func TestFeedThatFallsSilentIsDoubtedUntilItSpeaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, feed, _ := newFedProxy(t)
		p.hs.Presence[bob] = `{"presence":"online"}`
		p.wantPresence("bob-token", "", "fwd=miss; stored")
		time.Sleep(time.Minute)
		p.Get("bob-token", bob)
		time.Sleep(80 * time.Second)
		p.wantPresence("bob-token", "", "fwd=miss; stored")
		feed.Heard(LineOther)
		p.wantPresence("bob-token", "", "hit") // fresh, but not live: from before the line
		time.Sleep(31 * time.Second)
		p.wantPresence("bob-token", "", "fwd=miss; stored")
		time.Sleep(5 * time.Minute)
		p.wantPresence("bob-token", "", "hit")
	})
}

func TestFeedThatDoesNotTellOfAWriteIsDoubted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, feed, logs := newFedProxy(t)
		p.Get("bob-token", carol)
		p.wantPresence("bob-token", "", "fwd=miss; stored")
		p.Put("alice-token", alice, `{"presence":"unavailable","status_msg":"two"}`)
		feed.news(alice, "unavailable", `"two"`)
		time.Sleep(15 * time.Second)
		if s := p.samples(); s["feed_losses_total unconfirmed"] != 0 {
			t.Fatal("doubted, though it told")
		}
		p.wantPresence("bob-token", "", "fwd=miss; stored")
		p.Put("alice-token", alice, `{"presence":"unavailable","status_msg":"three"}`)
		time.Sleep(15 * time.Second)
		if s := p.samples(); s["feed_losses_total unconfirmed"] != 1 || logs.Count("it didn't tell of a change") != 1 {
			t.Errorf("counted %v, logged %v", s, logs.All())
		}
	})
}

// The same loss again and again is one line.
func TestLossesOfOneKindAreOneLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, feed, logs := newFedProxy(t)
		for range 100 {
			feed.Missed(FeedUnreadable)
			feed.Heard(LinePresence)
			feed.Lost(FeedRefused, errors.New("NOPERM"))
			feed.Lost(FeedRefused, errors.New("NOPERM"))
			feed.Connected()
			feed.Heard(LineOther)
		}
		if logs.Count("another shape") != 1 || logs.Count("the server refuses it") != 1 || logs.Count("the feed is live") > 2 {
			t.Errorf("logged: %v", logs.All())
		}
		if s := p.samples(); s["feed_losses_total unreadable"] != 100 || s["feed_losses_total refused"] != 100 {
			t.Errorf("counted: %v", s)
		}
	})
}

// During a reload to other options two feeds tell of the same: what one missed the other told.
func TestOfTwoFeedsOneIsEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, _ := newFedProxy(t)
		p.wantPresence("bob-token", "", "fwd=miss; stored")
		other, _ := p.follow(true)
		other.Missed(FeedGap)
		time.Sleep(time.Minute)
		p.wantPresence("bob-token", "", "hit")
	})
}

// A feed whose code panics is one that is lost.
func TestFeedThatPanicsIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, new(options))
		logger, logs := testkit.NewLogs(slog.LevelInfo)
		stop := p.memory.Follow(panicking{}, logger)
		synctest.Wait()
		stop()
		if s := p.samples(); logs.Count("there is no connection") != 1 || s["feeds connecting"] != 0 {
			t.Errorf("logged %v, counted %v", logs.All(), s)
		}
	})
}

type panicking struct{}

func (panicking) Run(context.Context, News) { panic("boom") }

// The clocks of the two machines differ by an hour, and what takes longer than the quickest is late.
func TestPaceIsByTheQuickest(t *testing.T) {
	p := newPace()
	stamp := func(d time.Duration) int64 { return testkit.At(d - time.Hour).UnixMilli() }
	for i, tt := range []struct {
		made, after time.Duration
		late        bool
	}{
		{0, 5 * time.Millisecond, true}, // nothing to compare with
		{time.Second, 3 * time.Millisecond, false},
		{2 * time.Second, 500 * time.Millisecond, false},
		{3 * time.Second, 600 * time.Millisecond, true},
		{1 * time.Second, 4 * time.Second, true}, // repeats an old one
		{10 * time.Second, 3 * time.Millisecond, false},
		{20 * time.Minute, 3 * time.Millisecond, false},
		// Synapse's clock is set back: all is late, until two spans are over.
		{21*time.Minute - 10*time.Second, 10 * time.Second, true},
		{27 * time.Minute, 10 * time.Second, true},
		{34 * time.Minute, 10 * time.Second, false},
		// What repeats an old stamp says nothing about how long news takes.
		{33 * time.Minute, 27 * time.Minute, true},
		{66*time.Minute - 40*time.Second, 40 * time.Second, true},
	} {
		now := testkit.At(tt.made + tt.after)
		if got := p.isLate(stamp(tt.made), now, 500*time.Millisecond); got != tt.late {
			t.Errorf("%d: late %v, want %v", i, got, tt.late)
		}
	}
}
