package cache

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"
)

// seed repeats a random test that failed: go test ./cache -run NAME -seed N.
var seed = flag.Uint64("seed", 0, "seed of the random tests; 0 takes a new one each time")

// newRand returns a source of randomness whose seed a failing test prints.
func newRand(t testing.TB) *rand.Rand {
	t.Helper()
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("repeat with -seed %d", s)
	return rand.New(rand.NewPCG(s, s))
}

// pick returns one of the choices.
func pick[T any](r *rand.Rand, choices ...T) T { return choices[r.IntN(len(choices))] }

// epoch is when all tests begin. No test looks at a real clock.
var epoch = time.Date(2026, time.July, 1, 12, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return epoch.Add(d) }

// newPresence returns tables that are large enough for any test that is not about size.
func newPresence() *Presence { return NewPresence(10_000, 10_000, epoch) }

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
