package matrix

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"
)

// reading is what a homeserver takes out of a request.
type reading struct{ token, userID, deviceID string }

// readAsSynapse does as synapse/api/auth/base.py on Twisted's parse_qs: pairs end
// at "&" and ";", those without "=" are dropped, blank values stay, bad escapes
// stay as they are. A query that is not ASCII is a bad request.
//
// The parameters that only an appservice's token gives a meaning are errors with it
// if they are empty: nobody has the user ID "", and a device "" is an internal error.
// A real Synapse told so when the generated queries of integration/differential were
// sent to it.
func readAsSynapse(header []string, query string) (r reading, ok bool) {
	if strings.ContainsFunc(query, func(c rune) bool { return c >= utf8.RuneSelf }) {
		return reading{}, false
	}
	args := make(map[string][]string)
	for pair := range strings.SplitSeq(strings.ReplaceAll(query, ";", "&"), "&") {
		if name, value, found := strings.Cut(pair, "="); found {
			args[unquote(name)] = append(args[unquote(name)], unquote(value))
		}
	}
	first := func(name string) string {
		if len(args[name]) == 0 {
			return ""
		}
		return args[name][0]
	}
	for _, name := range []string{"user_id", "device_id", "org.matrix.msc3202.device_id"} {
		if len(args[name]) > 0 && first(name) == "" {
			return reading{}, false
		}
	}
	r = reading{userID: first("user_id"), deviceID: first("device_id")}
	if r.deviceID == "" {
		r.deviceID = first("org.matrix.msc3202.device_id")
	}
	if len(header) == 0 {
		r.token = first("access_token")
		return r, len(args["access_token"]) > 0
	}
	parts := strings.Split(header[0], " ")
	if len(args["access_token"]) > 0 || len(header) > 1 || len(parts) != 2 || parts[0] != "Bearer" {
		return reading{}, false
	}
	r.token = parts[1]
	return r, true
}

// unquote is Python's unquote_plus.
func unquote(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if i+3 <= len(s) && s[i] == '%' {
			if decoded, err := url.QueryUnescape(s[i : i+3]); err == nil {
				b.WriteString(decoded)
				i += 2
				continue
			}
		}
		if s[i] == '+' {
			b.WriteByte(' ')
		} else {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// readAsDendrite does as clientapi/auth/auth.go.
func readAsDendrite(header []string, query string) (r reading, ok bool) {
	args, _ := url.ParseQuery(query)
	r = reading{userID: args.Get("user_id")}
	token := args.Get("access_token")
	if len(header) > 0 && header[0] != "" {
		parts := strings.SplitN(header[0], " ", 2)
		if token != "" || len(parts) != 2 || parts[0] != "Bearer" {
			return reading{}, false
		}
		token = parts[1]
	}
	r.token = token
	return r, token != ""
}

// readAsTuwunel does as src/api/router/auth.rs with hyperium's headers.
func readAsTuwunel(header []string, query string) (r reading, ok bool) {
	args, _ := url.ParseQuery(query)
	r = reading{token: args.Get("access_token"), userID: args.Get("user_id")}
	if len(header) > 0 && len(header[0]) > 7 && strings.EqualFold(header[0][:7], "bearer ") {
		r.token = strings.TrimLeft(header[0][7:], " ")
	}
	return r, r.token != ""
}

// FuzzParseCredential compares a credential with what the homeservers read: all of
// them the same, or none has one.
func FuzzParseCredential(f *testing.F) {
	f.Add(0, "", "", "access_token=tok&user_id=@a:b&device_id=D")
	f.Add(1, "Bearer tok", "", "user_id=%40a%3Ab&org.matrix.msc3202.device_id=D")
	f.Add(1, "Bearer tok", "", "x=1;access_token=other")
	f.Add(1, "bearer tok", "", "access%5Ftoken=")
	f.Add(2, "Bearer tok", "Bearer tok", "")
	f.Add(0, "", "", "access_token=tok&access_token=other")
	f.Add(1, "Bearer tok", "", "user_id=@a:b&user_id=@c:d")
	f.Add(0, "", "", "access_token=t%zz;%61ccess_token=+&user_id")
	f.Fuzz(func(t *testing.T, headers int, first, second, query string) {
		header := []string{first, second}[:max(0, headers)%3]
		got, err := ParseCredential(header, query)

		synapse, synapseOK := readAsSynapse(header, query)
		dendrite, dendriteOK := readAsDendrite(header, query)
		tuwunel, tuwunelOK := readAsTuwunel(header, query)
		switch {
		case err == nil:
			if !isToken(got.Token) {
				t.Fatalf("%q, %q: %q is not a token", header, query, got.Token)
			}
			if got.DeviceID != "" && got.DeviceParameter == "" {
				t.Fatalf("%q, %q: device %q by the parameter %q", header, query, got.DeviceID, got.DeviceParameter)
			}
			want := reading{got.Token, got.UserID, got.DeviceID}
			if !synapseOK || synapse != want {
				t.Fatalf("%q, %q: %+v, but Synapse reads %+v, %v", header, query, want, synapse, synapseOK)
			}
			want.deviceID = "" // the others have no device masquerade by query
			if !dendriteOK || dendrite != want {
				t.Fatalf("%q, %q: %+v, but Dendrite reads %+v, %v", header, query, want, dendrite, dendriteOK)
			}
			if !tuwunelOK || tuwunel != want {
				t.Fatalf("%q, %q: %+v, but tuwunel reads %+v, %v", header, query, want, tuwunel, tuwunelOK)
			}
		case got != (Credential{}):
			t.Fatalf("%q, %q: %+v beside the error %v", header, query, got, err)
		case errors.Is(err, ErrMissingToken):
			if synapseOK || dendriteOK || tuwunelOK {
				t.Fatalf("%q, %q: no token, but Synapse, Dendrite, tuwunel: %v, %v, %v",
					header, query, synapseOK, dendriteOK, tuwunelOK)
			}
		case !errors.Is(err, ErrUncertain):
			t.Fatalf("%q, %q: unknown error %v", header, query, err)
		}
	})
}
