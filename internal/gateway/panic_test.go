package gateway

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// breaks makes our requests of a reason panic, in code of ours, until it is mended.
func (p *proxy) breaks(why reason) (mend func()) {
	latency := &p.memory.counters.latency[why]
	whole := *latency
	*latency = nil
	return func() { *latency = whole }
}

func TestPanicOfAFetchIsAnAnswerToAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, new(options))
		p.knows("bob-token")
		p.knows("carol-token")
		p.Put("bob-token", bob, online)
		p.Get("alice-token", bob) // who is let share the fetch
		p.Get("alice-phone", bob)
		time.Sleep(defaultTTL)
		mend := p.breaks(reasonFetch)
		p.hs.AnswerBy(func(http.ResponseWriter, *http.Request) (bool, error) {
			time.Sleep(time.Second)
			return false, nil
		})
		var wg sync.WaitGroup
		for _, token := range []string{"alice-token", "alice-phone", "alice-token"} {
			wg.Go(func() { p.Want(p.Get(token, bob), 500, "", "") })
		}
		wg.Wait()
		mend()
		p.Want(p.Get("alice-token", bob), 200, "", "matrix_presence; fwd=miss; stored")
	})
}

func TestPanicOfALookupIsAnAnswerToAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, new(options))
		mend := p.breaks(reasonWhoAmI)
		p.hs.AnswerBy(func(http.ResponseWriter, *http.Request) (bool, error) {
			time.Sleep(time.Second)
			return false, nil
		})
		var wg sync.WaitGroup
		for range 2 * maxWhoAmIsEach {
			wg.Go(func() {
				p.Want(p.Get("alice-token", alice), 200, "", "matrix_presence; fwd=bypass; detail=unknown-identity")
			})
			wg.Go(func() { p.WantError(p.Put("bob-token", bob, online), 500, "M_UNKNOWN") })
		}
		wg.Wait()
		mend()
		p.Want(p.Get("alice-token", alice), 200, "", "matrix_presence; fwd=miss; stored")
		p.Want(p.Put("bob-token", bob, online), 200, "", "")
	})
}

// Who asks alone, after what was shared has failed, gets an answer as well: the connection was
// closed instead.
func TestPanicOfARetryIsAnAnswer(t *testing.T) {
	for why, tc := range map[reason]struct {
		path, cacheStatus string
		status            int
	}{
		reasonWhoAmI: {"/whoami", "matrix_presence; fwd=bypass; detail=unknown-identity", 200},
		reasonFetch:  {"/status", "", 500},
	} {
		t.Run(ReasonNames[why], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, new(options))
				read := func(address string) *http.Response { return p.Do(from(address, "alice-token")) }
				if why == reasonFetch {
					read("203.0.113.1")
					p.Put("alice-token", alice, online)
					time.Sleep(2 * time.Second)
				}
				release, asked, mend := make(chan struct{}), 0, func() {}
				p.hs.AnswerBy(func(_ http.ResponseWriter, r *http.Request) (bool, error) {
					if !strings.HasSuffix(r.URL.Path, tc.path) {
						return false, nil
					}
					if asked++; asked == 1 {
						<-release
						return true, failed(502, io.ErrUnexpectedEOF)
					}
					mend = p.breaks(why)
					return false, nil
				})
				var wg sync.WaitGroup
				wg.Go(func() { read("203.0.113.1") })
				synctest.Wait()
				wg.Go(func() { p.Want(read("203.0.113.2"), tc.status, "", tc.cacheStatus) })
				synctest.Wait()
				close(release)
				wg.Wait()
				mend()
				p.hs.AnswerBy(nil)
				p.Want(read("203.0.113.2"), 200, "", "matrix_presence; fwd=miss; stored")
			})
		})
	}
}

// A panic where no client waits was the end of the process.
func TestPanicOfALookupThatNobodyWaitsForIsNotTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{Mode: "observe"})
		mend := p.breaks(reasonWhoAmI)
		for range 2 * maxLearning {
			p.Want(p.Get("alice-token", alice), 200, "", "")
		}
		synctest.Wait()
		if n := p.memory.learning.Len(); n != 0 {
			t.Errorf("%d places are taken for ever", n)
		}
		mend()
		p.Get("alice-token", alice)
		synctest.Wait()
		if p.memory.identities.LastKnown(matrix.Credential{Token: "alice-token"}) != alice {
			t.Error("nobody asks any more")
		}
	})
}

func TestPanicOfTheQuestionWhichHomeserverItIsIsNotTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{SyncPresence: "limit"})
		mend := p.breaks(reasonVersion)
		p.sync("alice-token", "timeout=0")
		synctest.Wait()
		mend()
		time.Sleep(firstSoftwareRetry)
		p.sync("alice-token", "timeout=0")
		synctest.Wait()
		if got := p.gateway.knownDialect(); got != synapse {
			t.Errorf("the homeserver is known as %v", got)
		}
	})
}

func TestPanicOfADeliveryLosesNoMoreThanThat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, coalescing())
		mend := p.breaks(reasonDelivery)
		p.Put("alice-token", alice, message(0))
		p.Want(p.Put("alice-token", alice, message(1)), 200, "{}", "matrix_presence; detail=coalesced")
		p.Want(p.Put("alice-phone", alice, message(2)), 200, "{}", "matrix_presence; detail=coalesced")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		p.wantDeliveries(map[string]float64{"lost": 2})
		mend()
		time.Sleep(20 * time.Second)
		p.Want(p.Put("alice-token", alice, message(3)), 200, "{}", "matrix_presence; fwd=method")
		p.Want(p.Put("alice-token", alice, message(4)), 200, "{}", "matrix_presence; detail=coalesced")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		p.wantDeliveries(map[string]float64{"lost": 2, "delivered": 1})
		p.Want(p.Get("bob-token", alice), 200, message(4), "")
	})
}

// A delivery that panicked kept its place among the requests to a homeserver that is slow, for good: after a
// few of them nobody was let through any more.
func TestPanicOfADeliveryTakesNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := coalescing()
		o.BrownOut, o.Homeserver = "on", "synapse"
		b := newBusyRoom(t, o)
		b.open(b.users[0])
		synctest.Wait()
		mend := b.breaks(reasonDelivery)
		for n := range 4 {
			b.Put(tokenOf(b.users[0]), b.users[0], message(n))
			time.Sleep(5 * time.Second)
		}
		time.Sleep(2 * time.Minute) // what waits is given up, so that nobody looks at what is mended
		synctest.Wait()
		mend()
		b.force(policy.BrownOutHold)
		if wait := b.memory.brownOut.MayEnter(b.memory.now()); wait > 0 {
			t.Error("no place is left")
		}
	})
}
