package freshness

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/scripted"
)

// verdict is what is wrong with an answer.
type verdict int

const (
	right verdict = iota
	leak
	stale
	agoOff
	wronglyRefused
	failed
)

// tolerance is how far last_active_ago may be off.
const tolerance = 2 * time.Second

// asked is what is known of a read.
type asked struct {
	begin, end time.Time
	// hidden says that the viewer may not see the target.
	hidden bool
	// acknowledged is the version of the target's last write that was answered
	// before begin.
	acknowledged int64
}

// judge tells what is wrong with the answer to a read, at worst.
func judge(a asked, status int, body []byte) verdict {
	switch {
	case status == http.StatusForbidden && a.hidden:
		return right
	case status == http.StatusForbidden:
		return wronglyRefused
	case status != http.StatusOK:
		return failed
	case a.hidden:
		return leak
	}
	var presence struct {
		Status string `json:"status_msg"`
		Ago    *int64 `json:"last_active_ago"`
	}
	if err := json.Unmarshal(body, &presence); err != nil || presence.Ago == nil {
		return failed
	}
	version, active, err := scripted.ReadStatus(presence.Status)
	if err != nil {
		return failed
	}
	ago := time.Duration(*presence.Ago) * time.Millisecond
	switch {
	case version < a.acknowledged:
		return stale
	case ago < a.begin.Sub(active)-tolerance || ago > a.end.Sub(active)+tolerance:
		return agoOff
	}
	return right
}
