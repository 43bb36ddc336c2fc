package plan

import (
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

func TestMain(m *testing.M) { suite.Main(m) }
