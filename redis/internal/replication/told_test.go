package replication

import (
	"fmt"
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

// told notes what a reader tells.
type told struct {
	says  []string
	lines map[gateway.FeedLine]int
}

func newTold() *told { return &told{lines: make(map[gateway.FeedLine]int)} }

func (t *told) say(format string, args ...any) { t.says = append(t.says, fmt.Sprintf(format, args...)) }

// take returns what was told since it was last called.
func (t *told) take() string {
	defer func() { t.says = nil }()
	return strings.Join(t.says, "; ")
}

func (t *told) Connected()                    {}
func (t *told) Lost(gateway.FeedLoss, error)  {}
func (t *told) Missed(why gateway.FeedLoss)   { t.say("missed: %s", lossNames[why]) }
func (t *told) Heard(kind gateway.FeedLine)   { t.lines[kind]++ }
func (t *told) MembershipChanged(user string) { t.say("member %s", user) }
func (t *told) MembershipsChanged()           { t.say("members") }
func (t *told) TokenEnded(token string)       { t.say("token %s", token) }
func (t *told) SessionsEnded(user string)     { t.say("sessions %s", user) }
func (t *told) PresenceChanged(of gateway.PresenceNews) bool {
	t.say("presence %s %s %d %d %s %v", of.UserID, of.Presence, of.LastActive, of.Changed, of.StatusMsg, of.CurrentlyActive)
	return of.Presence != "asleep"
}

var lossNames = map[gateway.FeedLoss]string{
	gateway.FeedGap: "gap", gateway.FeedReset: "reset", gateway.FeedUnreadable: "unreadable",
}
