package plan

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

// Question is what a plan is asked.
type Question struct {
	Load       Load
	Settings   *gateway.Settings
	Profile    string // what the settings are called
	Homeserver string // "synapse" or "dendrite"
	Costs      *Costs

	// Nodes is how many processes with the module stand before the homeserver, and Cores how many
	// processors each has.
	Nodes, Cores int

	// Requests bounds how many are simulated, roughly. Default: 3 million.
	Requests int
	// Blocks is how many blocks are simulated. Default: as many as that bound allows, at least 4.
	Blocks int

	// Progress is told how much is done, from 0 to 1, unless it is nil.
	Progress func(done float64)
}

const (
	// warmUp is simulated before anything is counted: longer than what is remembered of a token is
	// good for.
	warmUp = 4 * time.Minute
	// window is counted for itself. How much blocks differ says how sure the mean is; where there are only a few,
	// how much their windows do. The same people are in all windows of a block, so these differ too little.
	window = 5 * time.Minute
	// windows is how many there are of each block.
	windows = 4

	// leastBlock is how many users a block has at least, if there are as many.
	leastBlock = 2000
	// leastShare is how many entries a block's share of a table has at least. Real tables have up to
	// 64 shards, so one of few entries would be rounded.
	leastShare = 128

	// mostBlock is what the sizes of tables make of a block at most.
	mostBlock = 50_000
	// mostMemberships and mostRequests are what is simulated at most: it takes a gigabyte, and some minutes.
	mostMemberships = 20_000_000
	mostRequests    = 200_000_000

	defaultRequests = 3_000_000
	leastBlocks     = 4
	maxNodes        = 64
)

// check returns what is wrong with a question.
func (q *Question) check() error {
	if err := q.Load.Check(); err != nil {
		return err
	}
	if _, ok := homeservers[q.Homeserver]; !ok {
		return fmt.Errorf("homeserver: it can be synapse or dendrite, not %q", q.Homeserver)
	}
	if q.Nodes < 1 || q.Nodes > maxNodes || q.Cores < 1 || q.Cores > 1024 {
		return fmt.Errorf("nodes: there can be 1 to %d, of 1 to 1024 cores each, not %d of %d", maxNodes, q.Nodes, q.Cores)
	}
	b, rooms := q.cut(), 0.0
	for _, r := range q.Load.Rooms {
		rooms += r.PerUser
	}
	block := float64(q.Load.Users+q.Load.Ghosts()) / float64(b.n)
	if block*rooms > mostMemberships {
		return fmt.Errorf("rooms: rooms of %d members, and each user in %.3g rooms, are too many to simulate: give smaller rooms, or fewer", q.Load.largestRoom(), rooms)
	}
	if n := b.share * q.Load.perSecond() * simulatedTime.Seconds(); n > mostRequests {
		return fmt.Errorf("users and bridges: that makes %.0f million requests to simulate, and at most %d million can be: describe a tenth of the server, and take ten times the answer", n/1e6, mostRequests/1_000_000)
	}
	return nil
}

// simulatedTime is how much of virtual time a block is simulated.
const simulatedTime = warmUp + windows*window

// blocks says how a server is cut into blocks.
type blocks struct {
	load      *Load
	n         int // of the server
	simulated int
	share     float64 // of the server that is simulated
}

// cut cuts a server into blocks: as few as its largest room and the sizes of the tables allow.
func (q *Question) cut() blocks {
	l := &q.Load
	all := l.Users + l.Ghosts()
	smallest := min(q.Settings.Sizes.States, q.Settings.Sizes.Permissions, q.Settings.Sizes.Tokens)
	size := max(leastBlock, 2*l.largestRoom(), min(mostBlock, int(math.Ceil(float64(leastShare)*float64(all)/float64(max(1, smallest))))))
	b := blocks{load: l, n: max(1, min(all/size, l.Users))}
	budget := float64(q.Requests)
	if budget <= 0 {
		budget = defaultRequests
	}
	each := l.perSecond() / float64(b.n) * simulatedTime.Seconds()
	b.simulated = max(leastBlocks, int(budget/max(1, each)))
	if q.Blocks > 0 {
		b.simulated = q.Blocks
	}
	b.simulated = min(b.simulated, b.n)
	users, ghosts := 0, 0
	for i := range b.simulated {
		u, g := b.people(i)
		users += u
		for _, n := range g {
			ghosts += n
		}
	}
	b.share = float64(users+ghosts) / float64(all)
	return b
}

