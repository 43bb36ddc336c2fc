package cache

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

var byRoom = &Rules{TTL: 30 * time.Second, ForbiddenTTL: 5 * time.Second, Rooms: true}

// roomTables are tables with what tests of rooms do with them.
type roomTables struct {
	*Presence
	t   *testing.T
	now time.Time
}

func newRoomTables(t *testing.T) *roomTables {
	p := newPresence()
	p.ResizeRooms(10_000)
	return &roomTables{p, t, testkit.Epoch}
}

// lists has a viewer get a list of a room's members now.
func (p *roomTables) lists(viewer, room string, members ...string) bool {
	var keys []UserKey
	for _, member := range members {
		keys = append(keys, p.MemberKey([]byte(member)))
	}
	return p.Listed(viewer, room, keys, p.now)
}

// shows has the homeserver show a target to a viewer now.
func (p *roomTables) shows(viewer, target string) {
	p.Allow(viewer, p.Depart(target, p.now), parse(p.t, `{"presence":"online"}`), byRoom, p.now)
}

func (p *roomTables) sees(viewer, target string) bool {
	return p.Lookup(viewer, target, byRoom, p.now).Permitted
}

func (p *roomTables) want(viewer, target string, want bool) {
	p.t.Helper()
	if got := p.sees(viewer, target); got != want {
		p.t.Errorf("%s may see %s: %v, want %v", viewer, target, got, want)
	}
}

// crowd is enough users for a room to pass its trial by: a trial tells all of them apart.
func (p *roomTables) crowd(prefix string) (users []string) {
	seen := map[byte]bool{}
	for i := 0; len(users) < trialUsers; i++ {
		user := fmt.Sprintf("@%s%d:hs", prefix, i)
		if bit := p.MemberKey([]byte(user))[1]; !seen[bit] {
			seen[bit] = true
			users = append(users, user)
		}
	}
	return users
}

// passes has a room that a viewer lists pass its trial.
func (p *roomTables) passes(viewer, room string, members ...string) {
	p.t.Helper()
	some := p.crowd(room)
	if !p.lists(viewer, room, append(append([]string{viewer}, some...), members...)...) {
		p.t.Fatal("the list isn't believed")
	}
	for _, target := range some {
		p.shows(viewer, target)
	}
}

func TestWhoIsListedInARoomMaySeeTheOthers(t *testing.T) {
	p := newRoomTables(t)
	p.passes("@a:hs", "!r", "@b:hs", "@c:hs")
	p.want("@a:hs", "@c:hs", true)
	p.want("@b:hs", "@c:hs", false) // nothing says that b is no guest
	p.LetIn("@b:hs", p.now, false)
	p.want("@b:hs", "@c:hs", false)
	p.LetIn("@b:hs", p.now, true)
	p.want("@b:hs", "@c:hs", true)
	p.want("@b:hs", "@x:hs", false)
	p.want("@x:hs", "@c:hs", false)
	p.shows("@b:hs", "@c:hs")
	if found := p.Lookup("@a:hs", "@c:hs", byRoom, p.now); found.Outcome != Hit {
		t.Errorf("what b was shown is to a %v, want a hit", found.Outcome)
	}
	for _, rules := range []*Rules{{TTL: byRoom.TTL}, {TTL: 0, Rooms: true}} {
		if p.Lookup("@b:hs", "@a:hs", rules, p.now).Permitted {
			t.Errorf("b may see a by %+v", rules)
		}
	}
}

func TestPermissionsByRoomLastAsLongAsTheOldestOfWhatTheyRestOn(t *testing.T) {
	const ttl = 30 * time.Second
	for name, tt := range map[string]struct{ viewer, target, standing time.Duration }{
		"the viewer's listing":  {0, 5 * time.Second, 5 * time.Second},
		"the target's listing":  {5 * time.Second, 0, 5 * time.Second},
		"the viewer's standing": {5 * time.Second, 5 * time.Second, 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := newRoomTables(t)
			p.passes("@z:hs", "!r")
			p.now = p.now.Add(time.Minute)
			begin := p.now
			for at := range 10 {
				p.now = begin.Add(time.Duration(at) * time.Second)
				if p.now.Sub(begin) == tt.standing {
					p.LetIn("@a:hs", p.now, true)
				}
				if p.now.Sub(begin) == tt.viewer {
					p.lists("@y:hs", "!r", "@y:hs", "@a:hs")
				}
				if p.now.Sub(begin) == tt.target {
					p.lists("@y:hs", "!r", "@y:hs", "@b:hs")
				}
			}
			p.now = begin.Add(ttl - 1)
			p.want("@a:hs", "@b:hs", true)
			p.now = begin.Add(ttl)
			p.want("@a:hs", "@b:hs", false)
		})
	}
}

