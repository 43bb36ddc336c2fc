package devices

import (
	"slices"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

func TestInspectTellsWhatEachDeviceWants(t *testing.T) {
	d := NewDevices(1000, testkit.Epoch)
	if got := d.Inspect("@a:hs", testkit.At(0)); got != nil {
		t.Errorf("of nobody: %v", got)
	}
	for i, wants := range []matrix.Presence{matrix.Online, matrix.Unavailable} {
		at := testkit.At(time.Duration(i) * 10 * time.Second)
		d.Sync(SyncAsk{"@a:hs", [16]byte{byte(i)}, wants, time.Second}, SyncRules{
			Dialect: matrix.Synapse, Refresh: 20 * time.Second, Allow: func() bool { return true },
		}, at).End(true, at)
	}
	want := []Inspected{{matrix.Unavailable, 5 * time.Second}, {matrix.Online, 15 * time.Second}}
	if got := d.Inspect("@a:hs", testkit.At(15*time.Second)); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
