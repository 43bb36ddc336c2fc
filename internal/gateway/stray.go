package gateway

import (
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// strays looks for a handler that stands in the wrong place. The directive of a site comes
// before its handle_path blocks, so in front of
//
//	handle_path /matrix/* {
//		reverse_proxy localhost:8008
//	}
//
// it sees /matrix/_matrix/client/…, which is no path of a homeserver, and does nothing
// without a word. The sign is that such requests succeed, and no presence path has ever come
// as it should. A site without presence requests, and people who try paths, give none.
type strays struct {
	judged atomic.Bool // there was a presence path that was one
	n      atomic.Int64
}

// manyStrays is how many such requests make the log say so.
const manyStrays = 1000

// concern reports whether a request is one of those to count.
func (s *strays) concern(path string) bool {
	return !strings.HasPrefix(path, matrix.ClientPrefix) && strings.Contains(path, matrix.ClientPrefix) &&
		!s.judged.Load() && s.n.Load() < manyStrays
}

// countStrays counts a request if it succeeds, and warns once.
func (g *Gateway) countStrays(w http.ResponseWriter) http.ResponseWriter {
	return onStatus(w, func(status int) {
		if isSuccess(status) && g.strays.n.Add(1) == manyStrays {
			g.logger.Warn("matrix_presence sees /_matrix/client/ only within longer paths, so it does nothing: " +
				"a handler after it takes a prefix off, such as handle_path; put matrix_presence into that block")
		}
	})
}
