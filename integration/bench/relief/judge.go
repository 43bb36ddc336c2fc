package main

import (
	"encoding/json"
	"net/http"
	"time"
)

// verdict is what is wrong with an answer, or empty.
type verdict string

const (
	right verdict = ""
	// stale: older than a write that was acknowledged before the read was sent.
	stale verdict = "stale"
	// invented: a version that nobody wrote, or another user's.
	invented verdict = "invented"
	// otherState: the version is right, its presence isn't.
	otherState verdict = "other state"
	// agoOff: last_active_ago is too far off.
	agoOff verdict = "last_active_ago off"
	// leak: shown to whom the homeserver refuses.
	leak verdict = "leak"
	// wronglyRefused: 401, 403 or 404 to who may.
	wronglyRefused verdict = "wrongly refused"
	// served: something other than a refusal for a token that nobody has.
	served verdict = "unknown token served"
	// otherHeaders: a preflight without the homeserver's own CORS headers.
	otherHeaders verdict = "other CORS headers"
	// failed: a 5xx, no answer, or one that can't be read.
	failed verdict = "failed"
	// lateFinal: the last state could be seen only after more than a second, or never.
	lateFinal verdict = "final state late"
	// replaced: the last state was seen, and later another one.
	replaced verdict = "final state replaced"
	// unlike: the sidecar and the homeserver itself say different things.
	unlike verdict = "unlike the homeserver"
)

const (
	// tolerance is how far last_active_ago may be off.
	tolerance = 2 * time.Second
	// silence is after which a homeserver with timers may take a user for offline: its 30
	// seconds, less what the clocks of two processes and timers differ by.
	silence = 28 * time.Second
)

// status is the body of a presence.
type status struct {
	Presence string `json:"presence"`
	Message  string `json:"status_msg"`
	Ago      *int64 `json:"last_active_ago"`
}

// judgeRead tells what is wrong with a presence of a user that was read from begin to end.
// Repeats may be kept from the homeserver for slack, and a state may be that old.
func (l *ledger) judgeRead(user string, body []byte, begin, end time.Time, slack time.Duration) verdict {
	var seen status
	if json.Unmarshal(body, &seen) != nil || seen.Presence == "" {
		return failed
	}
	version, whose, ok := readStatus(seen.Message)
	if !ok || whose != user {
		return invented
	}
	a := l.of(user)
	a.mu.Lock()
	defer a.mu.Unlock()
	if version < 1 || version > len(a.changes) {
		return invented
	}
	c := a.changes[version-1]
	sent := c.sentBefore(end)
	if sent.IsZero() {
		return invented
	}
	for _, later := range a.changes[version:] {
		if _, ok := later.ackedBefore(begin.Add(-l.lag)); ok {
			return stale
		}
	}
	if a.synced {
		return right
	}
	applied, isApplied := c.ackedBefore(begin.Add(-l.lag))
	switch timedOut := l.timers && seen.Presence == "offline" && end.Sub(sent) > silence; {
	case timedOut:
		return right
	case seen.Presence != c.presence:
		return otherState
	case c.presence != "online":
		return right // only being online is activity for all homeservers
	case seen.Ago == nil:
		return agoOff
	}
	ago := time.Duration(*seen.Ago) * time.Millisecond
	if ago < begin.Sub(sent)-tolerance || isApplied && ago > end.Sub(applied)+slack+tolerance {
		return agoOff
	}
	return right
}

// judgeStatus tells what is wrong with a status other than 200 for who may do what they do.
// 429 is counted elsewhere.
func judgeStatus(code int) verdict {
	switch {
	case code == http.StatusOK, code == http.StatusNoContent, code == http.StatusTooManyRequests:
		return right
	case code == 0, code >= 500:
		return failed
	}
	return wronglyRefused
}

// corsFields are what a browser goes by.
var corsFields = []string{"Access-Control-Allow-Origin", "Access-Control-Allow-Methods", "Access-Control-Allow-Headers"}

// judgePreflight compares an answer with the homeserver's own.
func judgePreflight(got, own answer) verdict {
	if got.status != own.status && judgeStatus(got.status) != right {
		return judgeStatus(got.status)
	}
	for _, field := range corsFields {
		if got.header.Get(field) != own.header.Get(field) {
			return otherHeaders
		}
	}
	return right
}

// judgeAlike compares what a viewer sees through the sidecar with what the homeserver says
// itself at the same time. A timer of the homeserver's is seen up to ttl late.
func judgeAlike(direct, through answer, timers bool) verdict {
	switch {
	case direct.status != http.StatusOK && through.status == http.StatusOK:
		return leak
	case direct.status == http.StatusOK && through.status != http.StatusOK:
		return wronglyRefused
	case direct.status != through.status:
		return unlike
	case direct.status != http.StatusOK:
		return right
	}
	var own, seen status
	if json.Unmarshal(direct.body, &own) != nil || json.Unmarshal(through.body, &seen) != nil {
		return failed
	}
	switch {
	case own.Message != seen.Message:
		return stale
	case own.Presence != seen.Presence && !(timers && own.Presence == "offline"):
		return unlike
	case own.Presence != seen.Presence:
		return right // and last_active_ago is that of then
	case (own.Ago == nil) != (seen.Ago == nil):
		return agoOff
	case own.Ago != nil:
		// While a repeat is kept from the homeserver, both say the same; a state from
		// memory is a refresh older at most.
		off := time.Duration(*own.Ago-*seen.Ago) * time.Millisecond
		if off.Abs() > tolerance {
			return agoOff
		}
	}
	return right
}
