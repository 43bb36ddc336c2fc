package gateway

import (
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// inspect looks a user up, as an admin does.
func (p *proxy) inspect(userID string) *InspectedUser {
	var all []*Settings
	for _, g := range *p.all {
		all = append(all, g.Settings())
	}
	return p.memory.InspectUser(userID, all)
}

func TestInspectUserShowsWhatIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hour := &rate{Events: 2, Window: time.Hour}
		p := newProxy(t, &options{
			WriteLimit: hour, SyncPresence: "limit", SyncLimit: hour, Homeserver: "synapse",
			Classes:  []userClass{{Name: "patient", Match: []string{alice}, OverLimit: "coalesce"}},
			Exempt:   []string{carol},
			Coalesce: &waiting{MaxAge: 2 * time.Hour},
		})
		empty := p.inspect(alice)
		if empty.Tokens != 0 || len(empty.Devices) != 0 || empty.Presence.State != nil || !empty.Presence.Settled || empty.WaitingWrites != 0 {
			t.Errorf("of nobody: %+v", empty)
		}
		p.Put("alice-token", alice, `{"presence":"online"}`)
		time.Sleep(2 * time.Second) // it has settled
		p.Get("bob-token", alice)
		p.Get("carol-token", alice) // who shares no room with her
		if is := p.inspect(carol); is.Permissions != (InspectedPermissions{Forbidden: 1}) {
			t.Errorf("carol: %+v", is.Permissions)
		}
		p.Do(request("GET", "/_matrix/client/v3/sync?set_presence=unavailable", "alice-token", ""))
		time.Sleep(2 * time.Second)
		p.Get("bob-token", alice)
		time.Sleep(3 * time.Second)

		is := p.inspect(alice)
		want := []InspectedBudget{
			{Limit: "read", Left: 5000, Burst: 5000, Refill: .01},
			{Limit: "write", Left: 1, Burst: 2, Refill: 1800, Full: 1793},
			{Limit: "sync", Left: 2, Burst: 2, Refill: 1800},
		}
		if !reflect.DeepEqual(is.Budgets, want) {
			t.Errorf("budgets %+v, want %+v", is.Budgets, want)
		}
		if want := []InspectedDevice{{"unavailable", 5}}; is.Tokens != 1 || !reflect.DeepEqual(is.Devices, want) {
			t.Errorf("%d tokens, devices %+v, want 1, %+v", is.Tokens, is.Devices, want)
		}
		if is.Presence.State == nil || is.Presence.Age != 3 || is.Presence.Fresh != 27 || is.Permissions != (InspectedPermissions{SeenBy: 1}) {
			t.Errorf("presence %+v (%s), permissions %+v", is.Presence, is.Presence.State, is.Permissions)
		}
		if is := p.inspect(bob); is.Permissions.Sees != 1 || len(is.Devices) != 0 {
			t.Errorf("bob: %+v", is)
		}
		if is := p.inspect(carol); len(is.Budgets) != 0 {
			t.Errorf("who is exempt has budgets: %+v", is.Budgets)
		}

		for _, word := range []string{"online", "offline"} {
			p.Put("alice-token", alice, `{"presence":"`+word+`"}`)
		}
		if is := p.inspect(alice); is.WaitingWrites != 1 || is.Presence.State != nil || is.Presence.Settled {
			t.Errorf("while a write waits: %+v", is)
		}
	})
}

// Who is looked up is changed by nothing of it.
func TestInspectUserChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{})
		p.Get("bob-token", alice)
		before := p.entries()
		for _, userID := range []string{alice, bob, "@nobody:example.com"} {
			p.inspect(userID)
		}
		if after := p.entries(); !reflect.DeepEqual(before, after) {
			t.Errorf("before %v, after %v", before, after)
		}
		p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; hit")
	})
}

// entries returns how many entries each table has.
func (p *proxy) entries() map[string]float64 {
	tables := make(map[string]float64)
	p.memory.sampleTables(func(metric *Metric, value float64, labels ...string) {
		if metric == entriesMetric {
			tables[labels[0]] = value
		}
	})
	return tables
}

func TestResetFillsBudgetsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{WriteLimit: &rate{Events: 1, Window: time.Hour}})
		if p.memory.Reset(alice) {
			t.Error("a budget that nobody has used was not full")
		}
		for _, user := range []string{"alice", "bob"} {
			p.Put(user+"-token", "@"+user+":example.com", `{"presence":"online"}`)
		}
		p.Want(p.Put("alice-token", alice, `{"presence":"online"}`), 429, "", "")
		if !p.memory.Reset(alice) {
			t.Error("the budget was full")
		}
		p.Want(p.Put("alice-token", alice, `{"presence":"online"}`), 200, "", "")
		p.Want(p.Put("bob-token", bob, `{"presence":"online"}`), 429, "", "")
	})
}

func TestPurgeHasThePresenceAskedForAnew(t *testing.T) {
	for name, purge := range map[string]func(m *Store){
		"one": func(m *Store) { m.Purge(alice) },
		"all": func(m *Store) { m.PurgeAll() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newProxy(t, &options{})
				p.Get("bob-token", alice)
				p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; hit")
				purge(p.memory)
				time.Sleep(time.Millisecond)
				p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; fwd=miss")
				p.Want(p.Get("bob-token", alice), 200, "", "matrix_presence; hit")
				if n := p.inspect(bob).Tokens; n != 1 {
					t.Errorf("%d tokens of the reader are known, want 1: a purge isn't about these", n)
				}
			})
		})
	}
}

func TestForgetLeavesBudgetsAndWaitingWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxy(t, &options{
			WriteLimit: &rate{Events: 1, Window: time.Minute}, OverLimit: "coalesce", RepeatWrites: "absorb",
			SyncPresence: "limit", Homeserver: "synapse", Coalesce: &waiting{MaxAge: time.Hour},
		})
		p.Do(request("GET", "/_matrix/client/v3/sync", "alice-token", ""))
		synctest.Wait() // whose the token is was asked meanwhile
		for _, word := range []string{"online", "offline"} {
			p.Put("alice-token", alice, `{"presence":"`+word+`"}`)
		}
		p.memory.Forget(alice)
		is := p.inspect(alice)
		if is.Tokens != 0 || len(is.Devices) != 0 || is.WaitingWrites != 1 || is.Budgets[1].Left != 0 {
			t.Errorf("%+v", is)
		}
		time.Sleep(2 * time.Minute)
		if body := bodyOf(p.Get("bob-token", alice)); !strings.Contains(body, "offline") {
			t.Errorf("the write that waited was not delivered: %s", body)
		}
	})
}
