package cache

import (
	"encoding/json"
	"hash/maphash"
	"math"
	"strings"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/members"
)

// proof is by what an answer shows that a write was applied. The zero proof is of none.
type proof struct {
	// digest is that of the target and what is shown of them, or 0.
	digest uint64

	// active is the earliest that their last activity may have been, on the table's clock.
	active int64
}

// shown is what everybody can see of a presence that was written.
type shown struct {
	target, presence, statusMsg string
}

func (p *Presence) digest(s shown) uint64 { return maphash.Comparable(p.seed, s) }

// prove returns what will show that a write was applied that began by then, or no proof if
// the body isn't clear about that.
//
// Homeservers differ in what a write without a status_msg makes of the one before (Synapse
// clears it, Dendrite keeps it). An answer without one shows that either way.
func (p *Presence) prove(target string, body []byte, began time.Time) proof {
	s, _, ok := parseShown(target, string(body))
	if !ok {
		return proof{}
	}
	return proof{digest: p.digest(s), active: p.clock(began)}
}

// evidence returns the proof that an answer gives, which came by then: what it shows, and
// when its target was last active at the latest.
func (p *Presence) evidence(target string, answer *Answer, came time.Time) proof {
	s, tellsActive, ok := parseShown(target, answer.Body)
	if !ok {
		return proof{}
	}
	given := proof{digest: p.digest(s), active: math.MaxInt64}
	// A write is an activity, so an older one is from before the write. Not where other
	// states than online and busy are none, as on Synapse, which doesn't say
	// currently_active of them; Dendrite says it of all.
	online := s.presence != "unavailable" && s.presence != "offline"
	if answer.agoStart < answer.agoEnd && (online || tellsActive) {
		const rounding = int64(time.Millisecond) // homeservers count in whole ones
		given.active = p.clock(came) + rounding - min(answer.ago, math.MaxInt64/int64(2*time.Millisecond))*int64(time.Millisecond)
	}
	return given
}

// by tells that evidence is enough for the proof.
func (want proof) by(given proof) bool {
	return want.digest != 0 && want.digest == given.digest && given.active >= want.active
}

// parseShown returns what a body, of a write or of an answer, says that everybody can see,
// and whether it has a currently_active. It is not ok if that isn't clear, since
// homeservers don't agree about keys that are given twice or in other cases. The
// body is valid JSON.
func parseShown(target, body string) (s shown, tellsActive, ok bool) {
	s.target = target
	given := make(map[string]bool, 4)
	for key, value := range members.Of(body) {
		name := strings.ToLower(key)
		var into *string
		switch name {
		case "presence":
			into = &s.presence
		case "status_msg":
			into = &s.statusMsg
		case "currently_active":
			tellsActive = true
			continue
		default:
			continue
		}
		// A null leaves it empty, as if it weren't there.
		if given[name] || key != name || json.Unmarshal([]byte(body[value.Start:value.End]), into) != nil {
			return shown{}, false, false
		}
		given[name] = true
	}
	return s, tellsActive, s.presence != ""
}
