package cache

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

func TestTablesAreBounded(t *testing.T) {
	for _, size := range []int{0, 1, 63, 100, 5000} {
		for _, perViewer := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d, per viewer %v", size, perViewer), func(t *testing.T) {
				p, rules := NewPresence(size, size, testkit.Epoch), &Rules{TTL: time.Hour, ForbiddenTTL: time.Hour, PerViewer: perViewer}
				for i := range 8000 {
					target, viewer := fmt.Sprintf("@t%d:hs", i), fmt.Sprintf("@v%d:hs", i)
					p.Allow(viewer, p.Depart(target, testkit.Epoch), version(i), rules, testkit.Epoch)
					p.deny(viewer, carol, rules, 0)
					if i%3 == 0 {
						p.MarkUncached(p.Depart(alice, testkit.Epoch))
					}
				}
				states, allowed, denied := p.Len()
				if most := max(1, size); states > most || allowed > most || denied > max(1, most/denialShare) {
					t.Errorf("%d states, %d permissions and %d denials are kept", states, allowed, denied)
				}
				if least := size * 9 / 10; states < least || allowed < least || denied < least/denialShare {
					t.Errorf("%d states, %d permissions and %d denials are kept, where %d have places", states, allowed, denied, size)
				}
			})
		}
	}
}

func TestTheLeastRecentlyUsedGo(t *testing.T) {
	p, rules := NewPresence(10, 1000, testkit.Epoch), &Rules{TTL: time.Hour}
	target := func(i int) string { return fmt.Sprintf("@t%d:hs", i) }
	for i := range 10 {
		p.allow(bob, target(i), i, rules, 0)
	}
	wantOutcome(t, p, bob, target(0), rules, 0, Hit)
	p.allow(bob, target(10), 10, rules, 0)
	wantOutcome(t, p, bob, target(0), rules, 0, Hit)
	wantOutcome(t, p, bob, target(1), rules, 0, Miss)
}

// Whoever was pushed out must be allowed again: nothing is taken for granted.
func TestOldPermissionsGo(t *testing.T) {
	p, rules := NewPresence(1000, 10, testkit.Epoch), &Rules{TTL: time.Hour}
	p.allow(bob, alice, 0, rules, 0)
	for i := range 1000 {
		p.allow(carol, fmt.Sprintf("@t%d:hs", i), i, rules, time.Second)
	}
	if found := wantOutcome(t, p, bob, alice, rules, time.Second, Miss); found.Permitted {
		t.Errorf("a permission that was pushed out: %+v", found)
	}
	wantOutcome(t, p, carol, "@t999:hs", rules, time.Second, Hit)
}

func TestResizeOfTheTables(t *testing.T) {
	p, rules := NewPresence(100, 100, testkit.Epoch), &Rules{TTL: time.Hour}
	fill := func() {
		for i := range 1000 {
			p.allow(bob, fmt.Sprintf("@t%d:hs", i), i, rules, 0)
		}
	}
	fill()
	p.Resize(10, 20)
	if states, permissions, _ := p.Len(); states != 10 || permissions != 20 {
		t.Errorf("%d states and %d permissions are kept, want 10 and 20", states, permissions)
	}
	fill()
	if states, permissions, _ := p.Len(); states != 10 || permissions != 20 {
		t.Errorf("%d states and %d permissions are kept, want 10 and 20", states, permissions)
	}
	write := p.BeginWrite(alice)
	p.Resize(500, 400)
	fill()
	if states, permissions, _ := p.Len(); states != 500 || permissions != 400 {
		t.Errorf("%d states and %d permissions are kept, want 500 and 400", states, permissions)
	}
	// Fences are not part of the tables.
	if p.Depart(alice, testkit.Epoch).Settled() {
		t.Error("Resize forgot a write that is in flight")
	}
	write.End(testkit.Epoch, 0)
	if !p.Depart(alice, testkit.Epoch).Settled() {
		t.Error("not settled after the write")
	}
}

// The answer of a target that is pushed out while its read is on its way must not
// slip past the fence: fences are never forgotten.
func TestEvictionForgetsNoFence(t *testing.T) {
	p, rules := NewPresence(1, 1, testkit.Epoch), &Rules{TTL: time.Hour}
	p.allow(bob, alice, 1, rules, 0)
	ticket := p.Depart(alice, testkit.Epoch)
	p.write(alice, 0)
	for i := range 1000 {
		p.allow(bob, fmt.Sprintf("@t%d:hs", i), i, rules, 0)
	}
	if p.Allow(bob, ticket, version(1), rules, testkit.Epoch) {
		t.Error("an answer from before the write was stored")
	}
	if found := wantOutcome(t, p, bob, alice, rules, 0, Miss); found.Answer != nil {
		t.Errorf("%+v", found)
	}
}
