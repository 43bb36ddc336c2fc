package gateway

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/scripted"
)

// What passes by costs this much more where it is read, per answer. docs/performance.md holds it
// against what reverse_proxy takes for the same.

// passed is an answer that passes, in pieces as reverse_proxy copies them.
func passed(body string) Next {
	pieces := [][]byte{}
	for rest := []byte(body); len(rest) > 0; {
		n := min(len(rest), 32<<10)
		pieces, rest = append(pieces, rest[:n]), rest[n:]
	}
	return nextFunc(func(w http.ResponseWriter, _ *http.Request) error {
		w.Header()["Content-Type"] = []string{"application/json"}
		w.WriteHeader(200)
		for _, piece := range pieces {
			if _, err := w.Write(piece); err != nil {
				return err
			}
		}
		return nil
	})
}

// benchmarkPassing passes an answer to a viewer of whom it is known who they are. Each asks anew.
func benchmarkPassing(b *testing.B, body, target string) {
	for _, name := range []string{"off", "on"} {
		b.Run(name, func(b *testing.B) {
			p := newProxy(b, &options{Homeserver: "synapse", LearnOff: name == "off", Identity: &identifying{TTL: time.Hour}})
			p.memory.batches = newBatches(p.memory.now().Add(-time.Hour))
			p.hs.Tokens[aliceNamed] = alice
			p.Want(p.Get(aliceNamed, alice), 200, "", "")
			next := passed(body)
			r, w := prepared(request("GET", target, aliceNamed, "")), scripted.NewDiscard()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				clear(w.Header())
				if strings.Contains(target, "ROOM") {
					r.URL.Path = strings.Replace(target, "ROOM", strconv.Itoa(i%16), 1) // more than are known of a user
				} else if target == syncPath {
					r.URL.RawQuery = "timeout=30000&since=s" + strconv.Itoa(i)
				}
				if err := p.gateway.Serve(w, r, next); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkSyncPasses is a sync of 16 KB that tells of so many presences.
func BenchmarkSyncPasses(b *testing.B) {
	for _, presences := range []int{0, 1, 5} {
		var text strings.Builder
		text.WriteString(`{"next_batch":"s72595_4483_1934","account_data":{"events":[]},"presence":{"events":[`)
		for i := range presences {
			fmt.Fprintf(&text, `%.*s{"type":"m.presence","sender":"@user%d:example.com","content":{"presence":"online","last_active_ago":1000,"currently_active":true}}`,
				min(i, 1), ",", i)
		}
		text.WriteString(`]},"device_one_time_keys_count":{"signed_curve25519":50},"rooms":{"join":{"!room:example.com":{"timeline":{"events":["`)
		text.WriteString(strings.Repeat("x", 16<<10-text.Len()) + `"]}}}}}`)
		b.Run(strconv.Itoa(presences), func(b *testing.B) { benchmarkPassing(b, text.String(), syncPath) })
	}
}

// BenchmarkMembersPass is the list of a room with 2,600 members.
func BenchmarkMembersPass(b *testing.B) {
	var joined, events strings.Builder
	for i := range 2600 {
		user := fmt.Sprintf("@user%d:example.com", i)
		if i == 0 {
			user = alice
		}
		comma := ","[:min(i, 1)]
		fmt.Fprintf(&joined, `%s%q:{"display_name":"User %d","avatar_url":"mxc://example.com/abcdefghijklmnopqrstuvwx"}`, comma, user, i)
		fmt.Fprintf(&events, `%s{"type":"m.room.member","room_id":"!r:example.com","sender":%q,"content":{"avatar_url":"mxc://example.com/abcdefghijklmnopqrstuvwx",`+
			`"displayname":"User %d","membership":"join"},"state_key":%q,"origin_server_ts":1700000000000,"unsigned":{"age":123456789},`+
			`"event_id":"$abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ","user_id":%q,"age":123456789}`, comma, user, i, user, user)
	}
	b.Run("joined_members", func(b *testing.B) {
		benchmarkPassing(b, `{"joined":{`+joined.String()+`}}`, "/_matrix/client/v3/rooms/!ROOM:example.com/joined_members")
	})
	b.Run("members", func(b *testing.B) {
		benchmarkPassing(b, `{"chunk":[`+events.String()+`]}`, "/_matrix/client/v3/rooms/!ROOM:example.com/members")
	})
	b.Run("again", func(b *testing.B) { // by another viewer, or the same, a moment later
		benchmarkPassing(b, `{"chunk":[`+events.String()+`]}`, "/_matrix/client/v3/rooms/!r:example.com/members")
	})
}
