package attack_test

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/wire"
)

// victims are ordinary users. Each of them does three things by turns: reads the
// presence of a friend with a token that is known, comes home with a new token and
// reads with that, and writes their own presence with another new one, and reads it.
type victims struct {
	t       *testing.T
	address string
	phase   atomic.Int32
	end     chan struct{}
	all     sync.WaitGroup

	mu    sync.Mutex // guards took and asked
	took  [phases][errands][]time.Duration
	asked int
}

const (
	before = iota
	during
	phases
)

// The errands of a victim.
const (
	readKnown = iota
	readNew
	writeNew
	errands
)

// people is how many victims there are, and rest what each of them takes between two
// errands.
const (
	people = 6
	rest   = 3 * time.Millisecond
)

// runs counts the sites' victims, so that no two have the same names.
var runs atomic.Int64

// newVictims sends them out.
func newVictims(t *testing.T, s *site) *victims {
	v := &victims{t: t, address: s.URL, end: make(chan struct{})}
	run := runs.Add(1)
	for i := range people {
		v.all.Go(func() {
			name := fmt.Sprintf("%s%d-%d", victimPrefix, run, i)
			// A network of their own; no attacker comes from it.
			if err := v.live(name, fmt.Sprintf("203.0.113.%d", 10+i)); err != nil {
				t.Errorf("victim %s: %v", name, err)
			}
		})
	}
	return v
}

// live does errands until the victims are called home.
func (v *victims) live(name, address string) error {
	w, err := wire.Dial(v.address)
	if err != nil {
		return err
	}
	defer w.Close()
	pause := time.NewTicker(rest)
	defer pause.Stop()
	for n := 0; ; n++ {
		select {
		case <-v.end:
			return nil
		case <-pause.C:
		}
		errand := n % errands
		// Their known token is asked about once in its lifetime, like anybody's.
		requests, want := v.requests(errand, name, address, n)
		phase, began := v.phase.Load(), time.Now()
		for i, request := range requests {
			r, err := w.Ask(request)
			if err != nil {
				return fmt.Errorf("errand %d, request %d: %w", n, i, err)
			}
			if r.Status != http.StatusOK || string(r.Body) != want[i] {
				return fmt.Errorf("errand %d, request %d: %s (%s), want 200 %s", n, i, r, r.CacheStatus(), want[i])
			}
		}
		v.mu.Lock()
		v.took[phase][errand] = append(v.took[phase][errand], time.Since(began))
		v.asked += len(requests)
		v.mu.Unlock()
	}
}

// requests are those of an errand, and what must come back.
func (v *victims) requests(errand int, name, address string, n int) (requests [][]byte, want []string) {
	friend := fmt.Sprintf("@friend%d:hs", n%20)
	switch errand {
	case readKnown:
		return [][]byte{wire.Request("GET", presencePath(friend), bearer(tokenOf(name, 0)), from(address))},
			[]string{presenceOf(statusOf(friend))}
	case readNew:
		return [][]byte{wire.Request("GET", presencePath(friend), bearer(tokenOf(name, n)), from(address))},
			[]string{presenceOf(statusOf(friend))}
	default:
		// Somebody new each time: a user may write five times at once.
		localpart := fmt.Sprintf("%s-%d", name, n)
		status, path, token := fmt.Sprint("away for ", n), presencePath("@"+localpart+":hs"), tokenOf(localpart, 0)
		return [][]byte{
			wire.RequestWith(online(status), "PUT", path, bearer(token), from(address)),
			wire.Request("GET", path, bearer(token), from(address)),
		}, []string{`{}`, presenceOf(status)}
	}
}

// goHome ends the victims' day and returns how it was.
func (v *victims) goHome() suffering {
	close(v.end)
	v.all.Wait()
	s := suffering{asked: v.asked}
	for phase := range phases {
		for errand := range errands {
			s.p99[phase][errand] = slowestHundredth(v.took[phase][errand])
			s.errands[phase] += len(v.took[phase][errand])
		}
	}
	return s
}

// suffering is what victims noticed of an attack.
type suffering struct {
	asked   int
	errands [phases]int
	p99     [phases][errands]time.Duration
}

// ratio is how many times as long as before an errand took, or 0 if there is no telling.
func (s suffering) ratio(errand int) float64 {
	if s.p99[before][errand] == 0 {
		return 0
	}
	return float64(s.p99[during][errand]) / float64(s.p99[before][errand])
}

func slowestHundredth(took []time.Duration) time.Duration {
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return took[(len(took)-1)*99/100]
}
