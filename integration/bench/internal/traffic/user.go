package traffic

import (
	"fmt"
	"strconv"
	"strings"
)

// User is the number of a user.
type User int

// viewers is where those who only read begin.
const viewers = 1_000_000

// Viewer returns the nth of those who only read.
func Viewer(n int) User { return viewers + User(n) }

// People tells the IDs and tokens of users.
type People interface {
	ID(User) string
	Token(User) string
}

// Scripted are the people of the scripted homeserver, who need no registration:
// the number is in the ID and in the token.
type Scripted struct{}

const (
	idPrefix, idSuffix = "@user", ":hs.test"
	tokenPrefix        = "syt_"
)

// ID returns an ID such as @user0000042:hs.test.
func (Scripted) ID(u User) string { return fmt.Sprintf("%s%07d%s", idPrefix, int(u), idSuffix) }

// Token returns a token as long as Synapse's, 61 bytes.
func (Scripted) Token(u User) string {
	a := scramble(uint64(u))
	return fmt.Sprintf("%s%07d_%016x%016x%010x_%06x", tokenPrefix, int(u),
		a, scramble(a), scramble(a+1)&0xffffffffff, scramble(a+2)&0xffffff)
}

// scramble is the finaliser of SplitMix64: it makes a number look random.
func scramble(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// UserOfToken returns whose token it is.
func UserOfToken(token string) (User, bool) {
	number, ok := strings.CutPrefix(token, tokenPrefix)
	number, _, _ = strings.Cut(number, "_")
	u, err := strconv.Atoi(number)
	return User(u), ok && err == nil && u >= 0 && token == Scripted{}.Token(User(u))
}
