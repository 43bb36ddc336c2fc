package replication

import (
	"encoding/json"
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

// kinds are the streams, by what they are about.
var kinds = map[string]gateway.FeedLine{
	"presence":               gateway.LinePresence,
	"events":                 gateway.LineMembership,
	"un_partial_stated_room": gateway.LineMembership,
	"caches":                 gateway.LineSession,
	"device_lists":           gateway.LineSession,

	"account_data": gateway.LineOther, "backfill": gateway.LineOther, "federation": gateway.LineOther,
	"presence_federation": gateway.LineOther, "profile_updates": gateway.LineOther, "pushers": gateway.LineOther,
	"push_rules": gateway.LineOther, "quarantined_media": gateway.LineOther, "receipts": gateway.LineOther,
	"sticky_events": gateway.LineOther, "thread_subscriptions": gateway.LineOther, "to_device": gateway.LineOther,
	"typing": gateway.LineOther, "un_partial_stated_event": gateway.LineOther,
}

// row reads a row, which is a JSON array. It reports false if it has another shape.
func (r *Reader) row(stream, text string) bool {
	var row []json.RawMessage
	if json.Unmarshal([]byte(text), &row) != nil {
		return false
	}
	switch stream {
	case "presence":
		return r.presence(row)
	case "events":
		return r.event(row)
	case "caches":
		return r.cache(row)
	case "device_lists":
		return r.device(row)
	default: // un_partial_stated_room: members may have been missing so far
		r.news.MembershipsChanged()
		return true
	}
}

// presence reads [user, state, last_active_ts, last_federation_update_ts, last_user_sync_ts,
// status_msg or null, currently_active].
func (r *Reader) presence(row []json.RawMessage) bool {
	if len(row) < 7 {
		return false
	}
	var of gateway.PresenceNews
	ok := decode(row[0], &of.UserID) && decode(row[1], &of.Presence) && decode(row[2], &of.LastActive) &&
		decode(row[3], &of.Changed) && truth(row[6], &of.CurrentlyActive)
	if !ok {
		return false
	}
	if status := string(row[5]); status != "null" {
		if !strings.HasPrefix(status, `"`) {
			return false
		}
		of.StatusMsg = status // escaped as the answer to a GET has it
	}
	return r.news.PresenceChanged(of)
}

// event reads ["state", [room, type, state key, event or null]], ["state-all", [room]], which is
// said of so many changes that they aren't listed, or ["ev", …], which isn't needed.
func (r *Reader) event(row []json.RawMessage) bool {
	var kind string
	var of []*string
	if len(row) < 2 || !decode(row[0], &kind) {
		return false
	}
	switch kind {
	case "state":
		if json.Unmarshal(row[1], &of) != nil || len(of) < 3 || of[1] == nil || of[2] == nil {
			return false
		}
		if *of[1] == "m.room.member" {
			r.news.MembershipChanged(*of[2])
		}
	case "state-all":
		r.news.MembershipsChanged()
	}
	return true
}

// cache reads [function, keys or null, time]: what the function returns for the keys is no longer
// so, or for all.
func (r *Reader) cache(row []json.RawMessage) bool {
	r.saidCaches = true
	var function string
	if len(row) < 2 || !decode(row[0], &function) {
		return false
	}
	var of []any
	if json.Unmarshal(row[1], &of) != nil {
		return false
	}
	key := func(i int) (text string) {
		if i < len(of) {
			text, _ = of[i].(string)
		}
		return text
	}
	switch function {
	case "get_user_by_access_token":
		// Of all, if it is null: what is known of tokens lives no longer than without a feed.
		if token := key(0); token != "" {
			r.news.TokenEnded(token)
		}
	case "get_device":
		// With a device it has come or has another name, without one it is gone.
		if len(of) == 1 {
			r.session(key(0))
		}
	case "get_user_locked_status", "get_user_deactivated_status":
		r.session(key(0))
	case "cs_cache_fake": // the state of a room: the room, and whose memberships
		if len(of) == 0 {
			r.news.MembershipsChanged()
		}
		for i := 1; i < len(of); i++ {
			r.news.MembershipChanged(key(i))
		}
	case "dr_cache_fake": // a room is deleted
		r.news.MembershipsChanged()
	}
	return true
}

// device reads [user or host, is a signature, …].
func (r *Reader) device(row []json.RawMessage) bool {
	var entity string
	var isSignature bool
	if len(row) < 2 || !decode(row[0], &entity) || !truth(row[1], &isSignature) {
		return false
	}
	if !r.saidCaches && !isSignature {
		r.session(entity)
	}
	return true
}

// session tells of a user of this server that their sessions may have ended.
func (r *Reader) session(userID string) {
	if strings.HasPrefix(userID, "@") && strings.HasSuffix(userID, r.suffix) {
		r.news.SessionsEnded(userID)
	}
}

// decode reads a value that is there. A null is none.
func decode[T any](raw json.RawMessage, into *T) bool {
	return string(raw) != "null" && json.Unmarshal(raw, into) == nil
}

// truth reads a truth value. SQLite has numbers for them.
func truth(raw json.RawMessage, into *bool) bool {
	switch string(raw) {
	case "true", "1":
		*into = true
	case "false", "0":
		*into = false
	default:
		return false
	}
	return true
}
