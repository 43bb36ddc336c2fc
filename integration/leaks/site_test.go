package leaks_test

import (
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/bubble"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// site is what the Caddyfile says.
const site = "{\n" + bubble.Options + "}\nhttp://example.com {\n\tbind pipe/site\n" + bubble.Log + `
	NODES
}
`

// node is the module before the homeserver.
const node = `
	matrix_presence {
		DIRECTIVES
	}
	reverse_proxy localhost:8008 {
		transport model
	}
`

// twoNodes are two of a cluster. By which one a client comes, its address says.
const twoNodes = `
	@other remote_ip 2001:db8::/32
	handle @other {
		` + node + `
	}
	handle {
		` + node + `
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
	shared = testkit.NewSharedLog()
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

// load starts Caddy, or reloads it. Directives of a cluster have a placeholder for the name of the cache.
func load(j *bubble.Journal, directives string) error {
	nodes := strings.Replace(node, "DIRECTIVES", directives, 1)
	if strings.Contains(directives, cacheName) {
		nodes = twoNodes
		for _, name := range []string{"one", "other"} {
			nodes = strings.Replace(nodes, "DIRECTIVES", strings.ReplaceAll(directives, cacheName, name), 1)
		}
	}
	return bubble.Load(strings.Replace(site, "NODES", nodes, 1), j)
}

// cacheName is the placeholder.
const cacheName = "NAME"
