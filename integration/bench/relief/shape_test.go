package main

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// imagined is a scene of a size with people whom no homeserver knows.
func imagined(name string, k kindOfHomeserver) *scene {
	s := sizes[name]
	people := func(n int, what string) (all []*person) {
		for i := range n {
			all = append(all, &person{id: fmt.Sprintf("@%s%d:hs.test", what, i), token: fmt.Sprintf("%s%d", what, i)})
		}
		return all
	}
	w := &world{
		kindOfHomeserver: k, ledger: newLedger(k),
		people: people(s.people, "person"), members: people(s.members, "member"), targets: people(s.targets, "popular"), ghosts: people(s.ghosts, "bridge_"),
		outsider: &person{id: "@outsider:hs.test"}, room: "!room:hs.test",
	}
	w.second = &person{id: w.people[warrior].id, token: "second"}
	return &scene{world: w, way: direct, size: s}
}

func TestEveryPhaseKeepsToItsTimeAndIsTheSameForAllWays(t *testing.T) {
	for name := range sizes {
		for _, sh := range shapes {
			for _, p := range sh.phases {
				s := imagined(name, homeservers[0])
				plan := p.load(s)
				if len(plan) == 0 {
					t.Errorf("%s, %s: nothing to do", name, sh.key)
				}
				s.way = busyWay
				again := p.load(s)
				for i, r := range plan {
					if r.at < 0 || r.at > p.length(s.size) {
						t.Fatalf("%s, %s: a request at %v of %v", name, sh.key, r.at, p.length(s.size))
					}
					if again[i] != r {
						t.Fatalf("%s, %s: request %d is %v for one way and %v for another", name, sh.key, i, r, again[i])
					}
				}
				// What a Synapse on one core can do, roughly.
				if rate := float64(len(plan)) / p.length(s.size).Seconds(); rate > 900 {
					t.Errorf("%s, %s: %.0f requests a second", name, sh.key, rate)
				}
			}
		}
	}
}

func TestAnOpenedRoomIsAskedForWithAPreflightEach(t *testing.T) {
	s := imagined("full", homeservers[0])
	asked := make(map[string]int)
	var before request
	for _, r := range openRoom(s) {
		if r.kind == read && r.by != s.world.outsider {
			if before.kind != preflight || before.of != r.of {
				t.Fatalf("before the %s came a %s", r, before)
			}
			asked[r.of]++
		}
		before = r
	}
	if len(asked) != 2600 {
		t.Errorf("%d members", len(asked))
	}
	if within := 2 * s.size.roomOpen; within > 30*time.Second {
		t.Errorf("opened again after the ttl: %v", within)
	}
}

func TestEachMemberOfARoomOpensItOnce(t *testing.T) {
	s := imagined("small", homeservers[0])
	lists, reads := make(map[*person]int), make(map[*person]int)
	for _, p := range viewers.phases {
		for _, r := range p.load(s) {
			switch {
			case r.kind == list && r.of == s.world.room:
				lists[r.by]++
			case r.kind == read && lists[r.by] == 1 && r.of != r.by.id:
				reads[r.by]++
			default:
				t.Fatalf("%s", r)
			}
		}
	}
	for _, p := range s.world.people[:roomSize] {
		if lists[p] != 1 || reads[p] != roomSize-1 {
			t.Errorf("%s gets %d lists and %d presences", p.id, lists[p], reads[p])
		}
	}
}

func TestDevicesAtWarTakeTurns(t *testing.T) {
	for _, kind := range []action{write, sync_} {
		for _, k := range homeservers {
			s := imagined("full", k)
			length := s.size.war
			plan := war(s, kind, length)
			for i, r := range plan[:len(plan)-1] {
				if want := []string{"online", "unavailable"}[i%2]; r.presence != want || (r.by == s.world.second) != (i%2 == 1) || !r.change {
					t.Fatalf("%s: the %dth is %+v", k.name, i, r)
				}
			}
			if rate := float64(len(plan)-1) / length.Seconds(); rate != warRate {
				t.Errorf("%v a second", rate)
			}
			want := "unavailable"
			if kind == sync_ && !k.merges {
				want = "online"
			}
			if last := plan[len(plan)-1]; last.presence != want || last.by != s.world.people[warrior] {
				t.Errorf("%s: the last is %+v, want %s", k.name, last, want)
			}
			s.way = quiet
			for _, r := range war(s, kind, length) {
				if r.presence != k.untouched("online") {
					t.Fatalf("%s: %s in a war without a change", k.name, r.presence)
				}
			}
		}
	}
}

