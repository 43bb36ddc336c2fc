package matrix

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

// Every class of words that a sync can say, and what each homeserver makes of it, as tried
// on Synapse 1.160.0, Dendrite 0.13.8 and tuwunel 1.6.1. The reading of tuwunel's was once
// Synapse's: a word that it doesn't know was nothing for us, and made the device offline
// there.
func TestSyncPresenceByDialect(t *testing.T) {
	for _, tt := range []struct {
		value                       string
		synapse, dendrite, tuwunels Presence
	}{
		{"online", Online, Online, Online},
		{"unavailable", Unavailable, Unavailable, Unavailable},
		{"offline", NoPresence, Offline, Offline},
		{"unchanged", NoPresence, NoPresence, Offline},
		{"", NoPresence, Online, Offline},
		{"ONLINE", NoPresence, Online, Offline},
		{"Offline", NoPresence, Offline, Offline},
		{"foo", NoPresence, NoPresence, Offline},
		{" online", NoPresence, NoPresence, Offline},
		{"busy", NoPresence, NoPresence, Busy},
		{"BUSY", NoPresence, NoPresence, Offline},
		{"org.matrix.msc3026.busy", NoPresence, NoPresence, Offline},
	} {
		for dialect, want := range map[Dialect]Presence{Synapse: tt.synapse, Dendrite: tt.dendrite, Tuwunel: tt.tuwunels, UnknownDialect: NoPresence} {
			if got := dialect.SyncPresence(tt.value); got != want {
				t.Errorf("%q is %q to dialect %d, want %q", tt.value, got, dialect, want)
			}
		}
	}
	for _, dialect := range []Dialect{Synapse, Dendrite} {
		if keep := dialect.NoChangeValue(); keep == "" || dialect.SyncPresence(keep) != NoPresence {
			t.Errorf("dialect %d keeps a presence by %q, which sets one", dialect, keep)
		}
	}
}

// What each homeserver reads in a query. "?" is for what isn't certain, "-" for nothing.
func TestSyncQueriesByDialect(t *testing.T) {
	dialects := []Dialect{Synapse, Dendrite, Tuwunel, UnknownDialect}
	for _, tt := range []struct {
		query string
		reads [4]string // in the order of dialects
	}{
		{"", [4]string{"online", "online", "online", "online"}},
		{"since=s&timeout=0", [4]string{"online", "online", "online", "online"}},
		{"set_presence=unavailable", [4]string{"unavailable", "unavailable", "unavailable", "unavailable"}},
		{"set_presence=offline", [4]string{"-", "offline", "offline", "?"}},
		{"set_presence=foo", [4]string{"-", "-", "offline", "?"}},
		{"set_presence=ONLINE", [4]string{"-", "online", "offline", "?"}},
		{"set_presence=busy", [4]string{"-", "-", "busy", "?"}},
		{"set_presence=org.matrix.msc3026.busy", [4]string{"-", "-", "offline", "?"}},
		{"set_presence=", [4]string{"-", "online", "offline", "?"}},
		{"set_presence", [4]string{"online", "online", "offline", "?"}},
		{"set_presence&set_presence=unavailable", [4]string{"unavailable", "online", "-", "?"}},
		{"set_presence=online&set_presence=online", [4]string{"online", "online", "-", "?"}},
		{"set_presence=unavailable&set_presence=online", [4]string{"unavailable", "unavailable", "-", "?"}},
		{"set%5fpresence=o%6eline", [4]string{"online", "online", "online", "online"}},
		{"Set_Presence=offline", [4]string{"online", "online", "online", "online"}},
		{"set_presence=+online", [4]string{"-", "-", "offline", "?"}},
		{"set_presence=%zz", [4]string{"-", "online", "offline", "?"}},
		{"set%zzpresence=offline", [4]string{"online", "online", "online", "online"}},
		{"x=1;set_presence=offline", [4]string{"-", "online", "online", "?"}},
		{"set_presence=unavailable;x=1", [4]string{"unavailable", "online", "offline", "?"}},
		{"x=1;set_presence=unavailable&set_presence=online", [4]string{"unavailable", "online", "online", "?"}},
		{"set_presence=unavailable&x=1;set_presence=online", [4]string{"unavailable", "unavailable", "unavailable", "unavailable"}},
		{"filter=\xff&set_presence=unavailable", [4]string{"?", "unavailable", "unavailable", "?"}},
		{"&&", [4]string{"online", "online", "online", "online"}},
	} {
		for i, d := range dialects {
			q := ParseSyncQuery(d, tt.query)
			got := q.Sets.String()
			switch {
			case !q.Certain:
				got = "?"
			case q.Sets == NoPresence:
				got = "-"
			}
			if got != tt.reads[i] {
				t.Errorf("%q is %s to dialect %d, want %s", tt.query, got, d, tt.reads[i])
			}
		}
	}
}

