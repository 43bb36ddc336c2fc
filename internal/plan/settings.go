package plan

import (
	"fmt"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// Profiles are the configurations that have a name: "default" is matrix_presence alone, "busy" the
// profile of docs/busy-servers.md.
func Profiles() []string { return []string{"default", "busy"} }

// Profile returns the settings of a profile.
func Profile(name string) (*gateway.Settings, error) {
	s := gateway.Defaults()
	switch name {
	case "default":
	case "busy":
		if err := makeBusy(s); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("there is no profile %q: choose default or busy", name)
	}
	s.Complete()
	return s, nil
}

// bridgePattern is what the users of bridges are called here. The busy profile's class is theirs.
const bridgePattern = "@bridge_*:*"

// makeBusy makes the defaults those of the busy profile. A test holds it against Caddyfile.example.
func makeBusy(s *gateway.Settings) error {
	everybody := *s.Everybody
	everybody.Absorb, everybody.Coalesce = true, true
	var err error
	limit := func(events int, window time.Duration, burst int) *policy.Limit {
		l, wrong := policy.NewLimit(events, window, burst)
		if wrong != nil {
			err = wrong
		}
		return &l
	}
	everybody.WriteLimit, everybody.SyncLimit = limit(2, time.Second, 5), limit(1, 2*time.Second, 5)
	bridges := everybody
	bridges.WriteLimit = limit(10, time.Second, 50)
	if err != nil {
		return err
	}
	pattern, err := matrix.ParseUserPattern(bridgePattern)
	if err != nil {
		return err
	}
	bridges.Match = []matrix.UserPattern{pattern}
	s.Everybody, s.Classes = &everybody, []*gateway.Class{&bridges}
	s.SyncPresence, s.Preflight, s.Learn = gateway.SyncLimit, true, true
	s.Rules.StaleIfError = 5 * time.Minute
	return nil
}

// homeservers are those whose costs were measured.
var homeservers = map[string]matrix.Dialect{"synapse": matrix.Synapse, "dendrite": matrix.Dendrite}
