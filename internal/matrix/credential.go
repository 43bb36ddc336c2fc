package matrix

import (
	"errors"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

var (
	// ErrMissingToken means that a request carries no access token at all.
	ErrMissingToken = errors.New("no access token")

	// ErrUncertain means that homeservers don't agree on whose request it is:
	// several tokens, a header that isn't exactly "Bearer <token>", a query
	// that splits differently at ";", that isn't ASCII or has an empty parameter
	// of ours, a token or such a parameter too long for some.
	ErrUncertain = errors.New("homeservers read this request's credential differently")
)

// Credential is what a request shows to tell on whose behalf it is made.
type Credential struct {
	// Token is the access token. It must not be logged or stored.
	Token string

	// UserID and DeviceID are the query parameters by which an appservice
	// acts as one of its users ("Identity assertion" in the appservice API,
	// MSC3202 and MSC4326 for the device). Homeservers ignore them
	// on any other token.
	UserID   string
	DeviceID string

	// DeviceParameter is the name under which DeviceID came: "device_id" or
	// "org.matrix.msc3202.device_id".
	DeviceParameter string
}

// ParseCredential takes the credential out of the values of a request's
// Authorization header and its raw query. The error is [ErrMissingToken] or
// [ErrUncertain].
//
// A credential without error is read in the same way by Synapse
// (synapse/api/auth/base.py), Dendrite (clientapi/auth/auth.go) and tuwunel
// (src/api/router/auth.rs).
func ParseCredential(authorization []string, rawQuery string) (Credential, error) {
	var c Credential
	queryToken, err := c.parseQuery(rawQuery)
	if err != nil {
		return Credential{}, err
	}
	switch len(authorization) {
	case 0:
		if !queryToken {
			return Credential{}, ErrMissingToken
		}
	case 1:
		if queryToken {
			// Synapse and Dendrite refuse the mixture, tuwunel takes the header.
			return Credential{}, ErrUncertain
		}
		// Synapse and Dendrite compare the scheme by case, tuwunel doesn't.
		token, ok := strings.CutPrefix(authorization[0], "Bearer ")
		if !ok {
			return Credential{}, ErrUncertain
		}
		c.Token = token
	default:
		// Synapse refuses several headers, the others take the first.
		return Credential{}, ErrUncertain
	}
	if !isToken(c.Token) {
		return Credential{}, ErrUncertain
	}
	return c, nil
}

// maxToken is the size in bytes above which a token is none of a homeserver's.
// Theirs have tens of bytes, signed ones up to two thousand; Twisted drops a
// connection with a line above 16 KiB.
const maxToken = 4 << 10

// maxDeviceID is the size in bytes above which a device is none that Synapse lets anybody
// have (synapse/rest/client/login.py). Escaped it is up to three times as long.
const maxDeviceID = 512

// isToken reports whether a token means the same in a header and in a query:
// at least one character, all of them visible ASCII.
func isToken(s string) bool {
	if len(s) > maxToken {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return s != ""
}

// parseQuery takes the parameters that concern a credential, and reports
// whether access_token was among them.
func (c *Credential) parseQuery(rawQuery string) (token bool, err error) {
	var user, device bool
	if !isASCII(rawQuery) {
		return false, ErrUncertain // Synapse refuses the whole request
	}
	for rawQuery != "" {
		var pair string
		pair, rawQuery, _ = strings.Cut(rawQuery, "&")
		if strings.Contains(pair, ";") {
			// Twisted splits at ";" too, net/url drops the whole pair. That
			// makes no difference to us if nothing of ours is in it.
			for part := range strings.SplitSeq(pair, ";") {
				if name, _, _ := strings.Cut(part, "="); isCredentialParameter(unescape(name)) {
					return false, ErrUncertain
				}
			}
			continue
		}
		rawName, rawValue, _ := strings.Cut(pair, "=")
		name := unescape(rawName)
		if !isCredentialParameter(name) {
			continue
		}
		value, err := url.QueryUnescape(rawValue)
		seen := &device
		switch name {
		case "access_token":
			seen, c.Token = &token, value
		case "user_id":
			seen, c.UserID = &user, value
		default:
			c.DeviceID, c.DeviceParameter = value, name
		}
		// An empty value is none to Dendrite and one that is wrong to Synapse. Of
		// several, the first one counts for both, but nobody has promised that.
		if err != nil || *seen || value == "" || len(c.UserID) > MaxUserID || len(c.DeviceID) > maxDeviceID {
			return false, ErrUncertain
		}
		*seen = true
	}
	return token, nil
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// maxCandidates is how many tokens of an uncertain request are looked at.
const maxCandidates = 8

// CandidateTokens returns what a homeserver might read as a token in a request,
// whatever its way, each once and eight at the most. What can't be a token is not
// among them.
func CandidateTokens(authorization []string, rawQuery string) []string {
	var tokens []string
	add := func(token string) {
		if isToken(token) && len(tokens) < maxCandidates && !slices.Contains(tokens, token) {
			tokens = append(tokens, token)
		}
	}
	for _, value := range authorization {
		_, token, _ := strings.Cut(value, " ")
		add(strings.TrimSpace(token))
	}
	for pair := range strings.FieldsFuncSeq(rawQuery, func(c rune) bool { return c == '&' || c == ';' }) {
		if name, value, _ := strings.Cut(pair, "="); unescape(name) == "access_token" {
			add(unescape(value))
		}
	}
	return tokens
}

func isCredentialParameter(name string) bool {
	switch name {
	case "access_token", "user_id", "device_id", "org.matrix.msc3202.device_id":
		return true
	}
	return false
}

// unescape decodes a part of a query, or leaves it if it has a bad escape.
func unescape(s string) string {
	if decoded, err := url.QueryUnescape(s); err == nil {
		return decoded
	}
	return s
}
