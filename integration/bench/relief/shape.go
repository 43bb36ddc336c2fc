package main

import (
	"context"
	"time"
)

// shape is a pattern of load that somebody reported.
type shape struct {
	key, name string
	what      func(size) string
	// syncs says that its requests do more than presence, so that it is also run without
	// any change of presence.
	syncs  bool
	phases []phase
	// overloads says that it is more than a homeserver can do, so that it is run with presence that gives
	// way, with presence that doesn't, and without any. Workers is how many requests are under way then: with
	// few of them the clients would give way.
	overloads bool
	workers   int
	// peers says that others' caches have an answer to it.
	peers bool
	// nodes says that it is also run with two sidecars, as one cluster.
	nodes bool
	// fed says that it is about what a homeserver tells by itself, so that it is run with a feed and without.
	fed bool
	// before is done before the first phase, by the same way, and not measured.
	before func(context.Context, *scene) error
}

// phase is a part of a shape that is measured.
type phase struct {
	name   string
	length func(size) time.Duration
	load   func(*scene) []request
	// target is the share of the homeserver's CPU time for presence that has to be saved with
	// the busy profile, or 0 for none.
	target float64
	// ends is done at once after the last answer, and its cost is counted; after is done at
	// the end.
	// Beside, if it isn't nil, goes on at the same time.
	ends, after, beside func(context.Context, *scene, *Result, *tally) error
}

// ways are those of a shape at a homeserver. Peers are asked at the full size, and of a
// homeserver that doesn't show everybody to everybody.
func (sh shape) ways(k kindOfHomeserver, s size) []way {
	switch {
	case sh.fed != k.feeds:
		return nil
	case sh.fed:
		return []way{direct, unfed, fedWay}
	case sh.overloads && !k.hides:
		return nil // it knows of no rooms with more pairs than it can do
	case sh.overloads:
		return []way{quiet, beside, brownWay, unrelieved}
	case sh.syncs:
		return []way{quiet, direct, byDefault, busyWay}
	}
	all := []way{direct, byDefault, busyWay}
	if sh.nodes && k.hides {
		all = append(all, twoNodes)
	}
	if sh.peers && k.hides && s.peers {
		all = append(all, peers...)
	}
	return all
}

// shapes are all that there are.
var shapes = []shape{roomOpen, viewers, popular, longTail, warByWrite, warBySync, bridge, storm, nat, badTokens, overload, changes}

// schedule spreads requests evenly over a time.
func schedule(requests []request, over time.Duration) []request {
	for i := range requests {
		requests[i].at = over * time.Duration(i) / time.Duration(len(requests))
	}
	return requests
}

// compareLooks compares what is seen after a phase.
func compareLooks(load func(*scene) []request) func(context.Context, *scene, *Result, *tally) error {
	return func(ctx context.Context, s *scene, _ *Result, t *tally) error {
		return s.compare(ctx, looks(load(s), 40), t)
	}
}
