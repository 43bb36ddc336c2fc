package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
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

// ending is what is to be seen at the end of a device war.
type ending struct {
	user string
	// want is the presence, and version that of the status_msg or 0 for any.
	want    string
	version int
	// since is when the write was answered.
	since time.Time
	// late says that the way may show it only after the ttl, as documented.
	late bool
}

// written is the ending of writes: the last state that was acknowledged, whether the writes
// after it were refused or not.
func (s *scene) written(user string) ending {
	e := ending{user: user, since: time.Now()}
	var acked time.Time
	e.version, e.want, acked = s.world.ledger.final(user)
	if s.world.ledger.last(user) == e.version {
		e.since = acked
	}
	return e
}

// ends waits until an ending shows, directly and through the way, and notes how long that
// took since the write's answer. Who looks is the same for both.
func (s *scene) ends(ctx context.Context, e ending, r *Result, t *tally) error {
	viewer := request{kind: read, by: s.world.people[0], of: e.user}
	var took [2]time.Duration
	var last [2]answer
	var errs [2]error
	var both sync.WaitGroup
	for i, base := range []string{s.base, s.world.server.URL} {
		both.Go(func() {
			for {
				a := s.world.send(ctx, base, viewer)
				last[i], took[i] = a, a.end.Sub(e.since)
				seen, _, _ := readStatus(messageOf(a))
				const patience = 2 * bound // it is late after one
				if presenceOf(a) == e.want && (e.version == 0 || seen == e.version) || took[i] > patience {
					return
				}
				if errs[i] = wait(ctx, time.Now().Add(20*time.Millisecond)); errs[i] != nil {
					return
				}
			}
		})
	}
	both.Wait()
	for i, where := range []string{"", ", of the homeserver itself"} {
		switch {
		case took[i] <= bound:
		case e.late && i == 0 && took[1] <= bound:
			r.Late++
		default:
			t.found(lateFinal, fmt.Sprintf("%s%s: not %s within %v but %s", viewer, where, e.want, took[i].Round(time.Millisecond), brief(last[i])))
		}
	}
	r.FinalMillis, r.FinalDirectMillis = millis(took[0]), millis(took[1])
	return errors.Join(errs[:]...)
}

// stays looks some time later whether the last state of writes is still what is seen: a
// write that was kept and delivered late must not replace a newer one.
func (s *scene) stays(ctx context.Context, e ending, t *tally) error {
	if err := wait(ctx, time.Now().Add(2*bound)); err != nil {
		return err
	}
	viewer := request{kind: read, by: s.world.people[0], of: e.user}
	for _, base := range []string{s.base, s.world.server.URL} {
		a := s.world.send(ctx, base, viewer)
		if seen, _, _ := readStatus(messageOf(a)); presenceOf(a) != e.want || seen != e.version {
			t.found(replaced, viewer.String()+": not "+e.want+", "+statusOf(e.version, e.user)+" but "+brief(a))
		}
	}
	return ctx.Err()
}

func millis(d time.Duration) *float64 {
	ms := float64(d.Microseconds()) / 1000
	return &ms
}
