package gateway

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// What docs/feed.md and docs/relief.md say of long times and of many viewers: real requests through a real
// gateway and its tables, in virtual time, before a homeserver that takes none.

// long has all that those pages say played, which takes half a minute:
//
//	go test ./internal/gateway -run 'LongRun|ThousandViewers' -long -v
var long = flag.Bool("long", false, "play long runs in whole")

// newLongRun is a room whose users are joined to nothing else, of whom some are online, and a feed if it is fed.
func newLongRun(t *testing.T, users int, online float64, o options) *room {
	t.Helper()
	p := newRoom(t, &o)
	clear(p.hs.Presence)
	p.users = nil
	for i := range users {
		user := fmt.Sprintf("@user%d:example.com", i)
		localpart, _, _ := strings.Cut(user[1:], ":")
		p.users = append(p.users, user)
		p.hs.Tokens[testkit.NamedToken(localpart, "random")] = user
		p.hs.Presence[user] = `{"presence":"offline"}`
		if float64(i) < online*float64(users) {
			p.hs.Presence[user] = `{"presence":"online","last_active_ago":1000,"currently_active":true}`
		}
	}
	return p
}

func (p *room) tokenOf(i int) string {
	return testkit.NamedToken(fmt.Sprint("user", i), "random")
}

// share is which part of so many reads the homeserver has got, in percent.
func (p *room) share(reads int) float64 {
	p.hs.Mu.Lock()
	defer p.hs.Mu.Unlock()
	return 100 * float64(p.hs.Counts["GET"]+p.hs.Counts["whoami"]) / float64(reads)
}

// poisson has each pair of viewers and users read once a minute on average, at random times, while a feed
// tells of a change of each user each ten minutes. It returns which part of the reads reached the homeserver, after a quarter of the time.
func poisson(t *testing.T, viewers, targets int, online float64, fed bool) (missed float64) {
	t.Helper()
	lasts := 40 * time.Minute
	if *long {
		lasts = 2 * time.Hour
	}
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2))
		o := options{Homeserver: "synapse", ReadLimit: &rate{Off: true}, Identity: &identifying{TTL: time.Hour}, LearnOff: true}
		if fed {
			o.Cache = &caching{LiveTTL: 10 * time.Minute}
		}
		p := newLongRun(t, viewers+targets, 0, o)
		for i := range targets {
			if float64(i) < online*float64(targets) {
				p.hs.Presence[p.users[viewers+i]] = `{"presence":"online","last_active_ago":1000,"currently_active":true}`
			}
		}
		var feed *scriptedFeed
		if fed {
			feed, _ = p.follow(true)
			feed.news("@stranger:example.com", "offline", "")
		}
		reads, change := 0, 0
		began, heard := time.Now(), time.Now()
		for counting := false; time.Since(began) < lasts; {
			if !counting && time.Since(began) > lasts/4 {
				counting, reads = true, 0
				p.hs.Mu.Lock()
				clear(p.hs.Counts)
				p.hs.Mu.Unlock()
			}
			time.Sleep(time.Duration(-math.Log(1-random.Float64()) * float64(time.Minute) / float64(viewers*targets)))
			if fed && time.Since(heard) > time.Minute { // as a Synapse says something while users are online
				feed.Heard(LineOther)
				heard = time.Now()
			}
			if random.IntN(10*viewers) == 0 { // each user's presence each ten minutes
				change++
				target := p.users[viewers+random.IntN(targets)]
				p.hs.Mu.Lock()
				was := strings.Contains(p.hs.Presence[target], "online")
				presence, active := "unavailable", ""
				if was {
					presence, active = "online", `,"currently_active":true`
				}
				p.hs.Presence[target] = fmt.Sprintf(`{"presence":%q,"last_active_ago":1000,"status_msg":"%d"%s}`, presence, change, active)
				p.hs.Mu.Unlock()
				if fed {
					feed.Heard(LinePresence)
					feed.news(target, presence, fmt.Sprintf(`"%d"`, change))
				}
			}
			viewer, target := random.IntN(viewers), p.users[viewers+random.IntN(targets)]
			if response := p.Get(p.tokenOf(viewer), target); response.StatusCode != http.StatusOK {
				t.Fatalf("a read is %d", response.StatusCode)
			}
			reads++
		}
		missed = p.share(reads)
	})
	return missed
}

// A pair that is read each minute is asked about each live_ttl with a feed, not each ttl.
func TestLongRunOfReadsEachMinute(t *testing.T) {
	if testkit.Race {
		t.Skip("100,000 reads one after the other race with nothing")
	}
	for _, tt := range []struct {
		what             string
		viewers, targets int
		online           float64
		most             float64 // percent, with the feed
	}{
		{"one viewer, users who are offline or idle", 1, 10, 0, 10},
		{"20 viewers, users who are offline or idle", 20, 10, 0, 10},
		{"20 viewers, one in five users is online", 20, 10, 0.2, 12},
		{"20 viewers, all users are online", 20, 10, 1, 20},
		{"one viewer, all users are online", 1, 10, 1, 70},
	} {
		if !*long && tt.viewers*tt.targets > 10 {
			continue
		}
		without, with := poisson(t, tt.viewers, tt.targets, tt.online, false), poisson(t, tt.viewers, tt.targets, tt.online, true)
		t.Logf("%-42s %4.1f %% reach the homeserver, %4.1f %% with a feed", tt.what, without, with)
		if with > tt.most && *long || with > without {
			t.Errorf("%s: %.1f %% with a feed, at most %.0f %%", tt.what, with, tt.most)
		}
	}
}

// A thousand viewers of the same fifty users: where their clients have got the list of the room, hardly
// anything is asked.
func TestThousandViewersOfFiftyUsers(t *testing.T) {
	if testkit.Race {
		t.Skip("100,000 reads one after the other race with nothing")
	}
	viewers, reads := 100, 5000
	const targets = 50
	if *long {
		viewers, reads = 1000, 50_000
	}
	for _, tt := range []struct {
		what  string
		learn bool
		most  float64
	}{
		{"without learn", false, 100},
		{"with learn on", true, 3},
	} {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, 2))
			p := newLongRun(t, viewers, 0.2, options{Homeserver: "synapse", ReadLimit: &rate{Off: true}, LearnOff: !tt.learn})
			opened := make(map[int]bool)
			var lists int
			for range reads {
				viewer := random.IntN(viewers)
				if !opened[viewer] {
					opened[viewer] = true
					lists++
					p.Do(request("GET", listPath, p.tokenOf(viewer), ""))
				}
				p.Get(p.tokenOf(viewer), p.users[random.IntN(targets)])
				time.Sleep(500 * time.Microsecond) // 2,000 a second, so within the ttl
			}
			synctest.Wait()
			share := p.share(reads)
			t.Logf("%s: of 1,000 reads %.1f reach the homeserver, and %d lists in all", tt.what, 10*share, lists)
			if share > tt.most {
				t.Errorf("%s: %.1f of 1,000 reads", tt.what, 10*share)
			}
		})
	}
}
