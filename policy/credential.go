package policy

import (
	"errors"
	"net/url"
	"strings"
)

var (
	// ErrMissingToken means that a request carries no access token at all.
	ErrMissingToken = errors.New("no access token")

	// ErrUncertain means that homeservers don't agree on whose request it is:
	// several tokens, a header that isn't exactly "Bearer <token>", a query
	// that splits differently at ";".
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

// isToken reports whether a token means the same in a header and in a query:
// at least one character, all of them visible ASCII.
func isToken(s string) bool {
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
	for rawQuery != "" {
		var pair string
		pair, rawQuery, _ = strings.Cut(rawQuery, "&")
		if strings.Contains(pair, ";") {
			// Twisted splits at ";" too, net/url drops the whole pair. That
			// makes no difference to us if nothing of ours is in it.
			for part := range strings.SplitSeq(pair, ";") {
				if name, _, _ := strings.Cut(part, "="); isCredentialParameter(unescapeName(name)) {
					return false, ErrUncertain
				}
			}
			continue
		}
		rawName, rawValue, _ := strings.Cut(pair, "=")
		name := unescapeName(rawName)
		if !isCredentialParameter(name) {
			continue
		}
		value, err := url.QueryUnescape(rawValue)
		if err != nil || value == "" {
			return false, ErrUncertain
		}
		seen := &device
		switch name {
		case "access_token":
			seen, c.Token = &token, value
		case "user_id":
			seen, c.UserID = &user, value
		default:
			c.DeviceID, c.DeviceParameter = value, name
		}
		if *seen {
			// The first one counts for Synapse and Dendrite. Nobody has
			// promised that.
			return false, ErrUncertain
		}
		*seen = true
	}
	return token, nil
}

func isCredentialParameter(name string) bool {
	switch name {
	case "access_token", "user_id", "device_id", "org.matrix.msc3202.device_id":
		return true
	}
	return false
}

// unescapeName decodes a parameter's name. A name with a bad escape is
// nobody's, so it stays as it is.
func unescapeName(name string) string {
	if decoded, err := url.QueryUnescape(name); err == nil {
		return decoded
	}
	return name
}
