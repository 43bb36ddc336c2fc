package cache

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// newPresence returns tables that are large enough for any test that is not about size.
func newPresence() *Presence { return NewPresence(10_000, 10_000, testkit.Epoch) }

// parse returns the answer with this body.
func parse(t testing.TB, body string) *Answer {
	t.Helper()
	answer, err := ParseAnswer([]byte(body), nil)
	if err != nil {
		t.Fatalf("ParseAnswer(%s): %v", body, err)
	}
	return answer
}

// version returns an answer that tells its number.
func version(n int) *Answer {
	answer, err := ParseAnswer(fmt.Appendf(nil, `{"presence":"online","status_msg":"%d"}`, n), nil)
	if err != nil {
		panic(err)
	}
	return answer
}

// versionOf returns the number that an answer tells.
func versionOf(answer *Answer) (n int) {
	number, _ := strings.CutPrefix(answer.Body, `{"presence":"online","status_msg":"`)
	number, _, _ = strings.Cut(number, `"`)
	n, err := strconv.Atoi(number)
	if err != nil {
		panic(fmt.Sprintf("%s is no version: %v", answer.Body, err))
	}
	return n
}

// Depart returns the ticket of a request that leaves now, as a lookup does.
func (p *Presence) Depart(target string, now time.Time) Ticket {
	return p.Lookup("", target, new(Rules), now).Ticket
}
