package matrix

import (
	"slices"
	"testing"
)

func TestRoutesThatServeTheUserInTheirPath(t *testing.T) {
	const v3 = "/_matrix/client/v3/user/"
	for _, tt := range []struct {
		method, path, userID string
	}{
		{"POST", v3 + "@a:hs/filter", "@a:hs"},
		{"POST", v3 + "%40a%3ahs/filter", "@a:hs"},
		{"GET", "/_matrix/client/r0/user/@a:hs/filter/1", "@a:hs"},
		{"GET", v3 + "@a:hs/account_data/m.direct", "@a:hs"},
		{"PUT", v3 + "@a:hs/account_data/m.direct", "@a:hs"},
		{"PUT", v3 + "@a:hs/rooms/!r:hs/account_data/m.tag", "@a:hs"},

		{"GET", v3 + "@a:hs/filter", ""},
		{"POST", v3 + "@a:hs/filter/", ""},
		{"POST", v3 + "@a:hs//filter", ""},
		{"POST", v3 + "a/filter", ""},
		{"POST", v3 + "@a:hs/%66ilter", ""},
		{"POST", "/_matrix/client/unstable/user/@a:hs/filter", ""},
		{"POST", "/_matrix/client/v3/user/@a:hs", ""},
		{"POST", v3 + "@a:hs/account_data/m.direct", ""},
		{"DELETE", v3 + "@a:hs/account_data/m.direct", ""},
		{"HEAD", v3 + "@a:hs/account_data/m.direct", ""},
		{"GET", v3 + "@a:hs/rooms/!r:hs/tags", ""},
		{"GET", v3 + "@a:hs/openid/request_token", ""},
		{"GET", "/_matrix/client/v3/profile/@a:hs/account_data/x", ""},
	} {
		route, ok := ParseOwnRoute(tt.method, tt.path)
		if route.UserID != tt.userID || ok != (tt.userID != "") {
			t.Errorf("%s %s: %+v, %v", tt.method, tt.path, route, ok)
		}
		if ok && (!route.Proves(Synapse) || !route.Proves(Dendrite) || route.Proves(Tuwunel) || route.Proves(UnknownDialect)) {
			t.Errorf("%s %s proves something else", tt.method, tt.path)
		}
	}
}

func TestListsOfMembers(t *testing.T) {
	const v3 = "/_matrix/client/v3/rooms/"
	for _, tt := range []struct {
		path, query, roomID string
		events              bool
	}{
		{v3 + "!r:hs/joined_members", "", "!r:hs", false},
		{v3 + "%21r%3Ahs/members", "", "!r:hs", true},
		{"/_matrix/client/r0/rooms/!r/members", "membership=join&access_token=x", "!r", true},
		{v3 + "!r:hs/members", "not_membership=leave", "!r:hs", true},
		{v3 + "!%2f:hs/members", "", "!/:hs", true},

		{v3 + "!r:hs/members", "at=s1", "", false},
		{v3 + "!r:hs/members", "%61t=s1", "", false},
		{v3 + "!r:hs/members", "membership=join;at=s1", "", false},
		{v3 + "!r:hs/members", "membership=join&membership=leave", "", false},
		{v3 + "!r:hs/members", "x=%zz", "", false},
		{v3 + "!r:hs/joined_members/", "", "", false},
		{v3 + "!r:hs/xmembers", "", "", false},
		{v3 + "!r:hs/x/members", "", "", false},
		{v3 + "!/members", "", "", false},
		{v3 + "%23r:hs/members", "", "", false},
		{v3 + "!%ff:hs/members", "", "", false},
		{v3 + "!%zz:hs/members", "", "", false},
		{v3 + "!%00:hs/members", "", "", false},
		{"/_matrix/client/unstable/rooms/!r:hs/members", "", "", false},
		{"/_matrix/client/v3//rooms/!r:hs/members", "", "", false},
		{"/_synapse/admin/v1/rooms/!r:hs/members", "", "", false},
	} {
		route, ok := ParseMemberListRoute(tt.path, tt.query)
		if route.RoomID != tt.roomID || ok != (tt.roomID != "") || route.Events != tt.events {
			t.Errorf("%s?%s: %+v, %v", tt.path, tt.query, route, ok)
		}
	}
}

