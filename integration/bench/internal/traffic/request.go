package traffic

import (
	"fmt"
	"net/url"
)

// Kind is what a request does.
type Kind int

// The kinds of request.
const (
	// Read is the GET of the target's presence by the viewer.
	Read Kind = iota
	// Write is the PUT of the target's presence by the target.
	Write
	// Foreign is the PUT of the target's presence by the viewer, which homeservers
	// refuse.
	Foreign
	// Other is a GET that has nothing to do with presence.
	Other
	// Sync is the viewer's sync from the batch on that has the target's number.
	Sync
	// Members is the list of who is in the room that has the target's number.
	Members
)

// Request is one request.
type Request struct {
	Kind           Kind
	Viewer, Target User
}

// Text returns the request as it goes over the wire. A write sets status.
func (r Request) Text(people People, status string) []byte {
	target := url.QueryEscape(people.ID(r.Target))
	method, sender, path, body := "GET", r.Viewer, "presence/"+target+"/status", ""
	switch r.Kind {
	case Write, Foreign:
		method = "PUT"
		// Online, because that is what makes Synapse set the time of the last activity.
		body = fmt.Sprintf(`{"presence":"online","status_msg":%q}`, status)
		if r.Kind == Write {
			sender = r.Target
		}
	case Other:
		path = "profile/" + target + "/displayname"
	case Sync:
		path = fmt.Sprintf("sync?timeout=30000&since=s%d", r.Target)
	case Members:
		path = fmt.Sprintf("rooms/!r%d:hs.test/members", r.Target)
	}
	head := fmt.Sprintf("%s /_matrix/client/v3/%s HTTP/1.1\r\nHost: hs.test\r\nAuthorization: Bearer %s\r\n",
		method, path, people.Token(sender))
	if body != "" {
		head += fmt.Sprintf("Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	return []byte(head + "\r\n" + body)
}
