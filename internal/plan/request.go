package plan

import (
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// Kind is what a client asks for.
type Kind int

const (
	Read      Kind = iota // GET of a presence
	Write                 // PUT of one's own
	Sync                  // GET /sync, which may set a presence
	Preflight             // OPTIONS of a presence
	List                  // GET of who is joined to a room
	Kinds
)

// KindNames are the words for them.
var KindNames = [Kinds]string{"read", "write", "sync", "preflight", "list"}

// User is somebody with an account, or a user of a bridge.
type User struct {
	ID    string
	index int
}

// Device is what asks on behalf of a user: by a token of its own, or by a bridge's and the user's ID.
type Device struct {
	User *User

	// Unknown tells that the homeserver doesn't know the token. Address is that of the client, and
	// matters for such tokens only.
	Unknown bool
	Address string

	credential  matrix.Credential
	fingerprint [16]byte
	node        int
}

// Request is what a client sends.
type Request struct {
	At   time.Duration // since the first
	Kind Kind
	By   *Device

	Target *User  // of a read or a preflight: whose presence
	Room   string // of a list

	// What a write says, or a sync by set_presence. Of a sync NoPresence is what changes nothing.
	Presence  matrix.Presence
	StatusMsg string

	// Lasts is how long a sync waits for news, and Timeout how long it would at most.
	Lasts, Timeout time.Duration
}
