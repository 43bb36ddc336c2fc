package main

import (
	"context"
	"net/http"
	"time"
)

// compare reads what some viewers see directly and then through the way, and notes where
// that differs. What users last wrote has to be in the homeserver's own answer too.
func (s *scene) compare(ctx context.Context, pairs []look, t *tally) error {
	if s.base == "http://"+s.world.hop.Address {
		return nil // there is nothing between
	}
	if err := wait(ctx, time.Now().Add(s.world.lag)); err != nil {
		return err
	}
	for _, l := range pairs {
		r := request{kind: read, by: l.by, of: l.of}
		own := s.world.send(ctx, s.world.server.URL, r)
		through := s.world.send(ctx, s.base, r)
		if through.status == http.StatusTooManyRequests {
			continue // honest, and counted elsewhere
		}
		t.found(judgeAlike(own, through, s.world.timers), r.String()+": "+brief(through)+" but the homeserver says "+brief(own))
		if own.status == http.StatusOK {
			t.found(s.world.ledger.judgeRead(l.of, own.body, own.begin, own.end, s.slack), r.String()+", of the homeserver itself: "+brief(own))
		}
	}
	return ctx.Err()
}

func brief(a answer) string {
	const most = 160
	return http.StatusText(a.status) + " " + string(a.body[:min(len(a.body), most)])
}

// bound is how soon a last state has to be seen.
const bound = time.Second

// ends waits until the last state of a user that was acknowledged shows, directly and
// through the way, and notes how long that took since the write's answer.
func (s *scene) ends(ctx context.Context, user string, byStatus bool, want string, since time.Time, r *Result, t *tally) error {
	version, presence, acked := s.world.ledger.final(user)
	if byStatus {
		want = presence
		since = acked
	}
	if begin := time.Now(); since.IsZero() || begin.Sub(since) > bound {
		since = begin // the last one was refused, and the one before is long ago
	}
	shows := func(a answer) bool {
		if presenceOf(a) != want {
			return false
		}
		return !byStatus || s.world.ledger.shows(a, version)
	}
	viewer := request{kind: read, by: s.world.people[0], of: user}
	var took [2]time.Duration
	for i, base := range []string{s.base, s.world.server.URL} {
		for {
			a := s.world.send(ctx, base, viewer)
			if took[i] = a.end.Sub(since); shows(a) {
				break
			}
			const patience = 5 * bound
			if took[i] > patience {
				t.found(lateFinal, viewer.String()+": never "+want+" but "+brief(a))
				break
			}
			if err := wait(ctx, time.Now().Add(20*time.Millisecond)); err != nil {
				return err
			}
		}
		if took[i] > bound {
			t.found(lateFinal, viewer.String()+": after "+took[i].String())
		}
	}
	r.FinalMillis, r.FinalDirectMillis = millis(took[0]), millis(took[1])
	return nil
}

func millis(d time.Duration) *float64 {
	ms := float64(d.Microseconds()) / 1000
	return &ms
}

// shows tells whether a presence has a version.
func (l *ledger) shows(a answer, version int) bool {
	seen, _, ok := readStatus(messageOf(a))
	return ok && seen == version
}
