package differential_test

import (
	"net/url"
	"strings"
)

// spelling is how a request shows a credential.
type spelling struct {
	headers []string // whole lines
	query   string   // without the question mark
}

// credential spells a token somehow, now and then beside others that are in the way.
func (g grammar) credential(token string, others []string, users []string) spelling {
	var s spelling
	switch g.IntN(10) {
	case 0, 1, 2:
		s.headers = []string{"Authorization: Bearer " + token}
	case 3, 4, 5:
		s.headers = []string{g.authorization(token, others)}
	case 6, 7:
		s.query = g.accessToken(token)
	case 8: // nothing at all, so far
	default: // several
		for range 1 + g.IntN(3) {
			if g.chance(2) {
				s.headers = append(s.headers, g.authorization(g.some(token, others), others))
			} else {
				s.query = g.join(s.query, g.accessToken(g.some(token, others)))
			}
		}
	}
	for g.chance(2) {
		s.query = g.join(s.query, g.parameter(g.some(token, others), users))
	}
	if g.chance(6) {
		s.headers = append(s.headers, pick(g, "Connection: Authorization", "Connection: close, Authorization", "Connection: authorization",
			"Proxy-Authorization: Bearer "+token, "Cookie: access_token="+token, "X-Access-Token: "+token, "Authorization-X: Bearer "+token, "X-Authorization: Bearer "+token))
	}
	g.Shuffle(len(s.headers), func(i, j int) { s.headers[i], s.headers[j] = s.headers[j], s.headers[i] })
	return s
}

// some is usually the token.
func (g grammar) some(token string, others []string) string {
	if g.chance(3) {
		return pick(g, append(others, "nonsense")...)
	}
	return token
}

// authorization is an Authorization header, well-formed or nearly.
func (g grammar) authorization(token string, others []string) string {
	name := pick(g, "Authorization", "Authorization", "Authorization", "authorization", "AUTHORIZATION", "aUthorization", "Authorization ", "Authorization\t", " Authorization", "Authorization\x00")
	colon := pick(g, ": ", ": ", ": ", ":", ":\t", ":  ", ": \t ", "\t: ")
	scheme := pick(g, "Bearer", "Bearer", "Bearer", "Bearer", "bearer", "BEARER", "bEARER", "Basic", "Token", "", "Bearer:", "Bearer,", "\"Bearer\"", "Bearer Bearer", "\ufeffBearer", "Bear", "Bearer\x00", "=?utf-8?q?Bearer?=")
	space := pick(g, " ", " ", " ", " ", " ", "  ", "\t", " \t", "\t ", "", "\u00a0", "+", "%20", "=", "\x0b", "\r\n ", "\r\n\t")
	other := pick(g, others...)
	after := pick(g, "", "", "", "", "", " ", "\t", "  ", ",", ";", ", Bearer "+other, ",Bearer "+other, " "+other, ";x=1", "\"", "\x00", "\x7f", "\xff", "ä", "%20", "%00", "=", "\u00a0", "\r\n ", "\x0b")
	value := token
	switch g.IntN(10) {
	case 0:
		value = "\"" + token + "\""
	case 1:
		value = g.percent(token)
	case 2:
		value = pick(g, "", "nonsense", strings.ToUpper(token), token+token, strings.Repeat("x", g.IntN(9000)))
	}
	return name + colon + scheme + space + value + after
}

// accessToken is a query parameter with the token, well-formed or nearly.
func (g grammar) accessToken(token string) string {
	name := pick(g, "access_token", "access_token", "access_token", "access_token", "access%5Ftoken", "access%5ftoken", "%61ccess_token", "Access_Token", "ACCESS_TOKEN",
		"access_token[]", "access_token%00", "access_token%20", "+access_token", " access_token", "access+token", "access-token", "accesstoken", "access_token%", "access%255Ftoken", "\xffaccess_token", "access_token.x", "token")
	value := token
	switch g.IntN(10) {
	case 0, 1:
		value = g.percent(token)
	case 2:
		value = pick(g, "", "nonsense", "+", "%20", "%", "%zz", "%00") + pick(g, "", token)
	case 3:
		value = token + pick(g, "+", "%20", "%00", "%", "%zz", "#", "\x00", ";", ";x=1", "=", "==", "&", "\xff", "%ff", "ä", "%0a", "%2520", "?")
	case 4:
		value = strings.ReplaceAll(g.percent(token), "%", "%25")
	}
	switch g.IntN(12) {
	case 0:
		return name
	case 1:
		return name + "==" + value
	case 2:
		return name + "%3D" + value
	}
	return name + "=" + value
}

// parameter is one that says for whom an appservice acts, or one that says nothing.
func (g grammar) parameter(token string, users []string) string {
	user := pick(g, users...)
	return pick(g,
		"user_id="+url.QueryEscape(user), "user_id="+user, "user_id="+g.percent(user), "user%5Fid="+user, "user_id="+user+"+", "user_id="+user+"%00", "user_id=", "user_id", "User_ID="+user,
		"user_id="+user+"%", "user_id="+strings.ToUpper(user), "user_id[]="+user, "user_id="+url.QueryEscape(url.QueryEscape(user)), "%75ser_id="+user, "user_id="+strings.ReplaceAll(user, ":", "%3a"),
		"device_id=X", "device_id=", "org.matrix.msc3202.device_id=X", "org.matrix.msc3202.device_id=", "device%5fid=X", "device_id", "org.matrix.msc3202.user_id="+user,
		"x=1", "x", "=", "", "%", "%zz=1", "x=access_token="+token, "x=%26access_token="+token, "x#access_token="+token, "x=1;y=2", "x=1;access_token="+token, "x=1;user_id="+user, ";", "?access_token="+token,
		"timeout=0", "ts=1",
	)
}

// percent escapes some bytes of a value.
func (g grammar) percent(value string) string {
	var b strings.Builder
	in := 1 + g.IntN(4)
	for i := range len(value) {
		if g.chance(in) {
			b.WriteString(escape(value[i], g.chance(2)))
		} else {
			b.WriteByte(value[i])
		}
	}
	return b.String()
}

// join joins two parts of a query, in some order.
func (g grammar) join(a, b string) string {
	if a == "" {
		return b
	}
	if g.chance(2) {
		a, b = b, a
	}
	return a + pick(g, "&", "&", "&", "&", "&", ";", "&&", "&;", "&amp;") + b
}

// with adds a query to a target.
func (s spelling) with(target string) string {
	switch {
	case s.query == "":
		return target
	case strings.Contains(target, "?"):
		return target + "&" + s.query
	}
	return target + "?" + s.query
}
