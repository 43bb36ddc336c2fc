package model

import (
	"net/url"
	"strings"
)

// Token returns the access token that the homeserver takes from a request, or "" for none.
func (d *Dialect) Token(authorization []string, query url.Values) string {
	inQuery, given := query["access_token"]
	switch d.Name {
	case "synapse":
		switch {
		case len(authorization) == 0 && given:
			return inQuery[0]
		case len(authorization) != 1 || given:
			return ""
		}
		words := strings.Split(authorization[0], " ")
		if len(words) != 2 || words[0] != "Bearer" {
			return ""
		}
		return words[1]
	case "dendrite":
		if len(authorization) == 0 {
			return query.Get("access_token")
		}
		if query.Get("access_token") != "" {
			return ""
		}
		token, _ := strings.CutPrefix(authorization[0], "Bearer ")
		if token == authorization[0] {
			return ""
		}
		return token
	}
	if len(authorization) > 0 {
		if scheme, token, _ := strings.Cut(authorization[0], " "); strings.EqualFold(scheme, "Bearer") {
			return strings.TrimLeft(token, " ")
		}
	}
	return query.Get("access_token")
}
