package testkit

import (
	"encoding/base64"
	"fmt"
	"hash/crc32"
)

// NamedToken is an access token of the form that Synapse gives out, which names its user by the
// localpart. Random stands for its random letters.
func NamedToken(localpart, random string) string {
	const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	begin := fmt.Sprintf("syt_%s_%s", base64.RawStdEncoding.EncodeToString([]byte(localpart)), random)
	check, sum := "", crc32.ChecksumIEEE([]byte(begin))
	for range 6 {
		check, sum = base62[sum%62:sum%62+1]+check, sum/62
	}
	return begin + "_" + check
}
