package gateway

import (
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// modes are two gateways of the same configuration, each with a homeserver of its own: one
// observes, one enforces. Both get the same requests.
type modes struct {
	t                    testing.TB
	observing, enforcing *proxy
}

func newModes(t testing.TB, o options) *modes {
	t.Helper()
	o.Mode = "observe"
	observing := newProxy(t, &o)
	o.Mode = "enforce"
	return &modes{t, observing, newProxy(t, &o)}
}

// do sends a request to both, and fails unless what one counts is what became of it at the other.
func (m *modes) do(newRequest func() *http.Request) (outcome string) {
	m.t.Helper()
	gained := func(p *proxy, metric string) string {
		before := p.outcomesOf(metric)
		p.Do(newRequest())
		synctest.Wait() // some are judged when the client has its answer
		for words, n := range p.outcomesOf(metric) {
			if n > before[words] {
				return words
			}
		}
		return "nothing"
	}
	observed, enforced := gained(m.observing, "observed_total "), gained(m.enforcing, "outcomes_total ")
	if observed != enforced {
		r := newRequest()
		m.t.Errorf("%s %s %v: observed %s, enforced %s", r.Method, r.URL, r.Header["Authorization"], observed, enforced)
	}
	return enforced
}

func (m *modes) get(token, target, query string) (outcome string) {
	m.t.Helper()
	return m.do(func() *http.Request { return request("GET", statusPath(target)+query, token, "") })
}

var errDown = errors.New("the homeserver is down")

// down has both homeservers fail, or not any more.
func (m *modes) down(is bool) {
	for _, p := range []*proxy{m.observing, m.enforcing} {
		p.hs.AnswerBy(func(http.ResponseWriter, *http.Request) (bool, error) {
			if is {
				return false, failed(http.StatusBadGateway, errDown)
			}
			return false, nil
		})
	}
}

func (m *modes) want(got string, want ...string) {
	m.t.Helper()
	for _, w := range want {
		if got == w {
			return
		}
	}
	m.t.Errorf("it was %s, want %v", got, want)
}

// A read without a token goes through if nothing of reads is ours. It was counted as refused.
func TestObservedReadWithoutATokenWhereNothingIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newModes(t, options{ReadLimit: &rate{Off: true}, Cache: &caching{Off: true}})
		m.want(m.get("", alice, ""), "bypass read")
		m.want(m.get("bob-token", alice, ""), "bypass read")
		if n := m.observing.hs.Count("whoami"); n != 0 {
			t.Errorf("the homeserver was asked %d times whose token it is", n)
		}
	})
}

// A read with two tokens is charged to the user of each. It was counted as passed on, however many
// there were.
func TestObservedUncertainCredentialOverTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newModes(t, options{ReadLimit: &rate{Events: 2, Window: time.Hour}})
		m.want(m.get("bob-token", alice, "?access_token=carol-token"), "bypass read")
		m.want(m.get("bob-token", alice, "?access_token=carol-token"), "bypass read")
		m.want(m.get("bob-token", alice, "?access_token=carol-token"), "limited read")
		m.want(m.get("carol-token", alice, ""), "limited read")
	})
}

// While the homeserver is down, who asked before gets a stale answer, also if it is no longer sure
// who they are. It was counted as passed on.
func TestObservedStaleAnswerForAnExpiredIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newModes(t, options{
			Cache:    &caching{TTL: 10 * time.Second, StaleIfError: time.Hour},
			Identity: &identifying{TTL: time.Minute},
		})
		m.want(m.get("bob-token", carol, ""), "miss read")
		time.Sleep(2 * time.Minute)
		m.down(true)
		m.want(m.get("bob-token", carol, ""), "stale read")
	})
}
