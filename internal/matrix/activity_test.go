package matrix

import "testing"

func TestActivityIsWhatHomeserversTakeForIt(t *testing.T) {
	for _, tc := range []struct {
		method, path string
		want         bool
	}{
		{"PUT", "/_matrix/client/v3/rooms/!r:example.com/send/m.room.message/1", true},
		{"POST", "/_matrix/client/r0/rooms/!r:example.com/send/m.room.message/", true},
		{"PUT", "/_matrix/client/api/v1/rooms/!r:example.com/typing/@a:example.com", true},
		{"POST", "/_matrix/client/unstable/rooms/%21r%3Aexample.com/receipt/m.read/$e", true},
		{"POST", "/_matrix/client/v3/rooms/!r:example.com/read_markers", true},
		{"PUT", "/_matrix/client/v3/profile/@a:example.com/displayname", true},
		{"DELETE", "/_matrix/client/v3/profile/@a:example.com/tz", true},

		{"POST", "/_matrix/client/v3/rooms/!r:example.com/send/m.room.message", true},
		{"GET", "/_matrix/client/r0/events", true},
		{"HEAD", "/_matrix/client/api/v1/events/", true},

		// Once event types were compared escaped, and such a message was none.
		{"PUT", "/_matrix/client/v3/rooms/!r:example.com/send/m%2Eroom.message/1", true},
		{"PUT", "/_matrix/client/v3/rooms/!r:example.com/send/%6d.room%2emessage/1/", true},
		{"PUT", "/_matrix/client/v3/rooms/!r%2Fx:example.com/send/m.room.message/a%2Fb", true},
		{"PUT", "/_matrix/client/v3/rooms/!r:example.com/send/m%2Froom.message/1", false},
		{"PUT", "/_matrix/client/v3/rooms/!r:example.com/send/m%252Eroom.message/1", false},
		// Synapse looks at the type of an event only, whatever way it has come.
		{"PUT", "/_matrix/client/v3/rooms/!r:example.com/state/m.room.message/", true},
		{"PUT", "/_matrix/client/v3/rooms/!r:example.com/state/m.room.mess%61ge/x", true},
		{"POST", "/_matrix/client/v3/createRoom", true},
		{"POST", "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/id", true},
		// tuwunel serves the profile under the name of the proposal, too.
		{"PUT", "/_matrix/client/unstable/uk.tcpip.msc4133/profile/@a:example.com/tz", true},
		{"DELETE", "/_matrix/client/unstable/uk.tcpip.msc4133/profile/%40a:example.com/tz", true},
		{"PATCH", "/_matrix/client/unstable/uk.tcpip.msc4133/profile/@a:example.com", true},
		{"GET", "/_matrix/client/unstable/uk.tcpip.msc4133/profile/@a:example.com/tz", false},

		{"GET", "/_matrix/client/v3/rooms/!r:example.com/events", false},

		{"GET", "/_matrix/client/r0/events/$e", false},
		{"PUT", "/_matrix/client/v3/rooms/!r:example.com/send/m.room.encrypted/1", false},
		{"PUT", "/_matrix/client/v3/rooms/!r:example.com/state/m.room.member/@a:example.com", false},
		{"GET", "/_matrix/client/v3/rooms/!r:example.com/typing/x", false},
		{"GET", "/_matrix/client/v3/profile/@a:example.com", false},
		{"PUT", "/_matrix/client/v3/presence/@a:example.com/status", false},
		{"PUT", "/_matrix/media/v3/rooms/x/typing/y", false},
		{"PUT", "/_matrix/client/v3", false},
		{"PUT", "/", false},
	} {
		if got := IsActivity(tc.method, tc.path); got != tc.want {
			t.Errorf("%s %s: got %v", tc.method, tc.path, got)
		}
	}
}
