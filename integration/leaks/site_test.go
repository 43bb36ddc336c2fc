package leaks_test

import (
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/bubble"
)

// site is what the Caddyfile says.
const site = "{\n" + bubble.Options + "}\nhttp://example.com {\n\tbind pipe/site\n" + bubble.Log + `
	matrix_presence {
		DIRECTIVES
	}
	reverse_proxy localhost:8008 {
		transport model
	}
}
`

// open starts Caddy before a homeserver, until the test is over. It must be called in a
// bubble.
func open(t interface {
	Cleanup(func())
	Errorf(string, ...any)
	Fatal(...any)
}, hs *homeserver, directives string) *bubble.Journal {
	j := new(bubble.Journal)
	bubble.Behind("localhost:8008", hs)
	fedBy.Store(hs)
	if err := load(j, directives); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		hs.rest()
		if err := bubble.Stop(); err != nil {
			t.Errorf("stopping Caddy: %v", err)
		}
	})
	return j
}

// load starts Caddy, or reloads it.
func load(j *bubble.Journal, directives string) error {
	return bubble.Load(strings.Replace(site, "DIRECTIVES", directives, 1), j)
}
