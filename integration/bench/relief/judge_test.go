package main

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

// t0 is when a test's world begins.
var t0 = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time {
	return t0.Add(time.Duration(seconds * float64(time.Second)))
}

const alice, bob = "@alice:hs.test", "@bob:hs.test"

func body(presence, message string, ago int) []byte {
	return fmt.Appendf(nil, `{"presence":%q,"status_msg":%q,"last_active_ago":%d}`, presence, message, ago)
}

// Alice comes online at 1 s, repeats that at 5 s, and idles at 10 s; each answer takes a
// tenth of a second. A last write, at 20 s, is never answered.
func aliceWrites(k kindOfHomeserver) *ledger {
	l := newLedger(k)
	a := l.of(alice)
	for _, w := range []struct {
		presence string
		change   bool
		at       float64
		answered bool
	}{{"online", true, 1, true}, {"online", false, 5, true}, {"unavailable", true, 10, true}, {"online", true, 20, false}} {
		version, _ := a.sends(w.presence, w.change, at(w.at))
		if w.answered {
			a.acks(version, "token", at(w.at+0.1))
		}
	}
	return l
}

func TestReadsAreJudgedByWhatWasAcknowledged(t *testing.T) {
	v1, v2, v3 := statusOf(1, alice), statusOf(2, alice), statusOf(3, alice)
	plain, late := kindOfHomeserver{}, kindOfHomeserver{lag: time.Second}
	timers := kindOfHomeserver{timers: true}
	for _, c := range []struct {
		name       string
		k          kindOfHomeserver
		body       []byte
		begin, end float64
		slack      time.Duration
		want       verdict
	}{
		{"what was written", plain, body("online", v1, 1000), 2, 2.1, 0, right},
		{"after a repeat", plain, body("online", v1, 1000), 6, 6.1, 0, right},
		{"as if not repeated", plain, body("online", v1, 5000), 9, 9.1, 0, right},
		{"as if never repeated", plain, body("online", v1, 8000), 9, 9.1, 0, agoOff},
		{"never repeated, which is allowed", plain, body("online", v1, 8000), 9, 9.1, refresh, right},
		{"active after it was", plain, body("online", v1, 0), 9, 9.1, 0, agoOff},
		{"no last_active_ago", plain, []byte(`{"presence":"online","status_msg":"` + v1 + `"}`), 2, 2.1, 0, agoOff},
		{"while the next write is under way", plain, body("online", v1, 5000), 10, 10.2, 0, right},
		{"the next write already", plain, body("unavailable", v2, 0), 10.05, 10.06, 0, right},
		{"after the next write", plain, body("online", v1, 5000), 10.2, 10.3, 0, stale},
		{"before it is applied", late, body("online", v1, 5000), 10.9, 11, 0, right},
		{"long after it should be applied", late, body("online", v1, 6000), 11.2, 11.3, 0, stale},
		{"a write without an answer", plain, body("online", v3, 1000), 21, 21.1, 0, right},
		{"not that write", plain, body("unavailable", v2, 11000), 21, 21.1, 0, right},
		{"not yet written", plain, body("unavailable", v2, 0), 9, 9.1, 0, invented},
		{"never written", plain, body("online", statusOf(9, alice), 0), 2, 2.1, 0, invented},
		{"somebody else's", plain, body("online", statusOf(1, bob), 1000), 2, 2.1, 0, invented},
		{"no message", plain, body("online", "", 1000), 2, 2.1, 0, invented},
		{"another state", plain, body("unavailable", v1, 1000), 2, 2.1, 0, otherState},
		{"offline at once", timers, body("offline", v2, 5000), 15, 15.1, 0, otherState},
		{"offline after silence", timers, body("offline", v2, 29000), 39, 39.1, 0, right},
		{"offline after silence without timers", plain, body("offline", v2, 29000), 39, 39.1, 0, otherState},
		{"not JSON", plain, []byte("presence"), 2, 2.1, 0, failed},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := aliceWrites(c.k).judgeRead(alice, c.body, at(c.begin), at(c.end), c.slack)
			if got != c.want {
				t.Errorf("judged %q, want %q", got, c.want)
			}
		})
	}
}

func TestASyncMayMakeThePresenceAnother(t *testing.T) {
	l := aliceWrites(kindOfHomeserver{})
	l.of(alice).syncs("token", "online")
	read := func() verdict { return l.judgeRead(alice, body("online", statusOf(2, alice), 0), at(15), at(15.1), 0) }
	if got := read(); got != right {
		t.Errorf("judged %q after a sync", got)
	}
	if got := l.judgeRead(alice, body("online", statusOf(1, alice), 0), at(15), at(15.1), 0); got != stale {
		t.Errorf("an old message judged %q after a sync", got)
	}
	l.of(alice).settled()
	if got := read(); got != otherState {
		t.Errorf("judged %q after the user wrote again", got)
	}
}

