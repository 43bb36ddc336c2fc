package matrix

import (
	"encoding/base64"
	"hash/crc32"
	"strings"
	"unicode/utf8"
)

// Synapse's access tokens name their user, see generate_access_token in handlers/auth.py:
//
//	syt_<localpart, as base64>_<20 random letters>_<check, as base62>

const (
	tokenPrefix = "syt_"
	tokenCheck  = 6 // digits of the check
	base62      = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// TokenLocalpart returns the localpart of the user whom an access token names, if it is one of the
// form that Synapse gives out. Anybody can make such a token up: only a homeserver that takes it
// makes it true.
func TokenLocalpart(token string) (localpart string, ok bool) {
	last := strings.LastIndexByte(token, '_')
	if last < 0 || token[last+1:] != checkOf(token[:last]) {
		return "", false
	}
	rest, ok := strings.CutPrefix(token[:last], tokenPrefix)
	if !ok {
		return "", false
	}
	encoded, _, ok := strings.Cut(rest, "_")
	if !ok || len(encoded) > base64.RawStdEncoding.EncodedLen(MaxUserID) {
		return "", false
	}
	decoded, err := base64.RawStdEncoding.Strict().DecodeString(encoded)
	if err != nil || len(decoded) == 0 || !utf8.Valid(decoded) {
		return "", false
	}
	return string(decoded), true
}

// checkOf returns the check of a token that begins so.
func checkOf(begin string) string {
	var digits [tokenCheck]byte
	sum := crc32.ChecksumIEEE([]byte(begin))
	for i := range digits {
		digits[tokenCheck-1-i] = base62[sum%62]
		sum /= 62
	}
	return string(digits[:])
}
