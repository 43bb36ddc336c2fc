package freshness

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/contender"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/scripted"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/traffic"
)

func TestVerdicts(t *testing.T) {
	now := time.Now()
	active := now.Add(-time.Minute)
	body := func(version int64, ago time.Duration) string {
		return fmt.Sprintf(`{"presence":"online","last_active_ago":%d,"status_msg":%q}`, ago.Milliseconds(), scripted.Status(version, active))
	}
	read := asked{begin: now, end: now.Add(time.Second), acknowledged: 5}
	hidden := read
	hidden.hidden = true
	for _, c := range []struct {
		name   string
		asked  asked
		status int
		body   string
		want   verdict
	}{
		{"the version that was acknowledged", read, 200, body(5, time.Minute), right},
		{"one that was written meanwhile", read, 200, body(6, time.Minute), right},
		{"an older one", read, 200, body(4, time.Minute), stale},
		{"the time of the end of the read", read, 200, body(5, 61*time.Second), right},
		{"a time not grown", read, 200, body(5, 57*time.Second), agoOff},
		{"a time grown too far", read, 200, body(5, 64*time.Second), agoOff},
		{"a refusal that is due", hidden, 403, `{"errcode":"M_FORBIDDEN"}`, right},
		{"a leak", hidden, 200, body(5, time.Minute), leak},
		{"a stale leak", hidden, 200, body(1, 0), leak},
		{"a refusal that is not due", read, 403, `{"errcode":"M_FORBIDDEN"}`, wronglyRefused},
		{"an error", read, 502, ``, failed},
		{"no JSON", read, 200, `{`, failed},
		{"no time", read, 200, `{"presence":"online","status_msg":"v5 t1"}`, failed},
		{"no version", read, 200, `{"presence":"online","last_active_ago":1,"status_msg":"hello"}`, failed},
	} {
		if got := judge(c.asked, c.status, []byte(c.body)); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
}

func TestShapesAskWhatTheySay(t *testing.T) {
	popular := Popular(10, 5, 3)
	if cold, again := len(popular.Phases[0].Reads), len(popular.Phases[1].Reads); cold != 50 || again != 150 {
		t.Errorf("popular: %d and %d reads", cold, again)
	}
	room := RoomOpen(40)
	for _, p := range room.Phases {
		targets := map[traffic.User]bool{}
		for _, r := range p.Reads {
			targets[r.Target] = true
		}
		if len(p.Reads) != 40 || len(targets) != 40 {
			t.Errorf("room open, %s: %d reads of %d targets", p.Name, len(p.Reads), len(targets))
		}
	}
	if n := len(LongTail(10, 1000, 77).Phases[0].Reads); n != 77 {
		t.Errorf("long tail: %d reads", n)
	}
}

func TestContendersAreConfigured(t *testing.T) {
	names := map[string]bool{}
	for _, c := range Contenders {
		if names[c.Name] || c.Spec.Config == "" || c.Bound == "" {
			t.Errorf("%+v", c)
		}
		names[c.Name] = true
	}
	if !names[Baseline] || Contenders[0].Spec.Program != contender.CaddyPresence {
		t.Error("the baseline is not there")
	}
}
