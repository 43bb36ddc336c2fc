package cache

import (
	"encoding/json"
	"hash/maphash"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/members"
)

// expectedState is what an answer must show for a write to have been applied. The zero one
// is none that any answer gives.
type expectedState struct {
	digest uint64 // of the target and what is shown of them
	since  int64  // on the table's clock: no activity before this shows the write
}

// observedState is what an answer shows. The zero one proves nothing.
type observedState struct {
	digest uint64 // as that of an expectedState
	active int64  // on the table's clock: the latest that the target's last activity may have been
}

// matches tells that what an answer shows proves that the write was applied.
func (e expectedState) matches(o observedState) bool {
	return e.digest != 0 && e.digest == o.digest && o.active >= e.since
}

// shown is what everybody can see of a presence that was written.
type shown struct {
	target, presence, statusMsg string
}

func (p *Presence) digest(s shown) uint64 { return maphash.Comparable(p.seed, s) }

// expectedStateOf returns what will show that a write of this body was applied, which began by then,
// or none if the body isn't clear about that.
//
// Homeservers differ in what a write without a status_msg makes of the one before (Synapse
// clears it, Dendrite keeps it). An answer without one shows that either way.
func (p *Presence) expectedStateOf(target string, body []byte, began time.Time) expectedState {
	s, _, ok := parseShown(target, string(body))
	if !ok {
		return expectedState{}
	}
	return expectedState{digest: p.digest(s), since: p.clock(began)}
}

// observedStateOf returns what an answer shows that had come by now.
func (p *Presence) observedStateOf(target string, answer *Answer, now time.Time) observedState {
	s, tellsActive, ok := parseShown(target, answer.Body)
	if !ok {
		return observedState{}
	}
	a := observedState{digest: p.digest(s), active: math.MaxInt64}
	// A write is an activity, so that an older one is from before the write. Not where other
	// states than online and busy are none, as on Synapse, which doesn't say
	// currently_active of them; Dendrite says it of all.
	online := s.presence != "unavailable" && s.presence != "offline"
	if answer.agoStart < answer.agoEnd && (online || tellsActive) {
		const rounding = int64(time.Millisecond) // homeservers count in whole ones
		a.active = p.clock(now) + rounding - min(answer.ago, math.MaxInt64/int64(2*time.Millisecond))*int64(time.Millisecond)
	}
	return a
}

// parseShown returns what a body, of a write or of an answer, says that everybody can see,
// and whether it has a currently_active. It is not ok if that isn't clear: homeservers
// don't agree about keys that are given twice or in another case, nor about text that is
// no Unicode. The body is valid JSON.
func parseShown(target, body string) (s shown, tellsActive, ok bool) {
	given := make(map[string]string, 2)
	for key, value := range members.Of(body) {
		tellsActive = tellsActive || key == "currently_active"
		for _, name := range [...]string{"presence", "status_msg"} {
			if !strings.EqualFold(key, name) {
				continue
			}
			var text string // a null leaves it empty, as if it weren't there
			_, twice := given[name]
			if twice || key != name || json.Unmarshal([]byte(body[value.Start:value.End]), &text) != nil ||
				strings.ContainsRune(text, utf8.RuneError) {
				return shown{}, false, false
			}
			given[name] = text
		}
	}
	s = shown{target, given["presence"], given["status_msg"]}
	return s, tellsActive, s.presence != ""
}