func TestListsThatDontHaveTheirReaderAreNotBelieved(t *testing.T) {
	p := newRoomTables(t)
	p.passes("@a:hs", "!r")
	if p.lists("@admin:hs", "!r", "@a:hs", "@b:hs") {
		t.Error("the list is believed")
	}
	p.LetIn("@a:hs", p.now, true)
	p.want("@a:hs", "@b:hs", false)
}

func TestRoomsCountAfterATrial(t *testing.T) {
	p := newRoomTables(t)
	some := p.crowd("u")
	p.lists("@a:hs", "!r", append(some, "@a:hs", "@b:hs")...)
	p.LetIn("@a:hs", p.now, true)
	for range 2 * trialUsers {
		p.shows("@a:hs", some[0]) // one and the same
		p.shows("@a:hs", "@a:hs") // that needs no room
	}
	for _, target := range some[1:] {
		p.want("@a:hs", "@b:hs", false)
		p.shows("@a:hs", target)
	}
	p.want("@a:hs", "@b:hs", true)
}

func TestARefusalPutsARoomOnTrialAgain(t *testing.T) {
	p := newRoomTables(t)
	p.passes("@a:hs", "!r", "@b:hs", "@c:hs", "@d:hs")
	p.want("@a:hs", "@d:hs", true)
	if p.RoomRefused("@x:hs", p.Depart("@c:hs", p.now), byRoom) != "" || p.RoomRefused("@a:hs", p.Depart("@a:hs", p.now), byRoom) != "" ||
		p.RoomRefused("@a:hs", p.Depart("@c:hs", p.now), &Rules{TTL: byRoom.TTL}) != "" {
		t.Error("who shares no room has ended one")
	}
	p.want("@a:hs", "@d:hs", true)
	if got := p.RoomRefused("@a:hs", p.Depart("@c:hs", p.now), byRoom); got != "!r" {
		t.Errorf("the room that has ended is %q", got)
	}
	if got := p.RoomRefused("@a:hs", p.Depart("@c:hs", p.now), byRoom); got != "" {
		t.Errorf("%q has ended twice", got)
	}
	p.want("@a:hs", "@d:hs", false)
	for _, target := range p.crowd("!r") {
		p.shows("@a:hs", target)
	}
	p.want("@a:hs", "@d:hs", false) // twice two refusals ask for more
	p.now = p.now.Add(forgivenAfter + time.Second)
	p.passes("@a:hs", "!r", "@d:hs")
	p.want("@a:hs", "@d:hs", true)
}

func TestSeveralRoomsAreOnTrialTogether(t *testing.T) {
	// a and the crowd share both rooms, so that they see each other says of neither that it counts.
	p := newRoomTables(t)
	some := p.crowd("u")
	p.lists("@a:hs", "!r", append(some, "@a:hs", "@b:hs", "@c:hs")...)
	p.lists("@a:hs", "!s", append(some, "@a:hs", "@b:hs", "@d:hs")...)
	for _, target := range some {
		p.shows("@a:hs", target)
	}
	p.want("@a:hs", "@b:hs", true) // who shares both
	p.want("@a:hs", "@c:hs", false)
	p.want("@a:hs", "@d:hs", false)
	p.RoomRefused("@a:hs", p.Depart("@b:hs", p.now), byRoom)
	p.want("@a:hs", "@b:hs", false)
}

