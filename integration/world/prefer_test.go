package world_test

import (
	"testing"

	"pgregory.net/rapid"
)

// Values that have not been seen together come more often, so that a long run sees more pairs
// than one that draws blindly.
func TestNewPairsComeMoreOften(t *testing.T) {
	const plans = 200
	count := func(seen *coverage) (n int) {
		drawn := rapid.Custom(func(rt *rapid.T) *plan { return draw(rt, seen) })
		for i := range plans {
			seen.add(drawn.Example(i))
		}
		return len(seen.pairs)
	}
	preferred, blind := newCoverage(), newCoverage()
	blind.blind = true
	count(preferred)
	count(blind)
	t.Logf("of %d plans, %v if new ones are preferred, %v if not", plans, preferred, blind)
	if a, b := len(preferred.pairs), len(blind.pairs); a <= b {
		t.Errorf("%d pairs, and %d without a preference", a, b)
	}
}
