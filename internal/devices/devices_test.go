package devices

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// step is a sync that a device begins at some second and that is over as many seconds
// later, and what is to become of it.
type step struct {
	at       float64
	device   byte
	asks     matrix.Presence
	timeout  float64
	takes    float64
	verdict  SyncVerdict
	value    string // put instead
	changes  bool
	unasked  bool // the homeserver did not take it
	noBudget bool
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func runSteps(t *testing.T, dialect matrix.Dialect, steps []step) {
	t.Helper()
	d := NewDevices(1000, testkit.Epoch)
	type open struct {
		decision SyncDecision
		until    float64
		taken    bool
	}
	var underWay []open
	for i, s := range steps {
		for k := 0; k < len(underWay); k++ {
			if o := underWay[k]; o.until <= s.at {
				o.decision.End(o.taken, testkit.At(seconds(o.until)))
				underWay = append(underWay[:k], underWay[k+1:]...)
				k--
			}
		}
		asked := false
		got := d.Sync(SyncAsk{"@a:b", [16]byte{s.device}, s.asks, seconds(s.timeout)}, SyncRules{
			Dialect: dialect, Refresh: 20 * time.Second,
			Allow: func() bool { asked = true; return !s.noBudget },
		}, testkit.At(seconds(s.at)))
		if got.Verdict != s.verdict || got.Value != s.value || got.Changes != s.changes {
			t.Errorf("step %d, %v by %c at %vs: verdict %d, value %q, changes %v, want %d, %q, %v",
				i, s.asks, s.device, s.at, got.Verdict, got.Value, got.Changes, s.verdict, s.value, s.changes)
		}
		if asked && s.verdict != SyncChanged && s.verdict != SyncLimited {
			t.Errorf("step %d: charged for verdict %d", i, s.verdict)
		}
		underWay = append(underWay, open{got, s.at + s.takes, !s.unasked})
	}
}

func TestSyncsOfSynapse(t *testing.T) {
	for name, steps := range map[string][]step{
		"a fast poller is let through each refresh": {
			{at: 0, device: 'p', asks: matrix.Online, verdict: SyncChanged, changes: true},
			{at: 1, device: 'p', asks: matrix.Online, verdict: SyncUnchanged, value: "offline"},
			{at: 2, device: 'p', asks: matrix.Online, verdict: SyncUnchanged, value: "offline"},
			{at: 11, device: 'p', asks: matrix.Online, verdict: SyncUnchanged, value: "offline"},
			{at: 19, device: 'p', asks: matrix.Online, verdict: SyncRepeated}, // it may come again after 8 s only
			{at: 20, device: 'p', asks: matrix.Online, verdict: SyncUnchanged, value: "offline"},
		},
		"a long poll is never stripped": {
			{at: 0, device: 'p', asks: matrix.Online, timeout: 30, takes: .1, verdict: SyncChanged, changes: true},
			{at: .1, device: 'p', asks: matrix.Online, timeout: 30, takes: 30, verdict: SyncRepeated},
			{at: 30.2, device: 'p', asks: matrix.Online, timeout: 30, takes: 10, verdict: SyncRepeated, changes: true}, // it may have been gone
			{at: 40.3, device: 'p', asks: matrix.Online, timeout: 30, takes: 30, verdict: SyncRepeated},
		},
		"who was offline by the homeserver's timer comes back by a change": {
			{at: 0, device: 'p', asks: matrix.Online, timeout: 30, takes: 10, verdict: SyncChanged, changes: true},
			{at: 39, device: 'p', asks: matrix.Online, takes: 0, verdict: SyncRepeated, changes: true},
			{at: 70, device: 'p', asks: matrix.Online, verdict: SyncChanged, changes: true},
		},
		"who paused after a long poll was offline, as that began long ago": {
			{at: 0, device: 'p', asks: matrix.Online, timeout: 30, takes: 30, verdict: SyncChanged, changes: true},
			{at: 30.1, device: 'p', asks: matrix.Online, timeout: 30, takes: 30, verdict: SyncRepeated, changes: true},
			{at: 80, device: 'p', asks: matrix.Online, timeout: 30, takes: 5, verdict: SyncRepeated, changes: true},
			{at: 100, device: 'p', asks: matrix.Online, timeout: 30, takes: 30, verdict: SyncRepeated},
			{at: 150, device: 'p', asks: matrix.Unavailable, timeout: 30, verdict: SyncChanged, changes: true, noBudget: true}, // it comes back
		},
		"the shortest pause between two long polls may be one too many": {
			{at: 0, device: 'p', asks: matrix.Online, timeout: 30, takes: 26, verdict: SyncChanged, changes: true},
			{at: 26.1, device: 'p', asks: matrix.Online, timeout: 30, takes: 40, verdict: SyncRepeated, changes: true},
			{at: 60, device: 'p', asks: matrix.Online, timeout: 30, takes: 5, verdict: SyncRepeated}, // the other one is open still
			{at: 85.1, device: 'p', asks: matrix.Online, timeout: 30, takes: 1, verdict: SyncRepeated, changes: true},
		},
		"who is still waiting is not gone": {
			{at: 0, device: 'p', asks: matrix.Online, timeout: 60, takes: 60, verdict: SyncChanged, changes: true},
			{at: 40, device: 'p', asks: matrix.Online, timeout: 60, takes: 60, verdict: SyncRepeated},
		},
		"changes go at once, over the budget the old state stays": {
			{at: 0, device: 'p', asks: matrix.Online, verdict: SyncChanged, changes: true},
			{at: 1, device: 'p', asks: matrix.Unavailable, verdict: SyncChanged, changes: true},
			{at: 2, device: 'p', asks: matrix.Online, verdict: SyncLimited, value: "offline", noBudget: true},
			{at: 3, device: 'p', asks: matrix.Online, timeout: 30, verdict: SyncLimited, value: "unavailable", noBudget: true},
			{at: 3.1, device: 'p', asks: matrix.Online, timeout: 30, verdict: SyncLimited, value: "unavailable", noBudget: true},
			{at: 4, device: 'p', asks: matrix.Unavailable, verdict: SyncUnchanged, value: "offline"},
			{at: 5, device: 'p', asks: matrix.Online, verdict: SyncChanged, changes: true},
		},
		"nobody is held to more than they ask for": {
			{at: 0, device: 'p', asks: matrix.Online, timeout: 30, verdict: SyncChanged, changes: true},
			{at: 1, device: 'p', asks: matrix.Unavailable, timeout: 30, verdict: SyncChanged, changes: true, noBudget: true},
			{at: 2, device: 'p', asks: matrix.Online, timeout: 30, verdict: SyncLimited, value: "unavailable", noBudget: true},
			{at: 3, device: 'p', asks: matrix.Unavailable, timeout: 30, verdict: SyncRepeated},
		},
		"who holds nothing needs no budget": {
			{at: 0, device: 'p', asks: matrix.Online, verdict: SyncChanged, changes: true, noBudget: true},
			{at: 1, device: 'p', asks: matrix.Unavailable, verdict: SyncLimited, value: "offline", noBudget: true},
			{at: 40, device: 'p', asks: matrix.Unavailable, verdict: SyncChanged, changes: true, noBudget: true},
		},
		"after an outage nobody is kept away": {
			{at: 0, device: 'p', asks: matrix.Online, timeout: 30, takes: 30, verdict: SyncChanged, changes: true},
			{at: 30, device: 'p', asks: matrix.Online, timeout: 30, verdict: SyncRepeated, changes: true, unasked: true},
			{at: 35, device: 'p', asks: matrix.Online, timeout: 30, verdict: SyncChanged, changes: true, noBudget: true, unasked: true},
			{at: 40, device: 'p', asks: matrix.Online, timeout: 30, verdict: SyncChanged, changes: true, noBudget: true},
		},
		"devices are the homeserver's to merge": {
			{at: 0, device: 'p', asks: matrix.Online, verdict: SyncChanged, changes: true},
			{at: 1, device: 'q', asks: matrix.Unavailable, verdict: SyncChanged, changes: true},
			{at: 2, device: 'p', asks: matrix.Online, verdict: SyncUnchanged, value: "offline"},
			{at: 2, device: 'q', asks: matrix.Unavailable, verdict: SyncUnchanged, value: "offline"},
		},
		"what the homeserver refused was not said": {
			{at: 0, device: 'p', asks: matrix.Online, verdict: SyncChanged, changes: true, unasked: true},
			{at: 1, device: 'p', asks: matrix.Online, verdict: SyncChanged, changes: true},
		},
	} {
		t.Run(name, func(t *testing.T) { runSteps(t, matrix.Synapse, steps) })
	}
}

func TestSyncsOfDendrite(t *testing.T) {
	for name, steps := range map[string][]step{
		"long polls too are stripped: it keeps a state for minutes": {
			{at: 0, device: 'p', asks: matrix.Online, timeout: 30, takes: 1, verdict: SyncChanged, changes: true},
			{at: 1, device: 'p', asks: matrix.Online, timeout: 30, takes: 1, verdict: SyncUnchanged, value: "unchanged"},
			{at: 2, device: 'p', asks: matrix.Online, timeout: 30, takes: 30, verdict: SyncUnchanged, value: "unchanged"},
			{at: 32, device: 'p', asks: matrix.Online, timeout: 30, takes: 30, verdict: SyncRepeated},
		},
		"a lower state has to be said again until it counts": {
			{at: 0, device: 'p', asks: matrix.Online, verdict: SyncChanged, changes: true},
			{at: 2, device: 'p', asks: matrix.Unavailable, verdict: SyncChanged, changes: true}, // ignored
			{at: 4, device: 'p', asks: matrix.Unavailable, verdict: SyncRepeated, changes: true},
			{at: 12, device: 'p', asks: matrix.Unavailable, verdict: SyncRepeated, changes: true}, // takes effect
			{at: 14, device: 'p', asks: matrix.Unavailable, verdict: SyncUnchanged, value: "unchanged"},
		},
		"a lower state is held down until the other device is gone": {
			{at: 0, device: 'p', asks: matrix.Online, timeout: 30, takes: 25, verdict: SyncChanged, changes: true},
			{at: 1, device: 'q', asks: matrix.Unavailable, verdict: SyncOutranked, value: "unchanged"},
			{at: 22, device: 'q', asks: matrix.Offline, verdict: SyncOutranked, value: "unchanged"}, // p's is open
			{at: 26, device: 'q', asks: matrix.Unavailable, verdict: SyncChanged, changes: true},
		},
		"two that were held down by each other's past both get through": {
			{at: 0, device: 'p', asks: matrix.Online, verdict: SyncChanged, changes: true},
			{at: 1, device: 'q', asks: matrix.Online, verdict: SyncRepeated},
			{at: 2, device: 'p', asks: matrix.Unavailable, verdict: SyncOutranked, value: "unchanged"},
			{at: 3, device: 'q', asks: matrix.Unavailable, verdict: SyncChanged, changes: true},
		},
		"a repeat of one's own is a change after another's": {
			{at: 0, device: 'q', asks: matrix.Unavailable, verdict: SyncChanged, changes: true},
			{at: 1, device: 'p', asks: matrix.Online, verdict: SyncChanged, changes: true},
			{at: 2, device: 'q', asks: matrix.Unavailable, verdict: SyncOutranked, value: "unchanged"},
			{at: 22, device: 'q', asks: matrix.Unavailable, verdict: SyncChanged, changes: true},
		},
	} {
		t.Run(name, func(t *testing.T) { runSteps(t, matrix.Dendrite, steps) })
	}
}

func TestSyncsOfTuwunel(t *testing.T) {
	runSteps(t, matrix.Tuwunel, []step{ // which has nothing that could be said instead
		{at: 0, device: 'p', asks: matrix.Online, verdict: SyncChanged, changes: true, noBudget: true},
		{at: 1, device: 'p', asks: matrix.Online, verdict: SyncRepeated},
		{at: 2, device: 'p', asks: matrix.Offline, verdict: SyncChanged, changes: true, noBudget: true}, // not online
		{at: 3, device: 'p', asks: matrix.Offline, verdict: SyncRepeated},
		{at: 4, device: 'p', asks: matrix.Online, verdict: SyncLimited, value: "offline", noBudget: true},
		{at: 5, device: 'p', asks: matrix.Busy, verdict: SyncChanged, changes: true},
	})
}

func TestWatchedSyncsGoAsTheyAre(t *testing.T) {
	for _, dialect := range []matrix.Dialect{matrix.UnknownDialect, matrix.Synapse, matrix.Dendrite, matrix.Tuwunel} {
		d := NewDevices(100, testkit.Epoch)
		for i, asks := range []matrix.Presence{matrix.Online, matrix.Online, matrix.Unavailable, matrix.Online} {
			got := d.Sync(SyncAsk{"@a:b", [16]byte{1}, asks, 0}, SyncRules{Dialect: dialect, ObserveOnly: true, Refresh: time.Minute,
				Allow: func() bool { t.Error("a budget is charged"); return false }}, testkit.At(time.Duration(i)*time.Second))
			// Of an unknown homeserver isn't known what a repeat is.
			if got.Value != "" || got.Changes != (i != 1 || dialect == matrix.UnknownDialect) {
				t.Errorf("dialect %d, sync %d: value %q, changes %v", dialect, i, got.Value, got.Changes)
			}
			got.End(true, testkit.At(time.Duration(i)*time.Second))
		}
	}
}

func TestSyncAfterAWrite(t *testing.T) {
	free := func() bool { return true }
	for _, tt := range []struct {
		dialect matrix.Dialect
		wrote   matrix.Presence
		asks    matrix.Presence
		changes bool
	}{
		{matrix.Synapse, matrix.Online, matrix.Online, false},
		{matrix.Synapse, matrix.Unavailable, matrix.Online, true},
		{matrix.Synapse, matrix.Busy, matrix.Online, false}, // a sync doesn't end it
		{matrix.Synapse, matrix.NoPresence, matrix.Online, true},
		{matrix.Dendrite, matrix.Unavailable, matrix.Online, true},
		{matrix.Dendrite, matrix.Online, matrix.Online, true}, // what syncs said before isn't known
		{matrix.Tuwunel, matrix.Busy, matrix.Online, true},
	} {
		d := NewDevices(100, testkit.Epoch)
		d.BeginWrite("@a:b", [16]byte{1}, tt.dialect, testkit.At(0)).Taken(tt.wrote, tt.dialect, testkit.At(0))
		got := d.Sync(SyncAsk{"@a:b", [16]byte{1}, tt.asks, matrix.Unbounded}, SyncRules{Dialect: tt.dialect, Refresh: time.Second, Allow: free}, testkit.At(2*time.Second))
		if got.Changes != tt.changes {
			t.Errorf("dialect %d: after a write of %q a sync with %q changes %v, want %v", tt.dialect, tt.wrote, tt.asks, got.Changes, tt.changes)
		}
		got.End(true, testkit.At(2*time.Second))
	}
}

// A write keeps no device's syncs from the homeserver: their timers go by syncs.
func TestSyncAfterAWriteGoesThrough(t *testing.T) {
	d := NewDevices(100, testkit.Epoch)
	sync := func(at float64) SyncDecision {
		got := d.Sync(SyncAsk{"@a:b", [16]byte{1}, matrix.Online, 0},
			SyncRules{Dialect: matrix.Synapse, Refresh: 20 * time.Second, Allow: func() bool { return true }}, testkit.At(seconds(at)))
		got.End(true, testkit.At(seconds(at)))
		return got
	}
	sync(0)
	sync(25)
	d.BeginWrite("@a:b", [16]byte{1}, matrix.Synapse, testkit.At(seconds(38))).Taken(matrix.Online, matrix.Synapse, testkit.At(seconds(38)))
	// The next may be as late as this one was, at 75: too late for Synapse, if it was
	// not told now.
	if got := sync(50); got.Verdict != SyncRepeated || got.Value != "" {
		t.Errorf("after a write: verdict %d, value %q", got.Verdict, got.Value)
	}
	d.BeginWrite("@a:b", [16]byte{1}, matrix.Synapse, testkit.At(seconds(51))).Taken(matrix.Online, matrix.Synapse, testkit.At(seconds(51)))
	sync(51)
	if got := sync(52); got.Verdict != SyncUnchanged {
		t.Errorf("after a sync after a write: verdict %d", got.Verdict)
	}
	for at := 60.; at < 130; at += 10 {
		d.BeginWrite("@a:b", [16]byte{1}, matrix.Synapse, testkit.At(seconds(at))).Taken(matrix.Online, matrix.Synapse, testkit.At(seconds(at)))
		if got := sync(at + 1); got.Value != "" {
			t.Errorf("by writes a sync at %v is stripped", at+1)
		}
	}
}

// Nor does a write tell how soon the device will sync again.
func TestWriteShortensNoPause(t *testing.T) {
	d := NewDevices(100, testkit.Epoch)
	sync := func(device byte, at float64) SyncDecision {
		got := d.Sync(SyncAsk{"@a:b", [16]byte{device}, matrix.Online, 0},
			SyncRules{Dialect: matrix.Dendrite, Refresh: 20 * time.Second, Allow: func() bool { return true }}, testkit.At(seconds(at)))
		got.End(true, testkit.At(seconds(at)))
		return got
	}
	sync('p', 0)
	sync('q', 290)
	d.BeginWrite("@a:b", [16]byte{'p'}, matrix.Dendrite, testkit.At(seconds(291))).Taken(matrix.Online, matrix.Dendrite, testkit.At(seconds(291)))
	sync('q', 292)
	if got := sync('p', 300); got.Verdict != SyncRepeated { // the next may come at 600
		t.Errorf("verdict %d, value %q", got.Verdict, got.Value)
	}
}

// What homeservers take a device for active by ends a lower state than online.
func TestActivityEndsALowerState(t *testing.T) {
	for _, tt := range []struct {
		dialect matrix.Dialect
		says    matrix.Presence
		changes bool
	}{
		{matrix.Synapse, matrix.Unavailable, true},
		{matrix.Synapse, matrix.Online, false},
		{matrix.Tuwunel, matrix.Offline, true},
		{matrix.Dendrite, matrix.Unavailable, false},
	} {
		d := NewDevices(100, testkit.Epoch)
		if d.Active("@a:b", [16]byte{1}, tt.dialect, testkit.At(0), testkit.At(0)) != (tt.dialect != matrix.Dendrite) || d.Len() != 0 {
			t.Errorf("dialect %d: activity of a device that is not known: it may be a change, but on Dendrite", tt.dialect)
		}
		sync := func(at float64, allow bool) SyncDecision {
			got := d.Sync(SyncAsk{"@a:b", [16]byte{1}, tt.says, 0},
				SyncRules{Dialect: tt.dialect, Refresh: 20 * time.Second, Allow: func() bool { return allow }}, testkit.At(seconds(at)))
			got.End(true, testkit.At(seconds(at)))
			return got
		}
		sync(0, true)
		sync(20, true) // it lingers no more
		if got := d.Active("@a:b", [16]byte{1}, tt.dialect, testkit.At(seconds(20)), testkit.At(seconds(20))); got != tt.changes {
			t.Errorf("dialect %d: activity after %v changes %v", tt.dialect, tt.says, got)
		}
		if d.Active("@a:b", [16]byte{2}, tt.dialect, testkit.At(seconds(20)), testkit.At(seconds(20))) != (tt.dialect != matrix.Dendrite) {
			t.Errorf("dialect %d: another device's activity is taken for this one's", tt.dialect)
		}
		if got := sync(21, false); got.Changes != tt.changes || tt.changes && got.Verdict != SyncRepeated {
			t.Errorf("dialect %d: the same again: verdict %d, changes %v", tt.dialect, got.Verdict, got.Changes)
		}
		if got := sync(22, false); got.Changes {
			t.Errorf("dialect %d: and again: verdict %d changes", tt.dialect, got.Verdict)
		}
		if d.Active("@a:b", [16]byte{1}, tt.dialect, testkit.At(seconds(20)), testkit.At(seconds(20))); tt.changes {
			tt.says = matrix.Online // which it is by then
			if got := sync(23, false); got.Value != "" {
				t.Errorf("dialect %d: online after activity: verdict %d, value %q", tt.dialect, got.Verdict, got.Value)
			}
		}
	}
}

// A bot says offline by its syncs and online by its writes. Each pair once counted as two
// changes on Dendrite; when the budget was used up, the next sync was made to say online,
// as the write had, and the one after that offline again, this time for good: Dendrite
// compares a sync with what syncs said before. To it a write is nothing to a sync. To the others
// it is, and the sync goes as it asks with or without a budget, which other devices of
// the user then hadn't.
func TestBotSpendsNothing(t *testing.T) {
	for dialect, lower := range map[matrix.Dialect]matrix.Presence{matrix.Dendrite: matrix.Offline, matrix.Synapse: matrix.Unavailable, matrix.Tuwunel: matrix.Offline} {
		d := NewDevices(100, testkit.Epoch)
		for n := range 100 {
			at := testkit.At(seconds(float64(n) * 7))
			got := d.Sync(SyncAsk{"@bot:b", [16]byte{1}, lower, 0}, SyncRules{Dialect: dialect, Refresh: 20 * time.Second,
				Allow: func() bool { t.Fatalf("dialect %d, round %d: a sync is charged", dialect, n); return false }}, at)
			if got.Value != "" && (dialect != matrix.Dendrite || got.Value != "unchanged") {
				t.Fatalf("dialect %d, round %d: a sync for %v says %q", dialect, n, lower, got.Value)
			}
			got.End(true, at)
			at = at.Add(time.Second)
			d.BeginWrite("@bot:b", [16]byte{1}, dialect, at).Taken(matrix.Online, dialect, at)
		}
	}
}

// Over the limit a sync says what its own client has said by a sync before, or nothing, or
// goes as it came: not what a write has said, nor another device.
func TestNobodyIsHeldToWhatAnotherSaid(t *testing.T) {
	over := func() bool { return false }
	for _, tt := range []struct {
		dialect matrix.Dialect
		wrote   matrix.Presence
		asks    matrix.Presence
	}{
		{matrix.Synapse, matrix.Unavailable, matrix.Online}, {matrix.Synapse, matrix.Offline, matrix.Online}, {matrix.Synapse, matrix.Online, matrix.Unavailable},
		{matrix.Tuwunel, matrix.Unavailable, matrix.Online}, {matrix.Tuwunel, matrix.Offline, matrix.Busy}, {matrix.Tuwunel, matrix.Busy, matrix.Online},
	} {
		d := NewDevices(100, testkit.Epoch)
		d.BeginWrite("@a:b", [16]byte{1}, tt.dialect, testkit.At(0)).Taken(tt.wrote, tt.dialect, testkit.At(0))
		got := d.Sync(SyncAsk{"@a:b", [16]byte{1}, tt.asks, matrix.Unbounded}, SyncRules{Dialect: tt.dialect, Refresh: time.Second, Allow: over}, testkit.At(0))
		if got.Value != "" {
			t.Errorf("dialect %d: after a write of %v a sync for %v says %q", tt.dialect, tt.wrote, tt.asks, got.Value)
		}
	}
	d := NewDevices(100, testkit.Epoch)
	rules := SyncRules{Dialect: matrix.Dendrite, Refresh: time.Second, Allow: over}
	d.Sync(SyncAsk{"@a:b", [16]byte{1}, matrix.Unavailable, 0}, rules, testkit.At(0)).End(true, testkit.At(0))
	got := d.Sync(SyncAsk{"@a:b", [16]byte{2}, matrix.Online, matrix.Unbounded}, rules, testkit.At(time.Second))
	if got.Value != "" {
		t.Errorf("a device of Dendrite says what another said: %q", got.Value)
	}
}

// A sync that the homeserver refuses has said nothing. It once ended what was known, so that
// whoever had every other sync refused, by a filter that isn't there, had none limited.
func TestRefusedSyncChangesNothing(t *testing.T) {
	for _, dialect := range []matrix.Dialect{matrix.Synapse, matrix.Dendrite, matrix.Tuwunel} {
		d := NewDevices(100, testkit.Epoch)
		ask := func(at float64, asks matrix.Presence) SyncDecision {
			return d.Sync(SyncAsk{"@a:b", [16]byte{1}, asks, matrix.Unbounded},
				SyncRules{Dialect: dialect, Refresh: 20 * time.Second, Allow: func() bool { return false }}, testkit.At(seconds(at)))
		}
		ask(0, matrix.Unavailable).End(true, testkit.At(0))
		for at := 1.; at < 20; at++ {
			ask(at, matrix.Unavailable).Refuse()
			got := ask(at+.1, matrix.Online)
			if got.Verdict != SyncLimited {
				t.Fatalf("dialect %d at %v: after a refused sync the verdict is %d", dialect, at, got.Verdict)
			}
			got.Refuse()
		}
		// Two at a time: what one that is refused has said is not taken for said.
		first, second := ask(20, matrix.Unavailable), ask(20, matrix.Unavailable)
		first.Refuse()
		second.Refuse()
		if got := ask(21, matrix.Unavailable); got.Verdict == SyncUnchanged {
			t.Errorf("dialect %d: what was refused is taken for said", dialect)
		}
	}
}

// A device whose token has ended wants nothing any more. On Dendrite it once held the
// user's next device down for as long as refresh.
func TestForgottenDeviceHoldsNobodyDown(t *testing.T) {
	for name, forget := range map[string]func(*Devices){
		"one": func(d *Devices) { d.Forget("@a:b", [16]byte{'p'}) },
		"all": func(d *Devices) { d.ForgetUser("@a:b") },
	} {
		d := NewDevices(100, testkit.Epoch)
		sync := func(device byte, asks matrix.Presence) SyncDecision {
			return d.Sync(SyncAsk{"@a:b", [16]byte{device}, asks, seconds(30)},
				SyncRules{Dialect: matrix.Dendrite, Refresh: 20 * time.Second, Allow: func() bool { return true }}, testkit.At(0))
		}
		open := sync('p', matrix.Online) // waits for news
		if got := sync('q', matrix.Unavailable); got.Verdict != SyncOutranked {
			t.Fatalf("%s: verdict %d while the other is there", name, got.Verdict)
		}
		d.Forget("@a:b", [16]byte{'x'}) // nobody
		d.ForgetUser("@nobody:b")
		forget(d)
		if got := sync('q', matrix.Unavailable); got.Verdict != SyncChanged {
			t.Errorf("%s: verdict %d", name, got.Verdict)
		}
		open.End(true, testkit.At(time.Second))
		d.ForgetUser("@a:b")
		if n := d.Len(); n != 0 {
			t.Errorf("%s: %d devices", name, n)
		}
	}
}

// Typing long after the last sync makes an idle user of tuwunel online again, and a
// sync after it is seen too.
func TestActivityAfterALongPauseIsAChange(t *testing.T) {
	for _, dialect := range []matrix.Dialect{matrix.Synapse, matrix.Tuwunel} {
		d := NewDevices(100, testkit.Epoch)
		sync := func(at time.Duration) SyncDecision {
			got := d.Sync(SyncAsk{"@a:b", [16]byte{1}, matrix.Online, 0},
				SyncRules{Dialect: dialect, Refresh: time.Second, Allow: func() bool { return true }}, testkit.At(at))
			got.End(true, testkit.At(at))
			return got
		}
		sync(0)
		if d.Active("@a:b", [16]byte{1}, dialect, testkit.At(time.Second), testkit.At(time.Second)) {
			t.Errorf("dialect %d: activity of a device that is online is a change", dialect)
		}
		late := time.Second + dialect.SyncTimeout() - 2*time.Second
		if !d.Active("@a:b", [16]byte{1}, dialect, testkit.At(late), testkit.At(late)) {
			t.Errorf("dialect %d: activity of a device that may be gone is no change", dialect)
		}
		if !sync(late + time.Second).Changes {
			t.Errorf("dialect %d: the sync after it is no change", dialect)
		}
	}
}

// A client that comes about as regularly as clients do is never offline at Synapse by
// what we take out: whenever it comes, its state lasts still, or would have ended
// without us too.
func TestRegularClientNeverGoesOfflineByUs(t *testing.T) {
	random := testkit.Rand(t)
	for range 2000 {
		d := NewDevices(100, testkit.Epoch)
		pause, timeout := random.Float64()*28, []float64{0, 0, 1, 5, 10, 30}[random.IntN(6)]
		refresh := seconds(1 + random.Float64()*24)
		at, native, ours, stripped := 0.0, 0.0, 0.0, 0
		for n := range 100 {
			asks := matrix.Online
			if n > 50 {
				asks = matrix.Unavailable
			}
			if n > 0 && at > ours && at <= native {
				t.Fatalf("pause %.1f, timeout %v, refresh %v: offline since %.1f at %.1f, without us not before %.1f", pause, timeout, refresh, ours, at, native)
			}
			got := d.Sync(SyncAsk{"@a:b", [16]byte{1}, asks, seconds(timeout)},
				SyncRules{Dialect: matrix.Synapse, Refresh: refresh, Allow: func() bool { return n == 0 || at > ours || random.IntN(2) == 0 }}, testkit.At(seconds(at)))
			end := at + random.Float64()*timeout
			native = max(at+30, end)
			if got.Value != "offline" {
				ours = max(at+30, end)
			} else {
				stripped++
			}
			got.End(true, testkit.At(seconds(end)))
			at = end + pause + random.Float64()*2
		}
		if pause < 3 && timeout == 0 && refresh > 10*time.Second && stripped < 50 {
			t.Fatalf("pause %.1f, refresh %v: only %d of 100 stripped", pause, refresh, stripped)
		}
	}
}

// Of more devices than are told apart none is kept away from the homeserver.
func TestForgottenDeviceGoesAsItAsks(t *testing.T) {
	d := NewDevices(1000, testkit.Epoch)
	for round := range 10 {
		for i := range maxUserDevices + 4 {
			now := testkit.At(time.Duration(round)*30*time.Second + time.Duration(i)*time.Second)
			asks := []matrix.Presence{matrix.Unavailable, matrix.Online}[i%2]
			got := d.Sync(SyncAsk{"@a:b", [16]byte{byte(i)}, asks, 30 * time.Second},
				SyncRules{Dialect: matrix.Synapse, Refresh: 20 * time.Second, Allow: func() bool { return false }}, now)
			if got.Value != "" {
				t.Errorf("round %d, device %d: verdict %d, value %q", round, i, got.Verdict, got.Value)
			}
			got.End(true, now)
		}
	}
}

func TestDevicesAreBounded(t *testing.T) {
	random := testkit.Rand(t)
	d := NewDevices(200, testkit.Epoch)
	var open []SyncDecision
	for i := range 20_000 {
		now := testkit.At(time.Duration(i) * time.Millisecond)
		user := fmt.Sprintf("@u%d:b", random.IntN(300))
		if i > 15_000 {
			user = "@crowd:b"
		}
		device := [16]byte{byte(random.IntN(40))}
		if random.IntN(3) == 0 {
			d.BeginWrite(user, device, matrix.Dendrite, now).Taken(matrix.Online, matrix.Dendrite, now)
			continue
		}
		open = append(open, d.Sync(SyncAsk{user, device, matrix.Online, 0}, SyncRules{Dialect: matrix.Dendrite, Refresh: time.Second, Allow: func() bool { return true }}, now))
		if len(open) > 50 {
			open[0].End(true, now)
			open = open[1:]
		}
		if n := d.Len(); n > 200 {
			t.Fatalf("%d devices", n)
		}
	}
	if d.Len() < 100 || d.Evicted() == 0 {
		t.Errorf("%d devices, %d evicted", d.Len(), d.Evicted())
	}
	d.Resize(16)
	if n := d.Len(); n > 16 {
		t.Errorf("%d devices after a resize", n)
	}
	held := 0
	for i := range d.shards {
		for _, user := range d.shards[i].users.Values() {
			held += len(user.devices)
		}
	}
	if held != d.Len() {
		t.Errorf("%d devices held, %d counted", held, d.Len())
	}
}

// BenchmarkMemoryDevices measures a user with one device.
func BenchmarkMemoryDevices(b *testing.B) {
	testkit.ReportHeap(b, testkit.Entries, func() any {
		d := NewDevices(testkit.Entries*11/10, testkit.Epoch)
		for i := range testkit.Entries {
			d.BeginWrite(fmt.Sprintf("@user%07d:example.com", i), [16]byte{1}, matrix.Synapse, testkit.Epoch).Taken(matrix.Online, matrix.Synapse, testkit.Epoch)
		}
		return d
	})
}

// Dendrite has one state of a user, and any device's sync may change it. One by a device
// that wasn't known yet, because its token was new, couldn't be judged and was taken for
// nothing: the next sync of another device was taken for a repeat, although it changed
// the state back, and readers kept what they had. A lower state that came within ten
// seconds lingered, too, and was no longer asked for when it could have taken effect.
func TestSyncOfAnUnknownDeviceOfDendriteIsInDoubt(t *testing.T) {
	d := NewDevices(100, testkit.Epoch)
	sync := func(at float64, asks matrix.Presence) SyncDecision {
		got := d.Sync(SyncAsk{"@a:b", [16]byte{'p'}, asks, 0},
			SyncRules{Dialect: matrix.Dendrite, Refresh: 20 * time.Second, Allow: func() bool { return true }}, testkit.At(seconds(at)))
		got.End(true, testkit.At(seconds(at)))
		return got
	}
	sync(0, matrix.Unavailable)
	sync(15, matrix.Unavailable)
	d.Doubt("@a:b", [16]byte{'q'}, testkit.At(seconds(16))) // it may have said online
	for at := 17.; at < 27; at++ {
		if got := sync(at, matrix.Unavailable); got.Verdict != SyncRepeated || !got.Changes {
			t.Errorf("at %v: verdict %d, changes %v", at, got.Verdict, got.Changes)
		}
	}
	sync(27, matrix.Unavailable)
	if got := sync(28, matrix.Unavailable); got.Verdict != SyncUnchanged {
		t.Errorf("in the end the verdict is %d", got.Verdict)
	}
	// Nor does a sync that is refused end the doubt.
	d.Doubt("@a:b", [16]byte{'q'}, testkit.At(seconds(29)))
	d.Sync(SyncAsk{"@a:b", [16]byte{'p'}, matrix.Unavailable, 0}, SyncRules{Dialect: matrix.Dendrite, Refresh: 20 * time.Second}, testkit.At(seconds(30))).Refuse()
	if got := sync(31, matrix.Unavailable); !got.Changes {
		t.Errorf("after a refused sync the verdict is %d", got.Verdict)
	}
}

// As long as a write is on its way the homeserver may take it at any time, before or after a
// sync or an activity. One of these once ended the doubt, and the answer to the write made its
// state the one that holds, whatever had come meanwhile: the next sync was taken for a repeat.
func TestWhatComesDuringAWriteMayComeFirst(t *testing.T) {
	for _, dialect := range []matrix.Dialect{matrix.Synapse, matrix.Tuwunel} {
		d := NewDevices(100, testkit.Epoch)
		sync := func(at float64, asks matrix.Presence) SyncDecision {
			got := d.Sync(SyncAsk{"@a:b", [16]byte{'p'}, asks, 0},
				SyncRules{Dialect: dialect, Refresh: 20 * time.Second, Allow: func() bool { return true }}, testkit.At(seconds(at)))
			got.End(true, testkit.At(seconds(at)))
			return got
		}
		active := func(at float64) bool {
			return d.Active("@a:b", [16]byte{'p'}, dialect, testkit.At(seconds(at)), testkit.At(seconds(at)))
		}
		changes := func(what string, got bool) {
			t.Helper()
			if !got {
				t.Errorf("dialect %d: %s is no change", dialect, what)
			}
		}
		sync(0, matrix.Online)
		write := d.BeginWrite("@a:b", [16]byte{'p'}, dialect, testkit.At(seconds(1)))
		for at := 2.; at < 5; at++ {
			changes("a sync during a write", sync(at, matrix.Online).Changes)
		}
		changes("an activity during a write", active(5))
		write.Taken(matrix.Unavailable, dialect, testkit.At(seconds(6)))
		changes("a sync that says as the write did", sync(7, matrix.Unavailable).Changes)

		write = d.BeginWrite("@a:b", [16]byte{'p'}, dialect, testkit.At(seconds(8)))
		changes("an activity during a write of the same", active(9))
		write.Taken(matrix.Unavailable, dialect, testkit.At(seconds(10)))
		changes("a sync after it", sync(11, matrix.Unavailable).Changes)

		sync(12, matrix.Online)
		write = d.BeginWrite("@a:b", [16]byte{'p'}, dialect, testkit.At(seconds(13)))
		sync(14, matrix.Online)
		write.Failed(true, testkit.At(seconds(15)))
		changes("an activity after a write that may have happened", active(16))
		changes("a sync after it", sync(17, matrix.Online).Changes)
		write = d.BeginWrite("@a:b", [16]byte{'p'}, dialect, testkit.At(seconds(18)))
		write.Failed(false, testkit.At(seconds(18)))
		if got := sync(18, matrix.Online); got.Changes {
			t.Errorf("dialect %d: after a write that was refused the verdict is %d", dialect, got.Verdict)
		}
	}
}

// A slow homeserver may have taken a write long before it says so, and take the device for gone
// when it counts from then. The time of the answer was once taken for that of the write.
func TestSlowWriteKeepsNobodyThereForLonger(t *testing.T) {
	d := NewDevices(100, testkit.Epoch)
	sync := func(at float64) SyncDecision {
		got := d.Sync(SyncAsk{"@a:b", [16]byte{'p'}, matrix.Unavailable, seconds(30)},
			SyncRules{Dialect: matrix.Synapse, Refresh: 20 * time.Second, Allow: func() bool { return true }}, testkit.At(seconds(at)))
		got.End(true, testkit.At(seconds(at)))
		return got
	}
	write := d.BeginWrite("@a:b", [16]byte{'p'}, matrix.Synapse, testkit.At(0))
	sync(2)
	write.Taken(matrix.Unavailable, matrix.Synapse, testkit.At(seconds(20)))
	if got := sync(33); !got.Changes {
		t.Errorf("verdict %d, changes %v", got.Verdict, got.Changes)
	}
}

// What was told of a homeserver as one kind says nothing of it as another: it was recognised late,
// or a reload has named it. What a write had set once counted as said by a sync of Dendrite.
func TestAnotherKindOfHomeserverHasBeenToldNothing(t *testing.T) {
	for _, dialects := range [][2]matrix.Dialect{{matrix.UnknownDialect, matrix.Dendrite}, {matrix.Synapse, matrix.Dendrite}, {matrix.Dendrite, matrix.UnknownDialect}, {matrix.Tuwunel, matrix.Synapse}} {
		d := NewDevices(100, testkit.Epoch)
		sync := func(at float64, dialect matrix.Dialect, asks matrix.Presence) SyncDecision {
			return d.Sync(SyncAsk{"@a:b", [16]byte{'p'}, asks, 0},
				SyncRules{Dialect: dialect, Refresh: 20 * time.Second, Allow: func() bool { return true }}, testkit.At(seconds(at)))
		}
		sync(0, dialects[0], matrix.Unavailable).End(true, testkit.At(0))
		d.BeginWrite("@a:b", [16]byte{'p'}, dialects[0], testkit.At(0)).Taken(matrix.Online, dialects[0], testkit.At(0))
		refused := sync(1, dialects[0], matrix.Online)
		if got := sync(2, dialects[1], matrix.Online); !got.Changes {
			t.Errorf("%v: the verdict is %d", dialects, got.Verdict)
		}
		sync(3, dialects[0], matrix.Unavailable)
		refused.Refuse()
		if got := sync(4, dialects[0], matrix.Online); !got.Changes {
			t.Errorf("%v: after a refused sync the verdict is %d", dialects, got.Verdict)
		}
	}
	// Back to what it was, with a sync between that couldn't be judged.
	d := NewDevices(100, testkit.Epoch)
	ask := SyncAsk{"@a:b", [16]byte{'p'}, matrix.Online, 0}
	rules := SyncRules{Dialect: matrix.Synapse, Refresh: 20 * time.Second, Allow: func() bool { return true }}
	d.Sync(ask, rules, testkit.At(0)).End(true, testkit.At(0))
	d.Doubt("@a:b", [16]byte{'p'}, testkit.At(seconds(1))) // whatever it was known as
	if got := d.Sync(ask, rules, testkit.At(seconds(2))); !got.Changes {
		t.Errorf("the verdict is %d", got.Verdict)
	}
}
