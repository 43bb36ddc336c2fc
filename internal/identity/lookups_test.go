package identity

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

const alice = "@alice:example.com"

// reply is what a homeserver of the tests says.
type reply struct {
	facts Facts
	err   error
}

func (r reply) Facts() Facts { return r.facts }

// asker asks a homeserver whose one token is, from several origins.
type asker struct {
	*Lookups[string, reply]
	asked atomic.Int32
}

var token = matrix.Credential{Token: "tok"}

func newAsker() *asker {
	return &asker{Lookups: NewLookups[string](NewTable(100, time.Now()), time.Now, nil, func(err error) reply {
		return reply{Facts{Shared: true}, err}
	})}
}

// ask asks from an origin. What the homeserver says takes a second, and is told by says of the
// number of its answer.
func (a *asker) ask(origin string, gone <-chan struct{}, says func(n int) Facts) (reply, error) {
	return a.Ask(Question[string, reply]{
		Credential: token, Origin: origin, Timeout: time.Minute, Lifetime: time.Hour,
		Ask: func(Inquiry, time.Time) reply {
			asOf, asked, n := a.table.Revision(), time.Now(), int(a.asked.Add(1))
			time.Sleep(time.Second)
			facts := says(n)
			facts.AsOf, facts.Asked = asOf, asked
			return reply{facts: facts}
		},
	}, gone)
}

// askTogether asks from each origin at once, and returns on whose behalf the token acts for each.
func (a *asker) askTogether(origins []string, says func(n int) Facts) (users []string) {
	users = make([]string, len(origins))
	var all sync.WaitGroup
	for i, origin := range origins {
		all.Go(func() {
			r, err := a.ask(origin, nil, says)
			users[i] = fmt.Sprint(r.facts.UserID, err)
		})
		synctest.Wait() // so that the first is first
	}
	all.Wait()
	return users
}

func TestAQuestionIsShared(t *testing.T) {
	knows := func(int) Facts { return Facts{UserID: alice, Shared: true} }
	fails := func(int) Facts { return Facts{} }
	for name, tc := range map[string]struct {
		origins []string
		says    func(n int) Facts
		asked   int32
	}{
		"by all": {[]string{"a", "b", "b"}, knows, 1},
		// What fails for one client may not for another: one of each origin asks again.
		"by an origin once it has failed": {[]string{"a", "b", "b", "c"}, fails, 1 + 2},
		"by nobody if it is about the client": {[]string{"a", "b", "b"}, func(n int) Facts {
			return Facts{Alone: true, Shared: true}
		}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAsker()
				a.askTogether(tc.origins, tc.says)
				if n := a.asked.Load(); n != tc.asked {
					t.Errorf("the homeserver was asked %d times, want %d", n, tc.asked)
				}
			})
		})
	}
}

// Whoever asks after a logout must not get what the homeserver said before it.
func TestASharedAnswerHoldsUnlessSomethingWasRevoked(t *testing.T) {
	for name, revoke := range map[string]func(t *Table){
		"the token": func(t *Table) { t.RevokeToken(token) },
		"the user":  func(t *Table) { t.RevokeUser(alice) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAsker()
				users := a.askTogether([]string{"a", "b"}, func(n int) Facts {
					if n == 1 {
						revoke(a.table)
						return Facts{UserID: alice, Shared: true}
					}
					return Facts{Shared: true} // it doesn't know the token any more
				})
				if users[0] != alice+"<nil>" || users[1] != "<nil>" {
					t.Errorf("the token acts for %q", users)
				}
			})
		})
	}
}

// A process of the homeserver that doesn't know of a logout yet may name the user slowly. Whoever came when all processes
// knew shared that, for as long as it took.
func TestASharedAnswerIsOfNoUseOnceALogoutHasSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAsker()
		a.table.Settle(token, time.Now().Add(500*time.Millisecond))
		says := func(n int) Facts {
			if n == 1 {
				return Facts{UserID: alice, Shared: true}
			}
			return Facts{Shared: true} // it doesn't know the token any more
		}
		users := make([]string, 3)
		var all sync.WaitGroup
		for i, came := range []time.Duration{0, 400 * time.Millisecond, 500 * time.Millisecond} {
			all.Go(func() {
				time.Sleep(came)
				r, err := a.ask("a", nil, says)
				users[i] = fmt.Sprint(r.facts.UserID, err)
			})
		}
		all.Wait()
		if want := []string{alice + "<nil>", alice + "<nil>", "<nil>"}; !slices.Equal(users, want) || a.asked.Load() != 2 {
			t.Errorf("by %d questions the token acts for %q, want %q by 2", a.asked.Load(), users, want)
		}
	})
}

func TestWhoWaitsMayLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, gone := newAsker(), make(chan struct{})
		knows := func(int) Facts { return Facts{UserID: alice, Shared: true} }
		go func() { _, _ = a.ask("a", nil, knows) }()
		synctest.Wait()
		close(gone)
		if _, err := a.ask("b", gone, knows); !errors.Is(err, ErrLeft) {
			t.Errorf("the error is %v", err)
		}
		time.Sleep(time.Minute)
	})
}

// A homeserver that takes longer to tell than what it tells is good for.
func TestASharedAnswerMayOutliveItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAsker()
		q := Question[string, reply]{Credential: token, Timeout: time.Minute, Lifetime: time.Second, Ask: func(Inquiry, time.Time) reply {
			asked := time.Now()
			time.Sleep(2 * time.Second)
			return reply{facts: Facts{UserID: alice, Asked: asked, Shared: true}}
		}}
		go func() { _, _ = a.Ask(q, nil) }()
		synctest.Wait()
		if _, err := a.Ask(q, nil); !errors.Is(err, ErrOutlived) {
			t.Errorf("the error is %v", err)
		}
	})
}

func TestAQuestionThatPanicsHasAnAnswer(t *testing.T) {
	a := newAsker()
	r, err := a.Ask(Question[string, reply]{Credential: token, Timeout: time.Minute, Ask: func(Inquiry, time.Time) reply { panic("boom") }}, nil)
	if err != nil || r.err == nil {
		t.Errorf("the answer is %v, %v", r.err, err)
	}
}
