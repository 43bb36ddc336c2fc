package attack_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/wire"
)

// TestBareCaddy is no attack on us: what victims notice of a flood when there is nothing
// of ours between them and the homeserver, on the same machine and with the same
// homeserver, which answers without effort. Their figures are to be read beside
// those of the attacks.
func TestBareCaddy(t *testing.T) {
	const attacker = "192.0.2.1"
	for _, tt := range []struct {
		name     string
		requests int
		request  func(i int) []byte
		status   int
	}{
		{"bare Caddy: random tokens, one address", scale.tokens / 4,
			func(i int) []byte {
				return wire.Request("GET", presencePath(bob), bearer(fmt.Sprint("made-up-", i)), from(attacker))
			}, http.StatusUnauthorized},
		{"bare Caddy: distinct targets of one viewer", scale.targets / 4,
			func(i int) []byte {
				return wire.Request("GET", presencePath(fmt.Sprintf("@user%d:hs", i)), viewer, from(attacker))
			}, http.StatusOK},
	} {
		t.Run(tt.name, func(t *testing.T) {
			siege{
				name:    tt.name,
				options: options{bare: true},
				flood:   flood{connections: 32, requests: tt.requests, judge: only(tt.status), request: tt.request},
				work: func(float64) limits {
					return limits{count: [kinds]int{read: tt.requests}}
				},
			}.run(t)
		})
	}
}