func TestMembershipChangesEndWhatListsSaid(t *testing.T) {
	for name, change := range map[string]func(p *roomTables){
		"the viewer's": func(p *roomTables) { p.MembershipChanged("@a:hs", p.now, 0) },
		"the target's": func(p *roomTables) { p.MembershipChanged("@b:hs", p.now, 0) },
		"all":          func(p *roomTables) { p.AllMembershipsChanged(p.now, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newRoomTables(t)
			p.passes("@a:hs", "!r", "@b:hs")
			p.want("@a:hs", "@b:hs", true)
			departed := p.now
			p.now = p.now.Add(time.Second)
			change(p)
			p.want("@a:hs", "@b:hs", false)
			p.Listed("@a:hs", "!r", []UserKey{p.MemberKey([]byte("@a:hs")), p.MemberKey([]byte("@b:hs"))}, departed)
			p.want("@a:hs", "@b:hs", false) // it is from before
			p.now = p.now.Add(time.Second)
			p.lists("@a:hs", "!r", "@a:hs", "@b:hs")
			p.LetIn("@a:hs", p.now, true)
			p.want("@a:hs", "@b:hs", true)
		})
	}
}

func TestALaterDenialCountsMoreThanAList(t *testing.T) {
	p := newRoomTables(t)
	p.passes("@a:hs", "!r", "@b:hs")
	p.now = p.now.Add(time.Second)
	p.Deny("@a:hs", p.Depart("@b:hs", p.now), &Denial{Status: 403, Body: "{}"}, byRoom)
	if found := p.Lookup("@a:hs", "@b:hs", byRoom, p.now); found.Outcome != Denied || found.Permitted {
		t.Errorf("found %+v, want the denial", found)
	}
	p.now = p.now.Add(time.Second)
	p.lists("@a:hs", "!r", "@a:hs", "@b:hs")
	p.LetIn("@a:hs", p.now, true)
	p.want("@a:hs", "@b:hs", true)
}

