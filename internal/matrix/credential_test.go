package matrix

import (
	"errors"
	"strings"
	"testing"
)

func TestParseCredential(t *testing.T) {
	const bearer = "Bearer tok"
	tests := []struct {
		name   string
		header []string
		query  string
		want   Credential
		err    error
	}{
		{"nothing", nil, "", Credential{}, ErrMissingToken},
		{"other parameters only", nil, "timeout=0&user_id=@a:b", Credential{}, ErrMissingToken},
		{"header", []string{bearer}, "", Credential{Token: "tok"}, nil},
		{"query", nil, "access_token=tok", Credential{Token: "tok"}, nil},
		{"query, not the first parameter", nil, "a=b&&access_token=tok&c", Credential{Token: "tok"}, nil},
		{"escaped value", nil, "access_token=t%6Fk", Credential{Token: "tok"}, nil},
		{"escaped name", nil, "%61ccess%5Ftoken=tok", Credential{Token: "tok"}, nil},
		{"equals sign in the token", nil, "access_token=t=k==", Credential{Token: "t=k=="}, nil},
		{"escaped semicolon in the token", nil, "access_token=t%3Bk", Credential{Token: "t;k"}, nil},
		{"all visible characters", []string{"Bearer !~;&=%"}, "", Credential{Token: "!~;&=%"}, nil},
		{"name by another case", []string{bearer}, "Access_Token=x", Credential{Token: "tok"}, nil},
		{"name with a bad escape", []string{bearer}, "access_token%=x", Credential{Token: "tok"}, nil},

		// What homeservers.md, section 5.1, says that they differ in.
		{"scheme by another case", []string{"bearer tok"}, "", Credential{}, ErrUncertain},
		{"scheme in upper case", []string{"BEARER tok"}, "", Credential{}, ErrUncertain},
		{"another scheme", []string{"Basic tok"}, "", Credential{}, ErrUncertain},
		{"no scheme", []string{"tok"}, "", Credential{}, ErrUncertain},
		{"scheme only", []string{"Bearer"}, "", Credential{}, ErrUncertain},
		{"empty token", []string{"Bearer "}, "", Credential{}, ErrUncertain},
		{"empty header", []string{""}, "", Credential{}, ErrUncertain},
		{"empty header and query", []string{""}, "access_token=tok", Credential{}, ErrUncertain},
		{"malformed header and query", []string{"tok"}, "access_token=tok", Credential{}, ErrUncertain},
		{"two spaces", []string{"Bearer  tok"}, "", Credential{}, ErrUncertain},
		{"space in the token", []string{"Bearer t k"}, "", Credential{}, ErrUncertain},
		{"space behind the token", []string{"Bearer tok "}, "", Credential{}, ErrUncertain},
		{"tab", []string{"Bearer\ttok"}, "", Credential{}, ErrUncertain},
		{"two headers in one", []string{"Bearer tok, Bearer other"}, "", Credential{}, ErrUncertain},
		{"two headers", []string{bearer, "Bearer other"}, "", Credential{}, ErrUncertain},
		{"two equal headers", []string{bearer, bearer}, "", Credential{}, ErrUncertain},
		{"header and query", []string{bearer}, "access_token=other", Credential{}, ErrUncertain},
		{"header and the same in the query", []string{bearer}, "access_token=tok", Credential{}, ErrUncertain},
		{"header and an empty query token", []string{bearer}, "access_token=", Credential{}, ErrUncertain},
		{"header and a query token without value", []string{bearer}, "access_token", Credential{}, ErrUncertain},
		{"header and an escaped name", []string{bearer}, "access%5Ftoken=other", Credential{}, ErrUncertain},
		{"empty query token", nil, "access_token=", Credential{}, ErrUncertain},
		{"query token without value", nil, "access_token", Credential{}, ErrUncertain},
		{"two query tokens", nil, "access_token=tok&access_token=other", Credential{}, ErrUncertain},
		{"two equal query tokens", nil, "access_token=tok&access_token=tok", Credential{}, ErrUncertain},
		{"two query tokens, one escaped", nil, "access_token=tok&access%5ftoken=other", Credential{}, ErrUncertain},
		{"bad escape", nil, "access_token=t%zzk", Credential{}, ErrUncertain},
		{"cut escape", nil, "access_token=tok%", Credential{}, ErrUncertain},

		// Twisted splits at a semicolon, net/url drops the pair.
		{"semicolon before it", nil, "x=1;access_token=tok", Credential{}, ErrUncertain},
		{"semicolon behind it", nil, "access_token=tok;x=1", Credential{}, ErrUncertain},
		{"semicolon and an escaped name", nil, "x;access%5Ftoken=tok", Credential{}, ErrUncertain},
		{"header and one behind a semicolon", []string{bearer}, "x=1;access_token=other", Credential{}, ErrUncertain},
		{"user behind a semicolon", []string{bearer}, "x;user_id=@a:b", Credential{}, ErrUncertain},
		{"device behind a semicolon", []string{bearer}, "x;device_id=D", Credential{}, ErrUncertain},
		{"value-less device behind a semicolon", []string{bearer}, ";org.matrix.msc3202.device_id", Credential{}, ErrUncertain},
		{"semicolon between others", []string{bearer}, "x=1;y=2", Credential{Token: "tok"}, nil},
		{"semicolon between others, and a query token", nil, "x=1;y=2&access_token=tok", Credential{Token: "tok"}, nil},

		// Characters that aren't visible mean different things in a header and in a query.
		{"space from a plus", nil, "access_token=t+k", Credential{}, ErrUncertain},
		{"escaped space", nil, "access_token=t%20k", Credential{}, ErrUncertain},
		{"line break", nil, "access_token=t%0Ak", Credential{}, ErrUncertain},
		{"NUL", nil, "access_token=t%00k", Credential{}, ErrUncertain},
		{"DEL", []string{"Bearer t\x7fk"}, "", Credential{}, ErrUncertain},
		{"not ASCII", []string{"Bearer tök"}, "", Credential{}, ErrUncertain},
		{"not UTF-8", nil, "access_token=t%FFk", Credential{}, ErrUncertain},

		{"masquerade", []string{bearer}, "user_id=@a:b", Credential{Token: "tok", UserID: "@a:b"}, nil},
		{"masquerade, all in the query", nil, "user_id=%40a%3Ab&access_token=tok", Credential{Token: "tok", UserID: "@a:b"}, nil},
		{"masquerade with a device", []string{bearer}, "user_id=@a:b&device_id=D",
			Credential{Token: "tok", UserID: "@a:b", DeviceID: "D", DeviceParameter: "device_id"}, nil},
		{"masquerade with the unstable device", []string{bearer}, "org.matrix.msc3202.device_id=D&user_id=@a:b",
			Credential{Token: "tok", UserID: "@a:b", DeviceID: "D", DeviceParameter: "org.matrix.msc3202.device_id"}, nil},
		{"device only", []string{bearer}, "device_id=D",
			Credential{Token: "tok", DeviceID: "D", DeviceParameter: "device_id"}, nil},
		{"a user ID may hold anything", []string{bearer}, "user_id=@a+b%00:c", Credential{Token: "tok", UserID: "@a b\x00:c"}, nil},
		{"two users", []string{bearer}, "user_id=@a:b&user_id=@c:d", Credential{}, ErrUncertain},
		{"the longest user ID", []string{bearer}, "user_id=" + strings.Repeat("%40", 255), Credential{Token: "tok", UserID: strings.Repeat("@", 255)}, nil},
		{"a user ID that is too long", []string{bearer}, "user_id=" + strings.Repeat("@", 256), Credential{}, ErrUncertain},
		{"a device that is too long", []string{bearer}, "device_id=" + strings.Repeat("D", 513), Credential{}, ErrUncertain},
		{"two devices", []string{bearer}, "device_id=D&device_id=E", Credential{}, ErrUncertain},
		{"both device names", []string{bearer}, "device_id=D&org.matrix.msc3202.device_id=D", Credential{}, ErrUncertain},
		{"empty user", []string{bearer}, "user_id=", Credential{}, ErrUncertain},
		{"empty device", []string{bearer}, "device_id=", Credential{}, ErrUncertain},
		{"query that is not ASCII", []string{bearer}, "x=\xc3\xa9", Credential{}, ErrUncertain},
		{"empty user, then another", []string{bearer}, "user_id=&user_id=@a:b", Credential{}, ErrUncertain},
		{"user with a bad escape", []string{bearer}, "user_id=%", Credential{}, ErrUncertain},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseCredential(tt.header, tt.query)
			if !errors.Is(err, tt.err) || got != tt.want {
				t.Errorf("ParseCredential(%q, %q) = %+v, %v, want %+v, %v", tt.header, tt.query, got, err, tt.want, tt.err)
			}
		})
	}
}

func BenchmarkParseCredential(b *testing.B) {
	for _, bm := range []struct {
		name   string
		header []string
		query  string
	}{
		{"header", []string{"Bearer syt_YWxpY2U_abcdefghijklmnopqrst_0abcde"}, ""},
		{"query", nil, "access_token=syt_YWxpY2U_abcdefghijklmnopqrst_0abcde"},
		{"appservice", []string{"Bearer syt_YWxpY2U"}, "user_id=%40bridge_a%3Aexample.com&device_id=ABC"},
	} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseCredential(bm.header, bm.query); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