func TestABridgeMostlyRepeatsItself(t *testing.T) {
	s := imagined("full", homeservers[0])
	for _, tt := range []struct {
		each   time.Duration
		share  float64 // of changes, at most
		ghosts int     // that change, at least
	}{{10 * time.Second, 0.05, len(s.world.ghosts)}, {time.Minute, 0.01, len(s.world.ghosts) / 4}} {
		last, presence := make(map[*person]time.Duration), make(map[*person]string)
		writes, changes := 0, 0
		for _, r := range bridged(s, tt.each) {
			if r.kind != write {
				continue
			}
			if before, ok := last[r.by]; ok && (r.at-before < 250*time.Millisecond || r.at-before >= 500*time.Millisecond) {
				t.Fatalf("%v after the last write", r.at-before)
			}
			last[r.by] = r.at
			writes++
			if r.change {
				changes++
				if r.presence == presence[r.by] {
					t.Fatalf("a change to the same, %q", r.presence)
				}
				presence[r.by] = r.presence
			}
		}
		if share := float64(changes) / float64(writes); share > tt.share || len(presence) < tt.ghosts {
			t.Errorf("a change each %v: %d of %d writes, of %d ghosts", tt.each, changes, writes, len(presence))
		}
	}
}

func TestAStormIsTenTimesTheUsualRate(t *testing.T) {
	for name := range sizes {
		s := imagined(name, homeservers[0])
		plan := comeBack(s)
		usually := usual * float64(s.size.returning)
		if got := float64(len(plan)) / stormLength(s.size).Seconds() / usually; got < 9.9 || got > 10.1 {
			t.Errorf("%s: %.1f times as much", name, got)
		}
		if stormLength(s.size) > time.Minute {
			t.Errorf("%s: it takes %v", name, stormLength(s.size))
		}
		first := make(map[*person]bool)
		for _, r := range plan {
			if !first[r.by] && r.kind != sync_ {
				t.Fatalf("%s: %s before the first sync", name, r)
			}
			first[r.by] = true
		}
		if len(first) != s.size.returning || len(returned(s)) == 0 {
			t.Errorf("%s: %d come back, %d are looked at", name, len(first), len(returned(s)))
		}
	}
}

// Nobody behind the NAT may do what the default limits don't allow a user, and all of them
// together do more than they allow one.
func TestEverybodyBehindTheNATKeepsTheLimits(t *testing.T) {
	s := imagined("full", homeservers[0])
	writes, reads := make(map[*person]int), 0
	for _, r := range behindNAT(s) {
		if r.from != office {
			t.Fatalf("%s comes from %q", r, r.from)
		}
		if r.kind == write {
			writes[r.by]++
		} else {
			reads++
		}
	}
	for p, n := range writes {
		if n != 2 {
			t.Errorf("%s writes %d times", p.id, n)
		}
	}
	if len(writes) != 500 || reads != 2500 {
		t.Errorf("%d users, %d reads", len(writes), reads)
	}
}

func TestUnknownTokensAreManyAndNeverTheSame(t *testing.T) {
	s := imagined("full", homeservers[0])
	seen, addresses, shared := make(map[string]bool), make(map[string]int), 0
	good := make(map[string]bool)
	for _, r := range tryTokens(s) {
		if r.token == "" {
			good[r.from] = true
			continue
		}
		if seen[r.token] {
			t.Fatalf("%s again", r.token)
		}
		seen[r.token] = true
		addresses[r.from]++
	}
	for address := range addresses {
		if good[address] {
			shared++
		}
	}
	if len(addresses) != badAddresses || shared != badAddresses || !good[office] {
		t.Errorf("unknown tokens from %v, others from %v", addresses, good)
	}
	if most := whoamiBound(s.size.bad.Seconds()); len(seen) <= 2*most {
		t.Errorf("%d unknown tokens are too few to notice whether only %d are asked about", len(seen), most)
	}
}

func TestChangesAreSeenOnAHomeserverThatTellsOfThem(t *testing.T) {
	synapse, dendrite := homeservers[0], homeservers[1]
	names := func(chosen []shape, on ...kindOfHomeserver) (names []string) {
		for _, k := range started(chosen, on) {
			for _, sh := range chosen {
				for _, w := range sh.ways(k, sizes["full"]) {
					names = append(names, k.name+", "+sh.key+", "+w.name)
				}
			}
		}
		return names
	}
	want := []string{"Synapse, changes, direct", "Synapse, changes, no feed", "Synapse, changes, feed"}
	if got := names([]shape{changes}, synapse, dendrite); !slices.Equal(got, want) {
		t.Errorf("it is played on %q", got)
	}
	if got := names([]shape{changes, bridge}, synapse); !slices.Equal(got[3:], want) || got[0] != "Synapse, bridge, direct" {
		t.Errorf("with another it is played on %q", got)
	}
	s := imagined("full", synapse.withRedis())
	for _, r := range readRoom(s) {
		if !slices.Contains(s.world.people[:roomSize], r.by) || r.kind != read {
			t.Fatalf("%s is in the load", r)
		}
	}
}
