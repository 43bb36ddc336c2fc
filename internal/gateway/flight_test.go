package gateway

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

func TestNextFlightDepartsAfterItsPassengersCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flights[string, int]
		var departed atomic.Int32
		gates := []chan struct{}{make(chan struct{}), make(chan struct{}), make(chan struct{})}
		fly := func() int {
			n := int(departed.Add(1))
			<-gates[n-1]
			return n
		}
		first, own, depart := g.board("a", false, fly)
		if !own || depart == nil {
			t.Fatal("the first passenger has no flight to begin")
		}
		go depart()
		shared, own, depart := g.board("a", true, fly)
		if shared != first || own || depart != nil {
			t.Error("who may share the current flight doesn't")
		}
		second, own, depart := g.board("a", false, fly)
		if second == first || !own || depart != nil {
			t.Error("who may not share the current flight does, or begins one beside it")
		}
		if third, own, _ := g.board("a", false, fly); third != second || own {
			t.Error("the next flight isn't shared")
		}
		synctest.Wait()
		if departed.Load() != 1 {
			t.Fatalf("%d flights are in the air, want 1", departed.Load())
		}
		close(gates[0])
		synctest.Wait()
		// The second has departed: who comes now must not get on it.
		late, _, _ := g.board("a", false, fly)
		if late == second {
			t.Error("a passenger got on a flight that had departed")
		}
		close(gates[1])
		close(gates[2])
		for want, f := range map[int]*flight[int]{1: first, 2: second, 3: late} {
			<-f.landed
			if f.result != want {
				t.Errorf("flight %d brought %d", want, f.result)
			}
		}
		synctest.Wait()
		if len(g.lanes) != 0 {
			t.Errorf("%d lanes are left", len(g.lanes))
		}
	})
}

func TestFlightsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flights[int, int]
		gate := make(chan struct{})
		fly := func() int { <-gate; return 0 }
		for i := range maxFlights {
			f, _, depart := g.board(i, true, fly)
			if f == nil {
				t.Fatalf("no flight after %d", i)
			}
			go depart()
		}
		if f, _, _ := g.board(maxFlights, true, fly); f != nil {
			t.Error("there is no bound")
		}
		if f, _, _ := g.board(0, true, fly); f == nil {
			t.Error("a flight that is in the air can't be shared")
		}
		close(gate)
	})
}

// A flight whose function panicked blocked its key for ever: whoever waited for it, and all
// who came later, never got an answer.
func TestFlightThatPanicsLandsWithAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := flights[string, error]{crashed: func(err error) error { return err }}
		gate := make(chan struct{})
		first, _, depart := g.board("a", true, func() error { <-gate; panic("boom") })
		go depart()
		shared, _, _ := g.board("a", true, nil)
		// The next departs although the first has crashed, in a goroutine of its own.
		next, _, _ := g.board("a", false, func() error { panic(errors.New("another")) })
		close(gate)
		<-first.landed
		<-next.landed
		for says, f := range map[string]*flight[error]{"boom": shared, "another": next} {
			if f.result == nil || !strings.Contains(f.result.Error(), says) {
				t.Errorf("the flight brought %v, want an error that says %s", f.result, says)
			}
		}
		synctest.Wait()
		if len(g.lanes) != 0 {
			t.Errorf("%d lanes are left", len(g.lanes))
		}
		later, own, depart := g.board("a", true, func() error { return nil })
		if !own || depart == nil {
			t.Fatal("the key is blocked")
		}
		if depart(); later.result != nil {
			t.Errorf("the next flight brought %v", later.result)
		}
	})
}

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
		if n := p.memory.learning.taken; n != 0 {
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
