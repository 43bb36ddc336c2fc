package history

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// tally counts what happened in all rounds of a scenario.
type tally struct {
	mu    sync.Mutex // guards all below
	reads map[string]int
	fates [fates]struct{ acknowledged, applied, lost int }
}

func newTally() *tally { return &tally{reads: make(map[string]int)} }

// The ends of a read without an answer.
const (
	gaveUp = "given up by the client"
	failed = "failed"
)

// read counts a read by its Cache-Status. Without one, gone tells that the client gave it up.
func (c *tally) read(gone error, cacheStatus string) {
	how := failed
	if gone != nil {
		how = gaveUp
	}
	if cacheStatus != "" {
		how, _, _ = strings.Cut(strings.TrimPrefix(cacheStatus, "matrix_presence; "), "; ttl")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads[how]++
}

// writes counts the writes of a round, when it is over.
func (c *tally) writes(hs *homeserver, ops []operation) {
	for _, op := range ops {
		if !op.isWrite {
			continue
		}
		counts := &c.fates[hs.writes[op.value].fate]
		_, applied := hs.register(op.target).applied[op.value]
		switch {
		case op.acknowledged:
			counts.acknowledged++
		case applied:
			counts.applied++
		default:
			counts.lost++
		}
	}
}

func (c *tally) String() string {
	var b strings.Builder
	reads, writes := 0, 0
	for _, n := range c.reads {
		reads += n
	}
	fmt.Fprintf(&b, "%d reads", reads)
	for _, how := range slices.Sorted(maps.Keys(c.reads)) {
		fmt.Fprintf(&b, "\n%7d %s", c.reads[how], how)
	}
	for _, n := range c.fates {
		writes += n.acknowledged + n.applied + n.lost
	}
	fmt.Fprintf(&b, "\n%d writes: acknowledged / not, but applied / neither", writes)
	for f, n := range c.fates {
		fmt.Fprintf(&b, "\n%7d /%4d /%4d %v", n.acknowledged, n.applied, n.lost, fate(f))
	}
	return b.String()
}

// missing says of what too little has happened for the test to show anything.
func (c *tally) missing(hs *homeserver) []string {
	s := hs.scenario
	acknowledged, applied, lost := 0, 0, 0
	for _, n := range c.fates {
		acknowledged, applied, lost = acknowledged+n.acknowledged, applied+n.applied, lost+n.lost
	}
	var missing []string
	want := func(what string, got, least int) {
		if got < least {
			missing = append(missing, fmt.Sprintf("only %d %s", got, what))
		}
	}
	want("hits", c.reads["hit"], 100)
	want("shared fetches", c.reads["fwd=miss; collapsed"], 50)
	want("stored answers", c.reads["fwd=miss; stored"], 50)
	want("reads past the cache", c.reads["fwd=bypass; detail=spelling"], 50)
	want("acknowledged writes", acknowledged, 20)
	if s.givenUp+s.other > 0 {
		want("writes that were applied but not acknowledged", applied, 5)
		want("writes that were not applied", lost, 5)
	}
	if s.absorbs {
		want("absorbed writes", c.reads["detail=absorbed"], 20/max(1, 2*s.nodes))
	}
	return missing
}
