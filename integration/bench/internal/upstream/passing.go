package upstream

import (
	"fmt"
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/traffic"
)

// What passes by that isn't about presence is as large as a homeserver's, and the same for all.
const (
	syncSize   = 16 << 10
	presences  = 5
	roomSize   = 2600
	memberText = `{"type":"m.room.member","room_id":"!r:hs.test","sender":%[1]q,"content":{"avatar_url":"mxc://hs.test/abcdefghijklmnopqrstuvwx",` +
		`"displayname":"User","membership":"join"},"state_key":%[1]q,"origin_server_ts":1700000000000,"unsigned":{"age":123456789},` +
		`"event_id":"$abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ","user_id":%[1]q,"age":123456789}`
)

// syncAnswer is a sync of 16 KiB that tells of five presences.
func syncAnswer() string {
	var events []string
	for i := range presences {
		events = append(events, fmt.Sprintf(`{"type":"m.presence","sender":%q,"content":{"presence":"online","last_active_ago":1000,"currently_active":true}}`,
			traffic.Scripted{}.ID(traffic.User(i))))
	}
	begin := `{"next_batch":"s72595_4483_1934","account_data":{"events":[]},"presence":{"events":[` + strings.Join(events, ",") +
		`]},"device_one_time_keys_count":{"signed_curve25519":50},"rooms":{"join":{"!r:hs.test":{"timeline":{"events":["`
	return begin + strings.Repeat("x", syncSize-len(begin)) + `"]}}}}}`
}

// memberList has 2,600 members, among them the viewers.
func memberList() string {
	var events []string
	for i := range roomSize {
		user := traffic.User(i)
		if i < 100 {
			user = traffic.Viewer(i)
		}
		events = append(events, fmt.Sprintf(memberText, traffic.Scripted{}.ID(user)))
	}
	return `{"chunk":[` + strings.Join(events, ",") + `]}`
}
