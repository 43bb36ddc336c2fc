package history

import (
	"flag"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/inprocess"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/protocol"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

var moreRounds = flag.Int("rounds", 0, "rounds of each scenario, in place of the size's")

// size is how much is tested.
type size struct {
	clients, targets int
	each             int // operations of each client in a round
	rounds, ofNodes  int // of each scenario, and of those with several nodes
	think            time.Duration
}

const (
	viewers       = 6
	writersOfEach = 3 // devices of a target
)

// Hundreds of clients read and write through the sidecar. What they see must be
// what a register would have shown, in whatever they agree on about its writes.
func TestReadsAreLinearizable(t *testing.T) {
	size := suite.BySize(
		size{clients: 240, targets: 8, each: 8, rounds: 3, ofNodes: 2, think: 80 * time.Millisecond},
		size{clients: 400, targets: 10, each: 20, rounds: 10, ofNodes: 10, think: 120 * time.Millisecond})
	if *moreRounds > 0 {
		size.rounds, size.ofNodes = *moreRounds, *moreRounds
	}
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) { s.test(t, size) })
	}
}

func (s scenario) test(t *testing.T, size size) {
	start := time.Now()
	hs := newHomeserver(t, &s)
	directives := s.directives
	var between *shared
	if s.nodes > 0 {
		size.rounds = size.ofNodes
		between = newShared(t, &s)
		directives = between.directives
	}
	server, err := inprocess.Start(directives(hs.URL, 0), inprocess.Over(s.protocol))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	transport := http.DefaultTransport
	if s.protocol == protocol.HTTP1 {
		own := &http.Transport{MaxIdleConnsPerHost: size.clients, DisableCompression: true}
		t.Cleanup(own.CloseIdleConnections)
		transport = own
	}

	counts := newTally()
	reloads := 0
	var slowest time.Duration
	for round := 0; round < size.rounds || round < 5*size.rounds && len(counts.missing(hs)) > 0; round++ {
		if round > 0 {
			reload(t, server, directives(hs.URL, round))
			reloads++
		}
		l := &load{
			hs: hs, url: server.URL, think: size.think, tally: counts, problem: t.Errorf,
			http:  &http.Client{Transport: transport},
			half:  make(chan struct{}),
			total: int64(size.clients * size.each),
		}
		for n := range size.targets {
			l.targets = append(l.targets, fmt.Sprintf("@%d-%d:example.com", round, n))
		}
		clients := l.clients(size.clients)
		var running sync.WaitGroup
		for _, c := range clients {
			running.Go(func() { c.run(size.each) })
		}
		if s.reloads {
			<-l.half
			reload(t, server, directives(hs.URL, round+1))
			reloads++
		}
		if s.trouble != nil {
			<-l.half
			l.trouble.Store(true)
			s.trouble(between)
			l.trouble.Store(false)
		}
		running.Wait()
		hs.calm.Store(true)
		suite.Eventually(t, "the homeserver is quiet", hs.quiet)
		l.wantTheLastOf(t, clients)
		hs.calm.Store(false)

		var ops []operation
		for _, c := range clients {
			ops = append(ops, c.ops...)
		}
		counts.writes(hs, ops)
		slowest = max(slowest, judge(t, round, hs, ops))
		if t.Failed() {
			t.Fatal("the test itself, or the sidecar, failed")
		}
		if testing.Verbose() {
			fmt.Printf("%s: round %d, of %d if enough happens, %v\n", s.name, round+1, size.rounds, time.Since(start).Round(100*time.Millisecond))
		}
	}
	t.Logf("%s: %d clients, at least %d rounds, %d reloads, %v; the checker took %v at most for one user\n%v",
		s.name, size.clients, size.rounds, reloads, time.Since(start).Round(100*time.Millisecond), slowest.Round(time.Millisecond), counts)
	for _, what := range counts.missing(hs) {
		t.Errorf("%s, so this test shows little", what)
	}
}

func reload(t *testing.T, server *inprocess.Server, directives string) {
	t.Helper()
	if err := server.Reload(directives); err != nil {
		t.Fatal(err)
	}
}

// clients returns the devices of the targets and those of the viewers.
func (l *load) clients(n int) []*client {
	var clients []*client
	for number := range n {
		c := &client{load: l, number: number}
		if number < writersOfEach*len(l.targets) {
			c.own = l.targets[number%len(l.targets)]
			c.token = token(c.own, number)
		} else {
			// Each viewer has two tokens, and each of them several clients.
			c.token = token(fmt.Sprintf("@viewer%d:example.com", number%viewers), number%(2*viewers))
		}
		clients = append(clients, c)
	}
	return clients
}

// wantTheLastOf reads what has become of each target, when all is over. These reads are
// part of the history. They also must agree with the homeserver, which tells what
// has become of writes that nobody knows of.
func (l *load) wantTheLastOf(t *testing.T, clients []*client) {
	t.Helper()
	var reading sync.WaitGroup
	for _, c := range clients[len(clients)-2*viewers:] {
		reading.Go(func() {
			for _, target := range l.targets {
				want, _, _, _ := l.hs.register(target).read()
				for range 2 {
					op, ok := c.read(target)
					for tries := 1; !ok && tries < 100; tries++ { // on a slow machine an answer may be too late
						op, ok = c.read(target)
					}
					if !ok || op.value != want {
						t.Errorf("when all was over, %v of %s, answered: %v, want %d", op, target, ok, want)
					}
				}
			}
		})
	}
	reading.Wait()
}
