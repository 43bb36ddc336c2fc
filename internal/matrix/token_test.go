package matrix

import (
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// tokens are what Synapse's generate_access_token has made.
var tokens = map[string]string{
	"alice":           "syt_YWxpY2U_uHcVTvJhQcxdJwdQpbjZ_1EbXRT",
	"bob=2f_x":        "syt_Ym9iPTJmX3g_xksXUMjmGbPUDfFDkYbE_0e0lJs",
	"user.name-1+2/3": "syt_dXNlci5uYW1lLTErMi8z_CSGjyuIQyMEUKjvJDEzu_2dwgC0",
	"äö":              "syt_w6TDtg_IuRVdezXGpAUhlABGSHl_1hGz54",
}

func TestSynapsesTokensNameTheirUser(t *testing.T) {
	for want, token := range tokens {
		if got, ok := TokenLocalpart(token); !ok || got != want {
			t.Errorf("%s: %q, %v, want %q", token, got, ok, want)
		}
	}
}

func TestWhatTestsMakeIsASynapsesToken(t *testing.T) {
	for localpart, token := range tokens {
		if random := strings.Split(token, "_"); testkit.NamedToken(localpart, random[2]) != token && !strings.Contains(localpart, "_") {
			t.Errorf("%s, want %s", testkit.NamedToken(localpart, random[2]), token)
		}
	}
}

func TestOtherTokensNameNobody(t *testing.T) {
	checked := func(begin string) string { return begin + "_" + checkOf(begin) }
	for _, token := range []string{
		"", "_", "syt_", "syt__", "opaque", "mat_a_b_c",
		"syt_YWxpY2U_uHcVTvJhQcxdJwdQpbjZ_1EbXRU", // another check
		"syr_YWxpY2U_uHcVTvJhQcxdJwdQpbjZ_1EbXRT", // a refresh token
		"Syt_YWxpY2U_uHcVTvJhQcxdJwdQpbjZ_1EbXRT",
		checked("syt"), checked("syt_YWxpY2U"), checked("syt__x"), checked("mat_YWxpY2U_x"),
		checked("syt_YWxpY2U=_x"), // padded
		checked("syt_YWxpY2V_x"),  // bits after the end
		checked("syt_YW!pY2U_x"),
		checked("syt__uHcVTvJhQcxdJwdQpbjZ"),
		checked("syt_/w_x"), // no Unicode
		checked("syt_" + strings.Repeat("YWFh", 1000) + "_x"),
	} {
		if got, ok := TokenLocalpart(token); ok {
			t.Errorf("%.60s names %q", token, got)
		}
	}
}

// FuzzTokenLocalpart holds that a token names one user only: the one whose name it was made of.
func FuzzTokenLocalpart(f *testing.F) {
	for _, token := range tokens {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if localpart, ok := TokenLocalpart(token); ok && (localpart == "" || len(localpart) > MaxUserID) {
			t.Errorf("%q", localpart)
		}
		if last := strings.LastIndexByte(token, '_'); last >= 0 {
			token = token[:last]
		}
		localpart, ok := TokenLocalpart(token + "_" + checkOf(token))
		if ok && !strings.HasPrefix(token, "syt_") {
			t.Errorf("%q names %q", token, localpart)
		}
	})
}
