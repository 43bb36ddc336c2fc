package history

import (
	"fmt"
	"strings"
	"testing"
	"time"

	_ "github.com/caddy-matrix/caddy-matrix-presence/redis" // what is tested

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/redisserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// shared is what the nodes of a scenario share: a server, which another may follow, and the network
// of each node to it.
type shared struct {
	scenario         *scenario
	primary, replica *redisserver.Server
	networks         []*redisserver.Relay
	timeout          time.Duration // of a call
	paused           bool          // for long
}

// callTimeout is how long a call may take. A busy machine must not make it one of trouble.
const callTimeout = 400 * time.Millisecond

func newShared(t *testing.T, s *scenario) *shared {
	b := &shared{scenario: s, timeout: callTimeout, primary: redisserver.Start(t, s.kind), replica: redisserver.Start(t, s.kind)}
	b.replica.Follow(b.primary)
	for range s.nodes {
		b.networks = append(b.networks, redisserver.NewRelay(t, b.primary.Address))
	}
	return b
}

// directives are those of a site with all nodes, each for the requests that name it.
func (b *shared) directives(upstream string, n int) string {
	const name = "abc"
	var site strings.Builder
	for i := range b.networks {
		cache := fmt.Sprintf("name %s\n%s", name[i:], caches[n%len(caches)])
		cluster := fmt.Sprintf(`cluster redis {
			address %s
			secret 0123456789abcdef0123456789abcdef
			timeout %v
			outage fresh
			key_prefix mp:%s
		}`, b.networks[i].Address, b.timeout, name[:i])
		fmt.Fprintf(&site, "@node%d header X-Node %d\nhandle @node%d {\n%s\n}\n", i, i, i, b.scenario.directivesOf(upstream, cache, cluster))
	}
	return site.String()
}

// without has something happen of which one node hears nothing: it is late, and others write meanwhile. It is no
// longer than what a call may take.
func (b *shared) without(happens func()) {
	release := b.networks[1].Hold()
	defer release()
	happens()
	time.Sleep(callTimeout / 2)
}

// slow: one node's way is long from now on.
func (b *shared) slow() { b.networks[0].Delay(50 * time.Millisecond) }

// restart: what the server had is gone.
func (b *shared) restart() {
	b.without(func() {
		b.primary.Kill()
		b.primary.Restart()
	})
	b.replica.Follow(b.primary)
}

// failOver: the server is gone, and another takes over, which may not have the last entries.
func (b *shared) failOver() {
	b.without(func() {
		b.primary.Kill()
		b.replica.Do("REPLICAOF", "NO", "ONE")
		b.lead()
	})
	b.primary.Restart()
	b.swap()
}

// demote: another takes over while the server is still there, and answers reads. The replica has stood
// still for a while, so that it hasn't the last entries.
func (b *shared) demote() {
	b.replica.Pause()
	time.Sleep(100 * time.Millisecond)
	b.primary.Do("CLIENT", "KILL", "TYPE", "replica")
	b.replica.Resume()
	b.replica.Do("REPLICAOF", "NO", "ONE")
	b.primary.Do("REPLICAOF", "127.0.0.1", "1") // it follows nobody, and takes no writes
	b.lead()
	time.Sleep(2 * callTimeout)
	b.swap()
}

// lead has new connections lead to the replica.
func (b *shared) lead() {
	for _, network := range b.networks {
		network.LeadTo(b.replica.Address)
	}
}

// swap makes the replica the primary.
func (b *shared) swap() {
	b.primary, b.replica = b.replica, b.primary
	b.replica.Follow(b.primary)
}

// cut: connections end, of one node and of another.
func (b *shared) cut() {
	for i := range 20 {
		b.networks[i%len(b.networks)].Cut()
		time.Sleep(20 * time.Millisecond)
	}
}

// halfOpen: the server gets what a node sends, and the node hears nothing.
func (b *shared) halfOpen() {
	for _, network := range b.networks {
		network.Mute(true)
		time.Sleep(callTimeout)
		network.Mute(false)
	}
}

// pause: the server stands still for a moment, and then for longer than writes are held up. In the full size it does
// once for half a minute.
func (b *shared) pause() {
	pauses := []time.Duration{callTimeout / 2, 2*time.Second + 3*callTimeout}
	if suite.Full() && !b.paused {
		b.paused, pauses = true, append(pauses, 30*time.Second)
	}
	for _, pause := range pauses {
		b.primary.Pause()
		time.Sleep(pause)
		b.primary.Resume()
		time.Sleep(callTimeout)
	}
}

// trim: the log has lost entries that not all nodes have seen.
func (b *shared) trim() {
	for range 3 {
		b.without(func() {
			time.Sleep(callTimeout / 4)
			b.primary.Do("DEL", "{mp:abc}:log")
		})
		time.Sleep(callTimeout / 4)
	}
}
