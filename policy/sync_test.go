package policy

import (
	"testing"
	"time"
)

func TestSyncRoutes(t *testing.T) {
	for _, tt := range []struct {
		method, path string
		want         SyncRoute
	}{
		{"GET", "/_matrix/client/v3/sync", Sync},
		{"GET", "/_matrix/client/r0/sync", Sync},
		{"HEAD", "/_matrix/client/v3/sync", Sync},
		{"GET", "/_matrix/client/unstable/sync", UnstableSync},
		{"POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", SlidingSync},
		{"GET", "/_matrix/client/api/v1/sync", 0},
		{"GET", "/_matrix/client/v3/sync/", 0},
		{"GET", "/_matrix/client/v3//sync", 0},
		{"GET", "/_matrix/client/v3/%73ync", 0},
		{"GET", "/_matrix/client/v3/x/sync", 0},
		{"GET", "/_matrix/client/sync", 0},
		{"GET", "//_matrix/client/v3/sync", 0},
		{"POST", "/_matrix/client/v3/sync", 0},
		{"OPTIONS", "/_matrix/client/v3/sync", 0},
		{"GET", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", 0},
		{"POST", "/_matrix/client/v3/org.matrix.simplified_msc3575/sync", 0},
	} {
		if got, ok := ParseSyncRoute(tt.method, tt.path); got != tt.want || ok != (tt.want != 0) {
			t.Errorf("%s %s: %v, %v, want %v", tt.method, tt.path, got, ok, tt.want)
		}
	}
}

// What homeservers make of each value, as tried on Synapse 1.160.0 and Dendrite 0.13.8.
func TestSyncPresenceByDialect(t *testing.T) {
	for _, tt := range []struct {
		value                       string
		synapse, dendrite, tuwunels Presence
	}{
		{"online", Online, Online, Online},
		{"unavailable", Unavailable, Unavailable, Unavailable},
		{"offline", NoPresence, Offline, Offline},
		{"unchanged", NoPresence, NoPresence, NoPresence},
		{"", NoPresence, Online, Offline},
		{"ONLINE", NoPresence, Online, NoPresence},
		{"busy", NoPresence, NoPresence, Busy},
		{"org.matrix.msc3026.busy", NoPresence, NoPresence, NoPresence},
	} {
		for dialect, want := range map[Dialect]Presence{Synapse: tt.synapse, Dendrite: tt.dendrite, Tuwunel: tt.tuwunels} {
			if got := dialect.SyncPresence(tt.value); got != want {
				t.Errorf("%q is %q to dialect %d, want %q", tt.value, got, dialect, want)
			}
		}
	}
	for _, dialect := range []Dialect{Synapse, Dendrite} {
		if keep := dialect.Keep(); keep == "" || dialect.SyncPresence(keep) != NoPresence {
			t.Errorf("dialect %d keeps a presence by %q, which sets one", dialect, keep)
		}
	}
}

func TestSyncQueries(t *testing.T) {
	for _, tt := range []struct {
		query    string
		presence string // empty: uncertain
		timeout  time.Duration
		set      string // to offline
	}{
		{"", "online", Unbounded, "set_presence=offline"},
		{"since=s1", "online", 0, "since=s1&set_presence=offline"},
		{"since=s1&timeout=30000&set_presence=unavailable&filter=%7B%7d", "unavailable", 30 * time.Second, "since=s1&timeout=30000&set_presence=offline&filter=%7B%7d"},
		{"timeout=5&timeout=7&since=s", "online", 5 * time.Millisecond, "timeout=5&timeout=7&since=s&set_presence=offline"},
		{"timeout=-1&since=s", "online", Unbounded, "timeout=-1&since=s&set_presence=offline"},
		{"timeout=99999999999999999999&since=s", "online", Unbounded, "timeout=99999999999999999999&since=s&set_presence=offline"},
		{"timeout=0&since=", "online", Unbounded, "timeout=0&since=&set_presence=offline"},
		{"timeout=0&since=s&full_state=true", "online", Unbounded, "timeout=0&since=s&full_state=true&set_presence=offline"},
		{"since=s;timeout=0&since=s", "online", Unbounded, "since=s;timeout=0&since=s&set_presence=offline"},
		{"set_presence=unavailable&set_presence=online&since=s", "unavailable", 0, "set_presence=offline&set_presence=online&since=s"},
		{"set%5fpresence=o%6eline&since=s", "online", 0, "set%5fpresence=offline&since=s"},
		{"filter=a;b&since=s", "online", 0, "filter=a;b&since=s&set_presence=offline"},
		{"filter=a;set_presence=online", "", 0, "set_presence=offline&filter=a;set_presence=online"},
		{"set_presence=online;x", "", 0, "set_presence=offline&set_presence=online;x"},
		{"set_presence", "", 0, "set_presence=offline&set_presence"},
		{"set_presence=%zz", "", 0, "set_presence=offline&set_presence=%zz"},
		{"filter=\xff", "", 0, "set_presence=offline&filter=\xff"},
	} {
		got, ok := ParseSyncQuery(tt.query)
		if ok != (tt.presence != "") || ok && got != (SyncQuery{tt.presence, tt.timeout}) {
			t.Errorf("%q: %+v, %v, want %q and %v", tt.query, got, ok, tt.presence, tt.timeout)
		}
		if set := SetSyncPresence(tt.query, "offline"); tt.query[:min(1, len(tt.query))] != "\xff" && set != tt.set {
			t.Errorf("%q became %q, want %q", tt.query, set, tt.set)
		}
	}
}

func TestSyncBodies(t *testing.T) {
	for _, tt := range []struct{ body, presence, set string }{
		{`{}`, "online", `{"set_presence":"unavailable"}`},
		{` {"lists": {"a":1}} `, "online", ` {"set_presence":"unavailable","lists": {"a":1}} `},
		{`{"a":[{}],"set_presence" : "offline" ,"b":1}`, "offline", `{"a":[{}],"set_presence" : "unavailable" ,"b":1}`},
		{`{"set_presence":null}`, "", ""},
		{`{"set_presence":"online","set_presence":"online"}`, "", ""},
		{`[]`, "", ""},
		{`"set_presence"`, "", ""},
		{`{`, "", ""},
		{``, "", ""},
	} {
		b, ok := ParseSyncBody([]byte(tt.body))
		if ok != (tt.presence != "") || ok && b.Presence != tt.presence {
			t.Errorf("%s: %q, %v, want %q", tt.body, b.Presence, ok, tt.presence)
		}
		if ok {
			if set := string(b.Set("unavailable")); set != tt.set {
				t.Errorf("%s became %s, want %s", tt.body, set, tt.set)
			}
		}
	}
}
