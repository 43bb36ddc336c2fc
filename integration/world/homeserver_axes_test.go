package world_test

import (
	"strings"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/model"
)

const hour = time.Hour

// moodAxis is how a homeserver behaves for a while.
var moodAxis = axis[*mood]{"mood", []value[*mood]{
	{"well", func(m *mood) {}},
	{"slow whoami", func(m *mood) { m.whoami = model.Conduct{Before: 11 * time.Second} }},
	{"slow reads", func(m *mood) { m.presence = model.Conduct{Before: 6 * time.Second} }},
	{"late answers", func(m *mood) { m.presence = model.Conduct{After: 2 * time.Second}; m.whoami = m.presence }},
	{"all is slow", all(model.Conduct{Before: 3 * time.Second})},
	{"presence fails", func(m *mood) { m.presence = says(500, `{"errcode":"M_UNKNOWN","error":"No"}`) }},
	{"presence fails at length", func(m *mood) { m.presence = says(500, strings.Repeat("<p>Internal error</p>", 4000)) }},
	{"presence fails without a word", func(m *mood) { m.presence = says(503, "") }},
	{"presence is no JSON", func(m *mood) { m.presence = says(200, "<html>Welcome</html>") }},
	{"presence is cut off", func(m *mood) { m.presence = says(200, `{"presence":"online","last_`) }},
	{"presence is too early", func(m *mood) { m.presence = says(425, `{"errcode":"M_UNKNOWN","error":"Early"}`) }},
	{"presence is limited", func(m *mood) {
		m.presence = says(429, `{"errcode":"M_LIMIT_EXCEEDED","error":"Too many requests","retry_after_ms":5000}`)
	}},
	{"presence is limited until a date", func(m *mood) {
		m.presence = says(429, `{"errcode":"M_LIMIT_EXCEEDED","error":"Too many requests"}`)
		m.presence.Says.Fields = [][2]string{{"Retry-After", "Sat, 01 Jan 2000 00:02:00 GMT"}}
	}},
	{"answers to presence are lost", func(m *mood) { m.presence = model.Conduct{Fault: model.AnswerLost} }},
	{"whoami fails", func(m *mood) { m.whoami = says(500, `{"errcode":"M_UNKNOWN","error":"No"}`) }},
	{"whoami is limited", func(m *mood) { m.whoami = says(429, `{"errcode":"M_LIMIT_EXCEEDED","error":"No"}`) }},
	{"whoami is no JSON", func(m *mood) { m.whoami = says(200, "<html>Welcome</html>") }},
	{"whoami isn't there", func(m *mood) { m.whoami = says(404, `{"errcode":"M_UNRECOGNIZED","error":"No"}`) }},
	{"whoami is too early", func(m *mood) { m.whoami = says(425, `{"errcode":"M_UNKNOWN","error":"Early"}`) }},
	{"whoami is cut off", func(m *mood) { m.whoami = says(200, `{"user_id":"@alice:example.com"`) }},
	{"down", all(model.Conduct{Fault: model.Unreachable})},
	{"its answers are lost", all(model.Conduct{Fault: model.AnswerLost})},
	{"bad gateway", all(says(502, "<html>Bad Gateway</html>"))},
	{"locked for maintenance", all(model.Conduct{Says: &model.Answer{
		Status: 503, ContentType: "text/html", Body: "<html>Back soon</html>", Fields: [][2]string{{"Retry-After", "30"}},
	}})},
	{"too early", all(says(425, `{"errcode":"M_UNKNOWN","error":"Early"}`))},
	{"throttled", all(says(431, `{"errcode":"M_UNKNOWN","error":"Large"}`))},
}}

func all(c model.Conduct) func(m *mood) {
	return func(m *mood) { m.whoami, m.presence, m.other = c, c, c }
}

func says(status int, body string) model.Conduct {
	contentType := "text/html"
	if strings.HasPrefix(body, "{") {
		contentType = "application/json"
	}
	return model.Conduct{Says: &model.Answer{Status: status, ContentType: contentType, Body: body}}
}

// behindAxis is what happens at the homeserver without Caddy.
var behindAxis = axis[*behind]{"behind", []value[*behind]{
	{"kick", func(b *behind) {
		b.changes(func(now *model.Accounts) { delete(now.Joined, model.Membership{Room: 0, User: b.whom.user}) })
	}},
	{"join", func(b *behind) {
		b.changes(func(now *model.Accounts) { now.Joined[model.Membership{Room: 0, User: b.whom.user}] = true })
	}},
	{"log out", func(b *behind) {
		b.changes(func(now *model.Accounts) { delete(now.Sessions, tokenOf(b.whom, b.device)) })
	}},
	{"log in again", func(b *behind) {
		b.changes(func(now *model.Accounts) { now.Sessions[tokenOf(b.whom, b.device)] = sessionOf(b.whom, b.device) })
	}},
	{"lock", func(b *behind) { b.changes(func(now *model.Accounts) { now.Locked[b.whom.user] = true }) }},
	{"lock a neighbour", func(b *behind) {
		b.changes(func(now *model.Accounts) { now.Locked[neighbours[0].user] = true })
	}},
	{"lock a ghost", func(b *behind) { b.changes(func(now *model.Accounts) { now.Locked["@ghost_1:example.com"] = true }) }},
	{"unlock", func(b *behind) { b.changes(func(now *model.Accounts) { delete(now.Locked, b.whom.user) }) }},
	{"deactivate", func(b *behind) {
		b.changes(func(now *model.Accounts) {
			now.End(b.whom.user, func(string, model.Session) bool { return true })
			delete(now.Joined, model.Membership{Room: 0, User: b.whom.user})
		})
	}},
	{"online elsewhere", func(b *behind) { b.sets("online") }},
	{"unavailable elsewhere", func(b *behind) { b.sets("unavailable") }},
	{"offline elsewhere", func(b *behind) { b.sets("offline") }},
	{"presence off", func(b *behind) { b.changes(func(now *model.Accounts) { now.PresenceOff = true }) }},
	{"presence on", func(b *behind) { b.changes(func(now *model.Accounts) { now.PresenceOff = false }) }},
	{"restarted empty", func(b *behind) {
		b.changes(func(now *model.Accounts) { clear(now.Sessions); clear(now.Joined); clear(now.Locked) })
	}},
}}

func (b *behind) changes(f func(now *model.Accounts)) {
	b.do = func(hs *model.Homeserver) { hs.Change(f) }
}

func (b *behind) sets(word string) {
	user := b.whom.user
	b.do = func(hs *model.Homeserver) { hs.Set(user, "ELSEWHERE", word, "elsewhere") }
}

// machineAxis is what happens to the machine on which Caddy runs, and to Caddy itself.
var machineAxis = axis[*machine]{"machine", []value[*machine]{
	{"Caddy restarts", func(m *machine) { m.restarts = true }},
	{"it is suspended for an hour", func(m *machine) { m.leap = hour }},
	{"its clock is set back by an hour", func(m *machine) { m.leap = -hour }},
	{"its clock is set forward a little", func(m *machine) { m.leap = 2 * time.Second }},
}}
