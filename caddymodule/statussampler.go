package caddymodule

import (
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/flight"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/status"
)

// lookedAtFor is for how long samples are taken after somebody has looked at a page.
const lookedAtFor = time.Minute

// samplers has the one sampler that all status pages share, so that a reload keeps its history.
var samplers = caddy.NewUsagePool()

// sampler takes the status each two seconds as long as somebody looks at it. It costs nothing
// otherwise: no goroutine is there.
type sampler struct {
	history status.History

	mu      sync.Mutex // guards all below
	looked  time.Time
	ended   bool
	stop    chan struct{} // of the goroutine, or nil if there is none
	running sync.WaitGroup
}

// takeSampler gets the sampler for a page.
func takeSampler() (*sampler, error) {
	value, _, err := samplers.LoadOrNew("", func() (caddy.Destructor, error) { return new(sampler), nil })
	if err != nil {
		return nil, err
	}
	return value.(*sampler), nil
}

// look returns the history, with a sample of now or of less than two seconds ago, and has samples
// taken from now on.
func (s *sampler) look(now time.Time) *status.History {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looked = now
	if s.stop == nil && !s.ended {
		s.history.Add(takeStatus(now))
		stop := make(chan struct{})
		s.stop = stop
		s.running.Go(func() { s.run(stop) })
	}
	return &s.history
}

// run takes samples until nobody looks any more, or stop is closed.
func (s *sampler) run(stop chan struct{}) {
	ticker := time.NewTicker(status.Step)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case now := <-ticker.C:
			if s.isIdle(now) {
				return
			}
			_ = flight.Guard(logPanic, func() { s.history.Add(takeStatus(now)) })
		}
	}
}

// isIdle reports whether nobody has looked for a while. Then who looks next has samples taken anew.
func (s *sampler) isIdle(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.looked) < lookedAtFor {
		return false
	}
	s.stop = nil
	return true
}

// Destruct implements caddy.Destructor. A request of the configuration that has ended may yet look.
func (s *sampler) Destruct() error {
	s.mu.Lock()
	s.ended = true
	if s.stop != nil {
		close(s.stop)
		s.stop = nil
	}
	s.mu.Unlock()
	s.running.Wait()
	return nil
}
