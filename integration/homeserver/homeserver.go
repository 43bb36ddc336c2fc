package homeserver

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/process"
)

// Both homeservers know these, so that a test is written once for both.
const (
	// SharedSecret makes users without open registration.
	SharedSecret = "loopback-only"
	// ASToken is the appservice's token. Its sender is @bridge, and it may speak
	// for every user whose localpart starts with ghost_ or bridge_.
	ASToken = "bridge-as-token"

	hsToken = "bridge-hs-token"
)

// Options say how to start a homeserver. The zero value is good for tests.
type Options struct {
	// Progress gets a line or more while something takes long. Nil is silent.
	Progress io.Writer
	// PresenceOff starts a homeserver whose admin has turned presence off.
	PresenceOff bool
	// KeepPresenceLimit leaves Synapse's own limit on presence writes at its
	// default of one in ten seconds. Dendrite has none.
	KeepPresenceLimit bool
	// Federation serves the federation API on the same port, for what others may ask
	// a homeserver about itself. Nothing is sent to anybody.
	Federation bool

	// Redis gives Synapse a Redis, on which it tells of all changes. Dendrite has no use for one.
	Redis bool

	busy      *busyPorts // of a busy Synapse, or nil
	redisPort string     // of any other with a Redis
}

// busyPorts is what the configuration of a busy Synapse has besides: the folder of the database's socket, the
// port of Redis, and those at which the processes reach each other.
type busyPorts struct {
	Database, Redis, RedisPassword, Main, Presence, Sync, PresenceWorker string
}

// Busy is for the template.
func (o Options) Busy() *busyPorts { return o.busy }

// RedisPort is for the template.
func (o Options) RedisPort() string { return o.redisPort }

// Homeserver is a running homeserver. Stop it.
type Homeserver struct {
	// Name is "dendrite" or "synapse".
	Name string
	// URL is the base of the client API, "http://127.0.0.1:port".
	URL string
	// ServerName is the part of a user ID after the colon. It is never resolved.
	ServerName string
	// Redis is the address of its Redis, whose user "default" has the password RedisPassword, or empty if
	// it has none. FeedUser, with FeedPassword, may do nothing but listen to the channel.
	Redis string

	process *process.Process
	start   func() (*process.Process, error)
	redis   *process.Process // or nil
	dir     string           // for databases, keys, configuration and log; removed by Stop
}

// Stop ends the homeserver and removes its temporary folder.
func (h *Homeserver) Stop() {
	h.process.Stop()
	if h.redis != nil {
		h.redis.Stop()
	}
	os.RemoveAll(h.dir)
}

// PID is the number of the homeserver's process, to look up what it costs.
func (h *Homeserver) PID() int { return h.process.PID() }

// Exited is closed when the homeserver is gone, for whatever reason.
func (h *Homeserver) Exited() <-chan struct{} { return h.process.Exited() }

// UserID returns the Matrix ID of a local user.
func (h *Homeserver) UserID(localpart string) string {
	return "@" + localpart + ":" + h.ServerName
}

// Log returns the end of the homeserver's log.
func (h *Homeserver) Log() string { return process.Tail(h.process.Log, 50) }

// Client returns the client API of the homeserver.
func (h *Homeserver) Client() Client {
	return Client{URL: h.URL, SharedSecret: SharedSecret}
}

// Register makes a user and logs it in.
func (h *Homeserver) Register(ctx context.Context, localpart, password string) (User, error) {
	return h.Client().Register(ctx, localpart, password)
}

// Login logs a user in, on a new device.
func (h *Homeserver) Login(ctx context.Context, userID, password string) (User, error) {
	return h.Client().Login(ctx, userID, password)
}

// newDir makes a homeserver's folder.
func newDir(name string) (string, error) {
	dir, err := os.MkdirTemp("", "presence-"+name+"-")
	if err != nil {
		return "", fmt.Errorf("making a folder for %s: %w", name, err)
	}
	return dir, nil
}

// launch starts a homeserver's process and waits for its client API. On failure
// nothing is left behind.
func (h *Homeserver) launch(ctx context.Context, start func() (*process.Process, error)) (*Homeserver, error) {
	h.start = start
	if err := h.Start(ctx); err != nil {
		if h.redis != nil {
			h.redis.Stop()
		}
		os.RemoveAll(h.dir)
		return nil, err
	}
	return h, nil
}

// Start starts the homeserver again after it has ended, at the same address.
func (h *Homeserver) Start(ctx context.Context) error {
	p, err := h.start()
	if err != nil {
		return err
	}
	if err := p.Ready(ctx, h.URL+"/_matrix/client/versions"); err != nil {
		p.Stop()
		return err
	}
	h.process = p
	return nil
}
