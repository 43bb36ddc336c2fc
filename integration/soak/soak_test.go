package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestSoakInBrief is the whole of it in fifteen seconds, with smaller tables and more
// reloads and restarts. What takes long to show, it can't show.
func TestSoakInBrief(t *testing.T) {
	r, err := soak(t.Context(), brief(15*time.Second, 500), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	r.print(os.Stderr)
	chart := filepath.Join(t.TempDir(), "soak.svg")
	if err := r.chart(chart); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(chart); err == nil && info.Size() < 1000 {
		t.Errorf("the chart has %d bytes", info.Size())
	}
	if err := r.verdict(); err != nil {
		t.Error(err)
	}
}
