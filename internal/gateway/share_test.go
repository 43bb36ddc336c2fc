package gateway

import "testing"

func TestMayShare(t *testing.T) {
	// An answer that another of the same credential has got, and all is well.
	alike := sharing{answered: true, known: true, fresh: true, permitted: true}
	// One that others who are permitted share.
	target := alike
	target.byTarget = true
	for name, tc := range map[string]struct {
		of     sharing
		change func(s *sharing)
		want   shareVerdict
	}{
		"one's own":                         {sharing{own: true, answered: true}, func(*sharing) {}, shareAnswer},
		"one's own failure":                 {sharing{own: true, ofOneClient: true}, func(*sharing) {}, shareAnswer},
		"one's own, remembered":             {sharing{own: true, answered: true, remembered: true, known: true}, func(*sharing) {}, shareAnswer},
		"one's own, remembered, logged out": {sharing{own: true, answered: true, remembered: true}, func(*sharing) {}, shareEnded},

		"another's failure":                      {sharing{ofOneClient: true}, func(*sharing) {}, shareRetry},
		"another's failure, and a stale answer":  {sharing{ofOneClient: true, stale: true}, func(*sharing) {}, shareAnswer},
		"another's refusal on the way":           {alike, func(s *sharing) { s.ofOneClient = true }, shareRetry},
		"another's, too large":                   {sharing{known: true}, func(*sharing) {}, shareAnswer},
		"our own panic, which is nobody's fault": {sharing{}, func(*sharing) {}, shareAnswer},

		"the same credential's":                 {alike, func(*sharing) {}, shareAnswer},
		"the same credential's, logged out":     {alike, func(s *sharing) { s.known = false }, shareEnded},
		"the same credential's 403":             {alike, func(s *sharing) { s.perCredential, s.permitted = true, false }, shareAnswer},
		"the same credential's, then denied":    {alike, func(s *sharing) { s.denied, s.permitted = true, false }, shareLate},
		"the same credential's, permitted anew": {alike, func(s *sharing) { s.denied = true }, shareAnswer},
		"the same credential's, too old":        {alike, func(s *sharing) { s.fresh = false }, shareLate},

		"another user's":                           {target, func(*sharing) {}, shareAnswer},
		"another user's, logged out":               {target, func(s *sharing) { s.known = false }, shareEnded},
		"another user's, no longer permitted":      {target, func(s *sharing) { s.permitted = false }, shareAlone},
		"another user's 403":                       {target, func(s *sharing) { s.perCredential = true }, shareAlone},
		"another user's, too old":                  {target, func(s *sharing) { s.fresh = false }, shareAlone},
		"another user's, by way of memory":         {target, func(s *sharing) { s.remembered = true }, shareAnswer},
		"another user's 403 that is in memory too": {target, func(s *sharing) { s.remembered, s.perCredential = true, true }, shareAlone},
	} {
		s := tc.of
		tc.change(&s)
		if got := mayShare(s); got != tc.want {
			t.Errorf("%s: %d, want %d (%+v)", name, got, tc.want, s)
		}
	}
}

// Whatever else is so, nobody gets another user's 403, anything that is too old, or anything at all
// without being known.
func TestMayShareNeverTellsTooMuch(t *testing.T) {
	const facts = 11
	for n := range 1 << facts {
		is := func(i int) bool { return n>>i&1 == 1 }
		s := sharing{
			own: is(0), answered: is(1), remembered: is(2), ofOneClient: is(3), stale: is(4), known: is(5),
			fresh: is(6), permitted: is(7), perCredential: is(8), byTarget: is(9), denied: is(10),
		}
		if s.own || !s.answered || mayShare(s) != shareAnswer {
			continue
		}
		if !s.known || !s.fresh || s.byTarget && (s.perCredential || !s.permitted) || s.denied && !s.permitted {
			t.Errorf("it is shared: %+v", s)
		}
	}
}