// people returns how many users a block has, and how many ghosts of each bridge. Those that are
// simulated are spread over all.
func (b blocks) people(i int) (users int, ghosts []int) {
	of := func(n int) int { return n*(i+1)/b.n - n*i/b.n }
	for _, bridge := range b.load.Bridges {
		ghosts = append(ghosts, of(bridge.Ghosts))
	}
	return of(b.load.Users), ghosts
}

// result is what was simulated of a server.
type result struct {
	blocks
	samples []Counts      // of each block, or of each window of it
	window  time.Duration // how long one is
	entries [Tables]float64
}

// simulate simulates blocks, one after the other.
func (q *Question) simulate(ctx context.Context) (*result, error) {
	r := &result{blocks: q.cut(), window: window}
	dialect := homeservers[q.Homeserver]
	for i := range r.simulated {
		users, ghosts := r.people(i)
		part := float64(users)
		for _, n := range ghosts {
			part += float64(n)
		}
		sizes := share(q.Settings.Sizes, part/float64(q.Load.Users+q.Load.Ghosts()))
		w := newWorld(q.Settings, sizes, q.Nodes, dialect, everybodySees, nil)
		newBlock(&q.Load, i, users, ghosts, w)
		for at := time.Duration(0); at < warmUp; at += time.Minute {
			w.agenda.runUntil(at + time.Minute)
			if err := ctx.Err(); err != nil {
				return nil, fmt.Errorf("simulating: %w", err)
			}
		}
		before := w.count()
		for j := range windows {
			w.agenda.runUntil(warmUp + time.Duration(j+1)*window)
			after := w.count()
			r.samples = append(r.samples, after.Since(before))
			before = after
			if err := ctx.Err(); err != nil {
				return nil, fmt.Errorf("simulating: %w", err)
			}
			if q.Progress != nil {
				q.Progress((float64(i) + float64(j+1)/windows) / float64(r.simulated))
			}
		}
		for t, n := range w.entries() {
			r.entries[t] += float64(n)
		}
	}
	if r.simulated >= leastBlocks {
		r.sampleBlocks()
	}
	return r, nil
}

// sampleBlocks makes one sample of all windows of each block.
func (r *result) sampleBlocks() {
	of := make([]Counts, r.simulated)
	for i := range r.samples {
		of[i/windows].add(r.samples[i])
	}
	r.samples, r.window = of, windows*window
}

// everybodySees is who may see whom: people look at those with whom they share a room.
func everybodySees(_, _ *User) bool { return true }

// share returns the part of tables that a block has.
func share(sizes gateway.Sizes, part float64) gateway.Sizes {
	of := func(n int) int { return max(1, int(math.Round(float64(n)*part))) }
	return gateway.Sizes{States: of(sizes.States), Permissions: of(sizes.Permissions), Tokens: of(sizes.Tokens), Rooms: of(sizes.Rooms)}
}

// rate returns how often in a second something happens on the whole server, as far as the samples
// tell: the mean, and as far from it as it is with a chance of 95 % (Student's t).
func (r *result) rate(of func(*Counts) float64) Range { return r.mean(r.scale(), of) }

// scale is by what something in a window is multiplied to be that in a second on the whole server.
func (r *result) scale() float64 { return float64(r.simulated) / r.share / r.window.Seconds() }

// mean is that of something in the samples, times a factor.
func (r *result) mean(factor float64, of func(*Counts) float64) Range {
	sum, n := 0.0, float64(len(r.samples))
	values := make([]float64, len(r.samples))
	for i := range r.samples {
		values[i] = of(&r.samples[i]) * factor
		sum += values[i]
	}
	mean, squares := sum/n, 0.0
	for _, v := range values {
		squares += (v - mean) * (v - mean)
	}
	error := student(len(values)-1) * math.Sqrt(squares/(n-1)/n)
	return Range{max(0, mean-error), mean + error}
}

// student is the quantile of Student's t distribution for 95 %, by degrees of freedom.
func student(freedom int) float64 {
	for _, known := range []struct {
		freedom int
		t       float64
	}{{120, 1.98}, {60, 2.00}, {30, 2.04}, {15, 2.13}, {11, 2.20}, {7, 2.36}, {5, 2.57}, {4, 2.78}, {3, 3.18}, {2, 4.30}} {
		if freedom >= known.freedom {
			return known.t
		}
	}
	return 12.7
}

// Estimate answers a question.
func (q *Question) Estimate(ctx context.Context) (*Answer, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	r, err := q.simulate(ctx)
	if err != nil {
		return nil, err
	}
	if len(r.samples) < 2 {
		return nil, errors.New("too little was simulated")
	}
	return q.answer(r), nil
}