func TestTheLastStateIsOfTheLastAcknowledgedWrite(t *testing.T) {
	for _, merges := range []bool{false, true} {
		l := newLedger(kindOfHomeserver{merges: merges})
		a := l.of(alice)
		for i, w := range []struct {
			token, presence string
			answered        bool
		}{{"first", "online", true}, {"second", "unavailable", true}, {"first", "unavailable", false}} {
			version, _ := a.sends(w.presence, true, at(float64(i)))
			if w.answered {
				a.acks(version, w.token, at(float64(i)+0.1))
			}
		}
		want := "unavailable"
		if merges {
			want = "online" // the first device still is
		}
		version, presence, acked := l.final(alice)
		if version != 2 || presence != want || !acked.Equal(at(1.1)) {
			t.Errorf("merges %t: version %d, %s at %v; want 2, %s", merges, version, presence, acked, want)
		}
		if last := l.last(alice); last != 3 {
			t.Errorf("the last that was sent is %d", last)
		}
	}
}

func TestWhatDiffersFromTheHomeserverItself(t *testing.T) {
	answered := func(code int, body []byte) answer { return answer{status: code, body: body} }
	ok := answered(http.StatusOK, body("online", "v1 of a", 5000))
	no := answered(http.StatusForbidden, nil)
	for _, c := range []struct {
		name            string
		direct, through answer
		timers          bool
		want            verdict
	}{
		{"the same", ok, answered(http.StatusOK, body("online", "v1 of a", 5900)), false, right},
		{"refused both times", no, no, false, right},
		{"shown to whom it is refused", no, ok, false, leak},
		{"refused to whom it is shown", ok, no, false, wronglyRefused},
		{"another refusal", no, answered(http.StatusNotFound, nil), false, unlike},
		{"an older message", answered(http.StatusOK, body("online", "v2 of a", 0)), ok, false, stale},
		{"another state", answered(http.StatusOK, body("unavailable", "v1 of a", 5000)), ok, false, unlike},
		{"a timer", answered(http.StatusOK, body("offline", "v1 of a", 5000)), ok, true, right},
		{"no timer", answered(http.StatusOK, body("offline", "v1 of a", 5000)), ok, false, unlike},
		{"not aged", answered(http.StatusOK, body("online", "v1 of a", 9000)), ok, false, agoOff},
		{"no age", answered(http.StatusOK, []byte(`{"presence":"online","status_msg":"v1 of a"}`)), ok, false, agoOff},
		{"not JSON", ok, answered(http.StatusOK, []byte("x")), false, failed},
	} {
		if got := judgeAlike(c.direct, c.through, c.timers); got != c.want {
			t.Errorf("%s: judged %q, want %q", c.name, got, c.want)
		}
	}
}

func TestPreflightsHaveTheHomeserversOwnFields(t *testing.T) {
	with := func(code int, methods string) answer {
		return answer{status: code, header: http.Header{
			"Access-Control-Allow-Origin": {"*"}, "Access-Control-Allow-Methods": {methods}, "Access-Control-Allow-Headers": {"Authorization"},
		}}
	}
	own := with(http.StatusOK, "GET, PUT")
	for _, c := range []struct {
		got  answer
		want verdict
	}{
		{own, right}, {with(http.StatusNoContent, "GET, PUT"), right},
		{with(http.StatusOK, "GET"), otherHeaders}, {answer{status: http.StatusOK}, otherHeaders},
		{with(http.StatusBadGateway, "GET, PUT"), failed}, {answer{}, failed}, {with(http.StatusUnauthorized, "GET, PUT"), wronglyRefused},
	} {
		if got := judgePreflight(c.got, own); got != c.want {
			t.Errorf("%d %v: judged %q, want %q", c.got.status, c.got.header, got, c.want)
		}
	}
}

func TestUnknownTokensAndOutsidersGetNothing(t *testing.T) {
	w := &world{kindOfHomeserver: kindOfHomeserver{hides: true}, outsider: &person{id: bob}, ledger: newLedger(kindOfHomeserver{})}
	s := &scene{world: w}
	version, _ := w.ledger.of(alice).sends("online", true, at(1))
	w.ledger.of(alice).acks(version, "token", at(1.1))
	shown := body("online", statusOf(1, alice), 1000)
	stranger := request{kind: read, by: w.outsider, of: alice}
	unknown := request{kind: read, by: w.outsider, of: alice, token: "made up"}
	friend := request{kind: read, by: &person{id: alice}, of: alice}
	waiting := friend
	waiting.want = "unavailable"
	for _, c := range []struct {
		r    request
		code int
		want verdict
	}{
		{stranger, 403, right}, {stranger, 200, leak}, {stranger, 502, failed},
		{unknown, 401, right}, {unknown, 429, right}, {unknown, 200, served}, {unknown, 403, served}, {unknown, 0, failed},
		{friend, 200, right}, {friend, 403, wronglyRefused}, {friend, 401, wronglyRefused}, {friend, 429, right}, {friend, 503, failed}, {friend, 0, failed},
		{waiting, 200, otherState},
	} {
		a := answer{status: c.code, body: shown, begin: at(2), end: at(2.1)}
		if got := s.judge(c.r, a); got != c.want {
			t.Errorf("%s: %d judged %q, want %q", c.r, c.code, got, c.want)
		}
	}
}