func TestSinceWhichBatchASyncAsks(t *testing.T) {
	for query, want := range map[string]struct {
		since string
		ok    bool
	}{
		"":                              {"", true},
		"timeout=30000&since=s1_2":      {"s1_2", true},
		"since=s1%5f2&filter=%7b%7d":    {"s1_2", true},
		"since=":                        {"", false},
		"since=a&since=b":               {"", false},
		"since=a;timeout=3":             {"", false},
		"since=a&x=1":                   {"", false},
		"since=%zz":                     {"", false},
		"%73ince=a&set_presence=busy":   {"a", true},
		"full_state=true&access_token=": {"", true},
	} {
		if since, ok := ParseSince(query); since != want.since || ok != want.ok {
			t.Errorf("%s: %q, %v", query, since, ok)
		}
	}
}

func TestRequestsThatChangeMemberships(t *testing.T) {
	const v3 = "/_matrix/client/v3/"
	sender, named, all := MembershipChange{Scope: ChangesSender}, MembershipChange{Scope: ChangesNamed}, MembershipChange{Scope: ChangesAll}
	of := func(userID string) MembershipChange { return MembershipChange{Scope: ChangesUser, UserID: userID} }
	admins := func(change MembershipChange) MembershipChange { change.Admin = true; return change }
	for _, tt := range []struct {
		method, path string
		want         MembershipChange
	}{
		{"POST", v3 + "join/%23a:hs", sender},
		{"POST", "/_matrix/client/r0/join/!r:hs", sender},
		{"POST", "/_matrix/client/api/v1/join/!r:hs", sender},
		{"POST", v3 + "knock/!r:hs", sender},
		{"POST", v3 + "createRoom", sender},
		{"POST", v3 + "account/deactivate", sender},
		{"POST", v3 + "rooms/!r:hs/join", sender},
		{"POST", v3 + "rooms/!r:hs/leave/", sender},
		{"PUT", v3 + "rooms/!r:hs/leave/txn1", MembershipChange{}},
		{"POST", v3 + "rooms/!r:hs/kick", named},
		{"POST", v3 + "rooms/!r:hs/%62an", named},
		{"POST", v3 + "rooms/!r:hs/unban", named},
		{"POST", v3 + "rooms/!r:hs/invite", named},
		{"PUT", v3 + "rooms/!r:hs/state/m.room.member/@b:hs", of("@b:hs")},
		{"PUT", v3 + "rooms/!r:hs/state/m.room.member/%40b%2F:hs", of("@b/:hs")},
		{"PUT", v3 + "rooms/!r:hs/state/m.room.member/b", MembershipChange{}},
		{"PUT", v3 + "rooms/!r:hs/state/m.room.name/", MembershipChange{}},
		{"PUT", v3 + "rooms/!r:hs/send/m.room.message/1", MembershipChange{}},
		{"GET", v3 + "rooms/!r:hs/state/m.room.member/@b:hs", MembershipChange{}},
		{"GET", v3 + "join/!r:hs", MembershipChange{}},
		{"POST", "/_synapse/admin/v1/join/!r:hs", admins(named)},
		{"DELETE", "/_synapse/admin/v2/rooms/!r:hs", admins(all)},
		{"POST", "/_synapse/admin/v1/rooms/!r:hs/delete", admins(all)},
		{"POST", "/_synapse/admin/v1/deactivate/@b:hs", admins(of("@b:hs"))},
		{"PUT", "/_synapse/admin/v2/users/@b:hs", admins(of("@b:hs"))},
		{"GET", "/_synapse/admin/v2/users/@b:hs", MembershipChange{}},
		{"POST", "/_dendrite/admin/evacuateRoom/!r:hs", admins(all)},
		{"POST", "/_dendrite/admin/evacuateUser/@b:hs", admins(of("@b:hs"))},
		{"POST", "/_matrix/client/vx/createRoom", MembershipChange{}},
		{"POST", "/join/x", MembershipChange{}},
	} {
		got, ok := ParseMembershipChange(tt.method, tt.path)
		if got != tt.want || ok != (tt.want.Scope != 0) {
			t.Errorf("%s %s: %+v, %v", tt.method, tt.path, got, ok)
		}
	}
}

func TestUsersWhomABodyNames(t *testing.T) {
	for body, want := range map[string][]string{
		`{"user_id":"@a:hs","reason":"x"}`:           {"@a:hs"},
		`{"user_id":"@a:hs","USER_ID":"@b:hs"}`:      {"@a:hs", "@b:hs"},
		`{"user_id":["@a:hs"],"x":{"user_id":"@b"}}`: nil,
		`{"user_id":"a"}`:                            nil,
		`user_id=@a:hs`:                              nil,
		`{"user_id":`:                                nil,
		``:                                           nil,
	} {
		if got := NamedUsers([]byte(body)); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
}
