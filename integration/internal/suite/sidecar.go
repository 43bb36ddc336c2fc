package suite

import (
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

// Sidecar makes one that was started a test's own: it ends with the test, and its log is shown if
// that has failed.
//
//	s := suite.Sidecar(t)(sidecar.StartProxy(t.Context(), homeserver))
func Sidecar(t testing.TB) func(*sidecar.Sidecar, error) *sidecar.Sidecar {
	return func(s *sidecar.Sidecar, err error) *sidecar.Sidecar {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("the end of the sidecar's log:\n%s", s.Tail(30))
			}
			s.Stop()
		})
		return s
	}
}
