package attack_test

import (
	"flag"
	"os"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// size is how much is sent.
type size struct {
	tokens    int // made up by one address
	clients   int // addresses that attack together
	each      int // tokens that each of them makes up
	targets   int // whom one viewer asks for
	hidden    int // of them who may not be seen, or have long IDs
	userIDs   int // values of one parameter on one token
	long      int // requests with a very long user ID
	bodies    int // writes with a costly body
	members   int // of one body
	slow      int // clients that never finish their body
	logins    int // people who come home to one address at once
	pipelined int // requests that are sent before the first answer is read

	lasting time.Duration // attacks that are not counted in requests

	// tables are those of most sites: so small that an attack fills them in seconds
	// and a leak stands out, or the default.
	tables sizesOfTables
}

var (
	small = size{
		tokens: 4_000, clients: 1_000, each: 5, targets: 20_000, hidden: 3_000, userIDs: 10_000, long: 200,
		bodies: 300, members: 400_000, slow: 300, logins: 1_000, pipelined: 500,
		lasting: 1500 * time.Millisecond,
		tables:  sizesOfTables{states: 1_000, permissions: 5_000, tokens: 5_000},
	}
	full = size{
		tokens: 1_000_000, clients: 10_000, each: 50, targets: 1_000_000, hidden: 1_000_000, userIDs: 1_000_000, long: 10_000,
		bodies: 50_000, members: 1_000_000, slow: 2_000, logins: 2_000, pipelined: 20_000,
		lasting: time.Minute,
		tables:  sizesOfTables{states: 100_000, permissions: 1_000_000, tokens: 100_000},
	}
)

// scale is the size that was asked for.
var scale size

func TestMain(m *testing.M) {
	flag.Parse()
	scale = suite.BySize(small, full)
	suite.MainWithSidecar(m, func() { figures.print(os.Stdout) })
}
