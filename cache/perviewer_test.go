package cache

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

func TestBodiesPerViewerStayApart(t *testing.T) {
	p, rules := newPresence(), &Rules{TTL: time.Minute, PerViewer: true}
	p.allow(bob, alice, 1, rules, 0)
	wantOutcome(t, p, carol, alice, rules, time.Second, Miss)
	p.allow(carol, alice, 2, rules, time.Second)
	for viewer, want := range map[string]int{bob: 1, carol: 2} {
		if found := wantOutcome(t, p, viewer, alice, rules, 2*time.Second, Hit); versionOf(found.Answer) != want {
			t.Errorf("%s is shown version %d, want %d", viewer, versionOf(found.Answer), want)
		}
	}
	wantOutcome(t, p, bob, alice, rules, time.Minute, Miss)
	wantOutcome(t, p, carol, alice, rules, time.Minute, Hit)
	// Without the rule nobody is shown what was made for one viewer.
	shared := &Rules{TTL: time.Minute}
	for _, viewer := range []string{bob, carol} {
		if found := wantOutcome(t, p, viewer, alice, shared, 2*time.Second, Miss); found.Answer != nil {
			t.Errorf("%s is offered %+v", viewer, found.Answer)
		}
	}
	// Nor is what was stored for everybody shown to one whose body may differ.
	p.allow(bob, alice, 3, shared, 3*time.Second)
	wantOutcome(t, p, carol, alice, shared, 4*time.Second, Hit)
	wantOutcome(t, p, carol, alice, rules, 4*time.Second, Miss)
}

func TestAWriteDropsTheStatesOfAllViewers(t *testing.T) {
	p, rules := newPresence(), &Rules{TTL: time.Minute, StaleIfError: time.Hour, PerViewer: true}
	viewer := func(i int) string { return fmt.Sprintf("@v%d:hs", i) }
	for i := range 1000 {
		p.allow(viewer(i), alice, i, rules, 0)
	}
	p.allow(viewer(0), bob, 0, rules, 0)
	before, _, _ := p.Len()
	write := p.BeginWrite(alice)
	// In one step: the states of the viewers are void, not removed.
	if after, _, _ := p.Len(); after != before-1 {
		t.Errorf("%d of %d states are left, want all but the root", after, before)
	}
	gone := func() {
		for i := range 1000 {
			if found := wantOutcome(t, p, viewer(i), alice, rules, time.Second, Miss); found.Answer != nil || !found.Permitted {
				t.Fatalf("viewer %d: %+v", i, found)
			}
		}
	}
	gone()
	write.End(testkit.At(time.Second), 0)
	gone()
	wantOutcome(t, p, viewer(0), bob, rules, time.Second, Hit)

	// A new state of one viewer brings back no old one of another.
	p.allow(viewer(7), alice, 7, rules, 2*time.Second)
	for i := range 1000 {
		if want := map[bool]Outcome{true: Hit}[i == 7]; p.Lookup(viewer(i), alice, rules, testkit.At(3*time.Second)).Outcome != want {
			t.Fatalf("viewer %d: outcome is not %v", i, want)
		}
	}
}

func TestPerViewerAnOlderAnswerNeverReplacesAYoungerOne(t *testing.T) {
	p, rules := newPresence(), &Rules{TTL: time.Minute, PerViewer: true}
	older, younger := p.Depart(alice, testkit.Epoch), p.Depart(alice, testkit.At(time.Second))
	if !p.Allow(bob, younger, version(2), rules, testkit.Epoch) || p.Allow(bob, older, version(1), rules, testkit.Epoch) {
		t.Error("the older answer was stored, or the younger was not")
	}
	if !p.Allow(carol, older, version(3), rules, testkit.Epoch) {
		t.Error("one viewer's answer kept out another's")
	}
	for viewer, want := range map[string]int{bob: 2, carol: 3} {
		if found := wantOutcome(t, p, viewer, alice, rules, 2*time.Second, Hit); versionOf(found.Answer) != want {
			t.Errorf("%s is shown version %d, want %d", viewer, versionOf(found.Answer), want)
		}
	}
	// The state of before a write is no competition.
	early := p.Depart(alice, testkit.At(3*time.Second))
	p.allow(bob, alice, 4, rules, 4*time.Second)
	p.write(alice, 5*time.Second)
	if p.Allow(bob, early, version(5), rules, testkit.Epoch) {
		t.Error("an answer from before the write was stored")
	}
	if !p.allow(bob, alice, 6, rules, 6*time.Second) {
		t.Error("an answer from after the write was not stored")
	}
	// Not even if the clock readings of two requests were a little out of order.
	p.allow(bob, alice, 7, rules, 7*time.Second+1)
	p.write(alice, 7*time.Second)
	if !p.allow(bob, alice, 8, rules, 7*time.Second) {
		t.Error("a state from before the write kept out one from after it")
	}
}

// Bob's read departs, then another of his. The second brings a body that can't be
// kept, and bob sees it. Then the first arrives, with what was so before.
func TestPerViewerAnOlderAnswerNeverReplacesAYoungerMark(t *testing.T) {
	for _, perViewer := range []bool{false, true} {
		p, rules := newPresence(), &Rules{TTL: time.Minute, PerViewer: perViewer}
		older, younger := p.Depart(alice, testkit.Epoch), p.Depart(alice, testkit.At(time.Second))
		p.MarkUncached(younger)
		if p.Allow(bob, older, version(1), rules, testkit.Epoch) {
			t.Errorf("per viewer %v: an older answer replaced a younger mark", perViewer)
		}
		wantOutcome(t, p, bob, alice, rules, 2*time.Second, Uncached)
		// A younger one does.
		p.allow(bob, alice, 2, rules, 2*time.Second)
		wantOutcome(t, p, bob, alice, rules, 3*time.Second, Hit)
	}
}

func TestPerViewerAnOlderMarkNeverReplacesAYoungerAnswer(t *testing.T) {
	for _, perViewer := range []bool{false, true} {
		p, rules := newPresence(), &Rules{TTL: time.Minute, PerViewer: perViewer}
		older := p.Depart(alice, testkit.Epoch)
		p.allow(bob, alice, 1, rules, time.Second)
		p.MarkUncached(older)
		if got := p.Lookup(bob, alice, rules, testkit.At(2*time.Second)).Outcome; got != Hit {
			t.Errorf("per viewer %v: an older mark replaced a younger answer: outcome %v", perViewer, got)
		}
	}
}

func TestPerViewerUncachedMarks(t *testing.T) {
	p, rules := newPresence(), &Rules{TTL: time.Minute, PerViewer: true}
	p.allow(bob, alice, 1, rules, 0)
	p.allow(carol, alice, 2, rules, 0)
	p.MarkUncached(p.Depart(alice, testkit.At(time.Second)))
	for _, viewer := range []string{bob, carol} {
		wantOutcome(t, p, viewer, alice, rules, 2*time.Second, Uncached)
		if found := wantOutcome(t, p, viewer, alice, rules, 61*time.Second, Miss); found.Answer != nil {
			t.Errorf("%s, after the mark: %+v", viewer, found)
		}
	}
	// The next answer of one viewer ends the mark, and brings back none of before it.
	p.allow(bob, alice, 3, rules, 3*time.Second)
	wantOutcome(t, p, bob, alice, rules, 4*time.Second, Hit)
	wantOutcome(t, p, carol, alice, rules, 4*time.Second, Miss)
}
