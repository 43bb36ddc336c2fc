package status

import (
	"slices"
	"testing"
	"time"
)

// play adds a document each two seconds: so many reads a second, of which half are hits.
func play(h *History, from, to time.Duration, perSecond float64) {
	for after := from; after <= to; after += Step {
		reads := perSecond * after.Seconds()
		h.Add(at(after, cache("a", reads, reads/2)))
	}
}

func TestNowIsTheLastTenSeconds(t *testing.T) {
	var h History
	if v := h.View(nil); len(v.Caches) != 0 {
		t.Errorf("an empty history has %d caches", len(v.Caches))
	}
	want := func(row, texts []string) {
		t.Helper()
		if !slices.Equal(row[:3], texts) {
			t.Errorf("%q, want %q", row, texts)
		}
	}
	h.Add(at(0, cache("a", 0, 0)))
	want(h.View(nil).table("Key figures").row("Reads"), []string{"–", "–", "0"})
	play(&h, 2*time.Second, time.Minute, 10)
	figures := h.View(nil).table("Key figures")
	want(figures.row("Reads"), []string{"10.0/s", "10.0/s", "600"})
	want(figures.row("Hit ratio of reads"), []string{"50.0 %", "50.0 %", "300"})
	want(figures.row("Homeserver answers, median"), []string{"5.50 ms", "5.50 ms", "–"})
	want(figures.row("Waiting writes"), []string{"2", "–", "–"})

	// Nothing more comes: now is soon none.
	for after := time.Minute; after <= 72*time.Second; after += Step {
		h.Add(at(after, cache("a", 600, 300)))
	}
	figures = h.View(nil).table("Key figures")
	want(figures.row("Reads"), []string{"0/s", "8.33/s", "600"})
	want(figures.row("Hit ratio of reads"), []string{"–", "50.0 %", "300"})
}

// A cache that began anew has counted less than before, and nobody knows how much of it now.
func TestACacheThatBeganAnewHasNoRate(t *testing.T) {
	var h History
	play(&h, 0, 20*time.Second, 10)
	anew := cache("a", 1, 0)
	anew.Since = epoch.Add(21 * time.Second)
	h.Add(at(22*time.Second, anew))
	if row := h.View(nil).table("Key figures").row("Reads"); row[0] != "–" || row[2] != "1" {
		t.Errorf("%q", row)
	}
}

// Somebody looks, leaves, and looks again: nothing is said of the time between.
func TestAHistoryHasGapsWhereNobodyLooked(t *testing.T) {
	var h History
	play(&h, 0, 60*time.Second, 10)
	h.Add(at(240*time.Second, cache("a", 9000, 0)))
	if row := h.View(nil).table("Key figures").row("Reads"); row[0] != "–" {
		t.Errorf("right after the gap: %q", row)
	}
	play(&h, 242*time.Second, 300*time.Second, 10)
	if n := len(h.points["a"]); n != 60 {
		t.Errorf("%d points, want one each two seconds but for the first of both times", n)
	}
}

func TestAHistoryIsBounded(t *testing.T) {
	var h History
	play(&h, 0, 3*time.Hour, 10)
	if n := len(h.points["a"]); n > int(kept/Step)+1 || n < int(kept/Step) {
		t.Errorf("%d points", n)
	}
	if n := len(h.recent); n > int(recently/Step)+1 {
		t.Errorf("%d documents", n)
	}
	h.Add(at(3*time.Hour+Step, cache("b", 1, 1)))
	if len(h.points) != 1 {
		t.Errorf("a cache that is gone has points: %d caches", len(h.points))
	}
}

// What is late, or comes twice, changes nothing.
func TestAHistoryTakesDocumentsInTheirOrder(t *testing.T) {
	var h History
	play(&h, 0, 20*time.Second, 10)
	h.Add(at(20*time.Second, cache("a", 1e6, 0)))
	h.Add(at(10*time.Second, cache("a", 1e6, 0)))
	if row := h.View(nil).table("Key figures").row("Reads"); row[2] != "200" {
		t.Errorf("%q", row)
	}
}