func TestNewsOfASyncPermitsAndDropsWhatDiffers(t *testing.T) {
	for name, tt := range map[string]struct {
		kept, told string
		drops      bool
	}{
		"the same":         {`{"presence":"online","last_active_ago":5,"currently_active":true}`, `{"presence":"online","last_active_ago":900}`, false},
		"another presence": {`{"presence":"online"}`, `{"presence":"offline"}`, true},
		"another text":     {`{"presence":"online","status_msg":"a"}`, `{"presence":"online","status_msg":"b"}`, true},
		"no text":          {`{"presence":"online","status_msg":"a"}`, `{"presence":"online"}`, true},
		"unclear":          {`{"presence":"online"}`, `{"presence":"online","Presence":"offline"}`, true},
		"nothing":          {``, `{"presence":"online"}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := newRoomTables(t)
			if tt.kept != "" {
				p.Allow("@b:hs", p.Depart("@t:hs", p.now), parse(t, tt.kept), byRoom, p.now)
			}
			old := p.Depart("@t:hs", p.now)
			if got := p.Told("@a:hs", "@t:hs", []byte(tt.told), p.now); got != tt.drops {
				t.Errorf("dropped: %v, want %v", got, tt.drops)
			}
			p.want("@a:hs", "@t:hs", true)
			hit := p.Lookup("@a:hs", "@t:hs", byRoom, p.now).Outcome == Hit
			if want := tt.kept != "" && !tt.drops; hit != want {
				t.Errorf("it is a hit: %v, want %v", hit, want)
			}
			if tt.drops && p.Allow("@b:hs", old, parse(t, tt.kept), byRoom, p.now) {
				t.Error("what left before the news was stored")
			}
			p.now = p.now.Add(byRoom.TTL)
			p.want("@a:hs", "@t:hs", false)
		})
	}
}

func TestRoomsAreBounded(t *testing.T) {
	p := newRoomTables(t)
	p.ResizeRooms(640)
	for room := range 200 {
		var keys []UserKey
		for user := range 50 {
			keys = append(keys, p.MemberKey(fmt.Appendf(nil, "@%d:%d", user, room)))
		}
		p.Listed(fmt.Sprintf("@0:%d", room), fmt.Sprintf("!%d", room), keys, p.now)
		p.now = p.now.Add(time.Millisecond)
	}
	users, evicted := p.Rooms()
	if trials := p.rooms.trials.known.Len(); users > 640 || evicted < 9000 || trials > 640/roomsShare {
		t.Errorf("%d users and %d rooms, %d users evicted", users, trials, evicted)
	}
	// Who is in more rooms than are known of a user is still in the last of them.
	for room := range 3 * maxListed {
		p.now = p.now.Add(time.Millisecond)
		p.passes("@a:hs", fmt.Sprintf("!many%d", room), "@b:hs")
	}
	p.want("@a:hs", "@b:hs", true)
}

// TestRoomsAreAsAModelSays compares the tables with a list of all that has happened.
func TestRoomsAreAsAModelSays(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		p := newRoomTables(t)
		m := roomModel{listed: map[string]map[string]time.Time{}, standing: map[string]time.Time{}, changed: map[string]time.Time{}}
		pick := func(prefix string, n int) string { return fmt.Sprintf("%s%d", prefix, random.IntN(n)) }
		for range 4 {
			p.passes("@z:hs", pick("!r", 3))
		}
		p.now = p.now.Add(time.Hour)
		for range 100 {
			p.now = p.now.Add(time.Duration(random.IntN(4000)+1) * time.Millisecond)
			switch user := pick("@u", 4); random.IntN(5) {
			case 0:
				room, members := pick("!r", 3), []string{user}
				for random.IntN(3) > 0 {
					members = append(members, pick("@u", 4))
				}
				p.lists(user, room, members...)
				m.list(room, members, p.now)
			case 1:
				p.LetIn(user, p.now, true)
				m.standing[user] = p.now
			case 2:
				if random.IntN(3) == 0 {
					p.MembershipChanged(user, p.now, 0)
					m.changed[user] = p.now
				}
			default:
				target := pick("@u", 4)
				if want := m.sees(p, user, target); want != p.sees(user, target) {
					t.Fatalf("seed %d: %s may see %s: %v", seed, user, target, !want)
				}
			}
		}
	}
}

type roomModel struct {
	listed            map[string]map[string]time.Time // by room and user
	standing, changed map[string]time.Time
}

func (m *roomModel) list(room string, members []string, now time.Time) {
	if m.listed[room] == nil {
		m.listed[room] = map[string]time.Time{}
	}
	for _, member := range members {
		m.listed[room][member] = now
	}
}

func (m *roomModel) sees(p *roomTables, viewer, target string) bool {
	fresh := func(at time.Time) bool { return !at.IsZero() && p.now.Sub(at) < byRoom.TTL }
	counts := func(at time.Time) bool {
		return fresh(at) && at.After(m.changed[viewer]) && at.After(m.changed[target])
	}
	if !fresh(m.standing[viewer]) {
		return false
	}
	for room, listed := range m.listed {
		if counts(listed[viewer]) && counts(listed[target]) && p.rooms.trials.passed(p.rooms.roomKey(room)) {
			return true
		}
	}
	return false
}

func BenchmarkLookupByRoom(b *testing.B) {
	p := newPresence()
	p.ResizeRooms(10_000)
	var keys []UserKey
	for i := range 2600 {
		keys = append(keys, p.MemberKey(fmt.Appendf(nil, "@user%d:example.com", i)))
	}
	now := testkit.Epoch
	p.Listed("@user0:example.com", "!r:example.com", keys, now)
	for i := range 20 {
		p.Allow("@user0:example.com", p.Depart(fmt.Sprintf("@user%d:example.com", i), now), version(1), byRoom, now)
	}
	p.LetIn("@user5:example.com", now, true)
	for b.Loop() {
		if p.Lookup("@user5:example.com", "@user7:example.com", byRoom, now).Outcome != Hit {
			b.Fatal("no hit")
		}
	}
}

// Who opens a room a moment after another is in the list that the other got.
func TestAListIsKnownForAWhileToThoseInIt(t *testing.T) {
	p := newRoomTables(t)
	p.lists("@a:hs", "!r", "@a:hs", "@b:hs")
	knows := func(viewer, room string, want bool) {
		t.Helper()
		if got := p.KnowsList(viewer, room, byRoom, p.now); got != want {
			t.Errorf("after %v %s knows who is in %s: %v", p.now.Sub(testkit.Epoch), viewer, room, got)
		}
	}
	p.now = p.now.Add(byRoom.TTL/4 - 1)
	knows("@a:hs", "!r", true)
	knows("@b:hs", "!r", true)
	knows("@c:hs", "!r", false)
	knows("@b:hs", "!s", false)
	p.MembershipChanged("@b:hs", p.now, 0)
	knows("@a:hs", "!r", true)
	knows("@b:hs", "!r", false)
	p.now = p.now.Add(1)
	knows("@a:hs", "!r", false)
}
