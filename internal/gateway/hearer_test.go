package gateway

import (
	"compress/gzip"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// endless has a room's homeserver answer with all but the last byte, until what it returns is called.
func (p *room) endless() (end func()) {
	release, answers := make(chan struct{}), p.hs.Intercept
	p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
		if !strings.HasSuffix(r.URL.Path, "members") && !strings.HasSuffix(r.URL.Path, "/sync") {
			return answers(w, r)
		}
		w.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(r.URL.Path, "/sync") {
			w.Header().Set("Content-Encoding", "gzip")
			packed := gzip.NewWriter(w)
			fmt.Fprintf(packed, `{"presence":{"events":[{"type":"m.presence","sender":%q,"content":{"presence":"online"}}]}}`, p.users[0])
			_ = packed.Flush()
			<-release
			return true, packed.Close()
		}
		body := p.list("")
		fmt.Fprint(w, body[:len(body)-1])
		<-release
		fmt.Fprint(w, body[len(body)-1:])
		return true, nil
	})
	return func() { close(release) }
}

// hears sends requests that differ by a number.
func (p *room) hears(clients *sync.WaitGroup, path, user string, from, to int) {
	for i := range to - from {
		clients.Go(func() { p.Do(request("GET", fmt.Sprintf(path, from+i), tokenOf(user), "")) })
	}
	synctest.Wait()
}

// Each list of members that was being read kept a megabyte, and each answer with gzip a quarter: one account that opened
// hundreds of requests and read none of the answers to its end took memory without bound.
func TestListsThatDontEndAreBounded(t *testing.T) {
	for name, tt := range map[string]struct{ path, metric string }{
		"lists":           {"/_matrix/client/v3/rooms/!r%d:example.com/joined_members", "learned_total list"},
		"syncs with gzip": {"/_matrix/client/v3/sync?since=s%d", "learned_total presence"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, clients := newRoom(t, &options{}), new(sync.WaitGroup)
				for _, user := range p.users {
					p.Get(tokenOf(user), user) // it is known whose the token is
				}
				time.Sleep(batchUnknown)
				for _, user := range p.users {
					p.Get(tokenOf(user), user)
				}
				end := p.endless()
				p.hears(clients, tt.path, p.users[0], 0, 100)
				end()
				clients.Wait()
				p.wantMetrics(map[string]float64{tt.metric: 4}) // of one account
				end = p.endless()
				for i, user := range p.users {
					p.hears(clients, tt.path, user, 100+5*i, 105+5*i)
				}
				end()
				clients.Wait()
				p.wantMetrics(map[string]float64{tt.metric: 4 + 64}) // of all
				time.Sleep(batchLasts + time.Second)                 // what was asked before need not be another by its hash
				p.Get(tokenOf(p.users[0]), p.users[0])
				end = p.endless()
				p.hears(clients, tt.path, p.users[0], 1000, 1001)
				end()
				clients.Wait()
				p.wantMetrics(map[string]float64{tt.metric: 4 + 64 + 1}) // their places are free again
			})
		})
	}
}

// A list has a place for as long as it is kept: until it is known whose it is, too.
func TestListOfWhomNobodyKnowsYetHasItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, clients, release := newRoom(t, &options{}), new(sync.WaitGroup), make(chan struct{})
		lists := p.hs.Intercept
		p.hs.AnswerBy(func(w http.ResponseWriter, r *http.Request) (bool, error) {
			if strings.HasSuffix(r.URL.Path, "/whoami") {
				<-release
			}
			return lists(w, r)
		})
		const path = "/_matrix/client/v3/rooms/!r%d:example.com/joined_members"
		p.hears(clients, path, p.users[0], 0, 6)
		clients.Wait()
		close(release)
		synctest.Wait()
		p.wantMetrics(map[string]float64{"learned_total list": 4})
		p.hears(clients, path, p.users[0], 6, 7)
		clients.Wait()
		p.wantMetrics(map[string]float64{"learned_total list": 5})
	})
}