func TestSyncQueries(t *testing.T) {
	for _, tt := range []struct {
		query    string
		dialect  Dialect
		presence Presence // NoPresence: uncertain
		timeout  time.Duration
		set      string // to offline
	}{
		{"", Synapse, Online, Unbounded, "set_presence=offline"},
		{"since=s1", Synapse, Online, 0, "since=s1&set_presence=offline"},
		{"since=s1&timeout=30000&set_presence=unavailable&filter=%7B%7d", Synapse, Unavailable, 30 * time.Second, "since=s1&timeout=30000&set_presence=offline&filter=%7B%7d"},
		{"timeout=5&timeout=7&since=s", Synapse, Online, 5 * time.Millisecond, "timeout=5&timeout=7&since=s&set_presence=offline"},
		{"timeout=-1&since=s", Dendrite, Online, Unbounded, "timeout=-1&since=s&set_presence=offline"},
		{"timeout=99999999999999999999&since=s", Synapse, Online, Unbounded, "timeout=99999999999999999999&since=s&set_presence=offline"},
		{"timeout=0&since=&since=s", Synapse, Online, Unbounded, "timeout=0&since=&since=s&set_presence=offline"},
		{"timeout=0&since=", Synapse, Online, Unbounded, "timeout=0&since=&set_presence=offline"},
		{"timeout=0&since=s&full_state=true", Synapse, Online, Unbounded, "timeout=0&since=s&full_state=true&set_presence=offline"},
		{"timeout=7&since=s&full_state=false", Synapse, Online, 7 * time.Millisecond, "timeout=7&since=s&full_state=false&set_presence=offline"},
		{"timeout=7&since=s&full_state=False", Synapse, Online, Unbounded, "timeout=7&since=s&full_state=False&set_presence=offline"},
		{"since=s;timeout=0&since=s", Synapse, Online, Unbounded, "since=s;timeout=0&since=s&set_presence=offline"},
		{"since=s;timeout=9&since=s", Dendrite, Online, 0, "since=s;timeout=9&since=s&set_presence=offline"},
		{"set_presence=unavailable&set_presence=online&since=s", Dendrite, Unavailable, 0, "set_presence=offline&set_presence=online&since=s"},
		{"set%5fpresence=o%6eline&since=s", Tuwunel, Online, 0, "set%5fpresence=offline&since=s"},
		{"filter=a;b&since=s", Synapse, Online, 0, "filter=a;b&since=s&set_presence=offline"},
		{"filter=a;set_presence=online", Synapse, Online, Unbounded, "set_presence=offline&filter=a;set_presence=online"},
		{"filter=a;set_presence=online", Dendrite, Online, Unbounded, "filter=a;set_presence=online&set_presence=offline"},
		{"set_presence=online;x", Synapse, Online, Unbounded, "set_presence=offline&set_presence=online;x"},
		{"a&set_presence&since=s", Dendrite, Online, 0, "a&set_presence=offline&since=s"},
		{"a&set_presence&since=s", Tuwunel, Offline, 0, "a&set_presence=offline&since=s"},
		{"a&set_presence&since=s", Synapse, Online, 0, "a&set_presence&since=s&set_presence=offline"},
		{"set_presence=%zz&since=s", Dendrite, Online, 0, "set_presence=%zz&since=s&set_presence=offline"},
	} {
		q := ParseSyncQuery(tt.dialect, tt.query)
		if q.Certain != (tt.presence != NoPresence) || q.Certain && q.Sets != tt.presence || q.Timeout != tt.timeout {
			t.Errorf("%q for dialect %d: %+v, want %q and %v", tt.query, tt.dialect, q, tt.presence, tt.timeout)
		}
		if set := q.Set("offline"); set != tt.set {
			t.Errorf("%q for dialect %d became %q, want %q", tt.query, tt.dialect, set, tt.set)
		}
	}
}

func TestSyncBodies(t *testing.T) {
	for _, tt := range []struct {
		body string
		sets Presence // NoPresence with a set: refused
		set  string   // empty: uncertain
	}{
		{`{}`, Online, `{"set_presence":"unavailable"}`},
		{``, Online, `{"set_presence":"unavailable"}`},
		{` {"lists": {"a":1}} `, Online, ` {"set_presence":"unavailable","lists": {"a":1}} `},
		{`{"a":[{}],"set_presence" : "offline" ,"b":1}`, Offline, `{"a":[{}],"set_presence" : "unavailable" ,"b":1}`},
		{`{"set_presence":"ONLINE"}`, Offline, `{"set_presence":"unavailable"}`},
		{`{"set_presence":"foo"}`, Offline, `{"set_presence":"unavailable"}`},
		{`{"set_presence":""}`, Offline, `{"set_presence":"unavailable"}`},
		{`{"set_presence":"busy"}`, Busy, `{"set_presence":"unavailable"}`},
		{`{"set_presence":"org.matrix.msc3026.busy"}`, Offline, `{"set_presence":"unavailable"}`},
		{`{"Set_Presence":"offline"}`, Online, `{"set_presence":"unavailable","Set_Presence":"offline"}`},
		{`{"set\u005fpresence":"onl\u0069ne"}`, Online, `{"set\u005fpresence":"unavailable"}`},
		{`{"set_presence":null}`, NoPresence, `{"set_presence":"unavailable"}`},
		{`{"set_presence":1}`, NoPresence, `{"set_presence":"unavailable"}`},
		{`{"set_presence":["online"]}`, NoPresence, `{"set_presence":"unavailable"}`},
		{`{"set_presence":"online","set_presence":"offline"}`, Offline, `{"set_presence":"online","set_presence":"unavailable"}`},
		{`{"set_presence":"online","set_presence":null}`, NoPresence, `{"set_presence":"online","set_presence":"unavailable"}`},
		{`{"set_presence":null,"set_presence":"busy"}`, Busy, `{"set_presence":null,"set_presence":"unavailable"}`},
		{`[]`, 0, ""},
		{`"set_presence"`, 0, ""},
		{`{`, 0, ""},
		{` `, 0, ""},
	} {
		b, ok := ParseSyncBody([]byte(tt.body))
		if ok != (tt.set != "") || b.Sets != tt.sets {
			t.Errorf("%s: %q, %v, want %q", tt.body, b.Sets, ok, tt.sets)
		}
		if ok {
			if set := string(b.Set("unavailable")); set != tt.set {
				t.Errorf("%s became %s, want %s", tt.body, set, tt.set)
			}
		}
	}
}
