package model

import "encoding/json"

// Takes reports whether the homeserver takes the body of a write.
func (d *Dialect) Takes(body string) bool {
	_, good := d.write([]byte(body))
	return good
}

// Lacks tells of a write that it would leave another presence than there is, if it was made at this
// moment, and what both are. One that the homeserver would refuse leaves what there is.
func (hs *Homeserver) Lacks(token, asUser, body string) (lacks bool, now, then State) {
	user, device, no := hs.Viewer(hs.Now(), token, asUser)
	word, message, good := hs.Dialect.says([]byte(body))
	if no != nil || !good || hs.Now().PresenceOff {
		return false, State{}, State{}
	}
	now, then = hs.State(user), hs.leaves(user, device, word, message, hs.Dialect.keeps)
	return now != then, now, then
}

// says returns what a body of a write says, and whether the homeserver takes it.
func (d *Dialect) says(body []byte) (word string, message *string, ok bool) {
	var given struct {
		Message *string `json:"status_msg"`
	}
	word, ok = d.write(body)
	if ok {
		_ = json.Unmarshal(body, &given) // it was read before
	}
	return word, given.Message, ok
}
