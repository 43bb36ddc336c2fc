package attack_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/wire"
)

// maxBody is the default of max_body.
const maxBody = 64 << 10

// padded is a write with a body of exactly so many bytes.
func padded(bytes int) string {
	const before, after = `{"presence":"online","status_msg":"`, `"}`
	return before + strings.Repeat("x", bytes-len(before)-len(after)) + after
}

// members is a write with so many members.
func members(n int) string {
	b := []byte(`{"presence":"online"`)
	for i := range n {
		b = append(strconv.AppendInt(append(b, `,"`...), int64(i), 16), `":1`...)
	}
	return string(append(b, '}'))
}

func gzipped(body string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, body)
	w.Close()
	return b.String()
}

// chunked sends a body in chunks of so many bytes.
func chunked(body string, size int) string {
	var b strings.Builder
	for len(body) > 0 {
		n := min(size, len(body))
		fmt.Fprintf(&b, "%x\r\n%s\r\n", n, body[:n])
		body = body[n:]
	}
	b.WriteString("0\r\n\r\n")
	return b.String()
}

// TestCostlyBodies: whatever a body is, it is answered at once, and only one that a
// homeserver may take gets there, as it was sent.
func TestCostlyBodies(t *testing.T) {
	hs := newHomeserver(t, true)
	s := newSite(t, hs, options{module: []string{"write_limit off"}})
	nested := func(depth int) string {
		return `{"presence":"online","x":` + strings.Repeat("[", depth) + strings.Repeat("]", depth) + `}`
	}
	for _, tt := range []struct {
		name   string
		body   string
		fields []string
		want   int
	}{
		{"ordinary", online("x"), nil, 200},
		{"as large as may be", padded(maxBody), nil, 200},
		{"one byte larger", padded(maxBody + 1), nil, 413},
		{"a megabyte", padded(1 << 20), nil, 413},
		{"9,000 levels deep", nested(9_000), nil, 200},
		{"30,000 levels deep", nested(30_000), nil, 400},
		{"30,000 levels deep, not closed", `{"presence":"online","x":` + strings.Repeat("[", 30_000), nil, 400},
		{"30,000 objects deep", strings.Repeat(`{"":`, 15_000), nil, 400},
		{"a number of 60,000 digits", `{"presence":"online","x":1` + strings.Repeat("0", 60_000) + `}`, nil, 200},
		{"a string of escapes", `{"presence":"online","status_msg":"` + strings.Repeat(`\u0000`, 10_000) + `"}`, nil, 200},
		{"a string that isn't UTF-8", "{\"presence\":\"online\",\"status_msg\":\"\xff\xfe\xed\xa0\x80\"}", nil, 400},
		{"6,000 members", members(6_000), nil, 200},
		{"very many members", members(scale.members), nil, 413},
		{"3,000 times the same key, the last one bad", `{` + strings.Repeat(`"presence":"online",`, 3_000) + `"presence":"x"}`, nil, 400},
		{"3,000 times the same key, the last one good", `{` + strings.Repeat(`"presence":"x",`, 3_000) + `"presence":"online"}`, nil, 200},
		{"gzip", gzipped(online("x")), []string{"Content-Encoding: gzip"}, 400},
		{"gzip of four megabytes", gzipped(padded(4 << 20)), []string{"Content-Encoding: gzip"}, 400},
		{"plain that claims to be gzip", online("x"), []string{"Content-Encoding: gzip"}, 200},
		{"a form", "presence=online", []string{"Content-Type: application/x-www-form-urlencoded"}, 400},
		{"UTF-16", "\xff\xfe{\x00}\x00", nil, 400},
		{"nothing", "", nil, 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, form := range []struct {
				name    string
				request []byte
			}{
				{"with its length", wire.RequestWith(tt.body, "PUT", presencePath(alice), append(tt.fields, bearer(tokenOf("alice", 0)))...)},
				{"in chunks", append(wire.Request("PUT", presencePath(alice),
					append(tt.fields, bearer(tokenOf("alice", 0)), "Transfer-Encoding: chunked")...), chunked(tt.body, 1_000)...)},
			} {
				hs.takeSeen()
				r, err := askWhileSending(t, s.URL, form.request)
				if err != nil {
					t.Fatalf("%s: %v", form.name, err)
				}
				if r.Status != tt.want {
					t.Errorf("%s: %s, want %d", form.name, r, tt.want)
				}
				var writes []string
				for _, seen := range hs.takeSeen() {
					if seen.method == "PUT" {
						writes = append(writes, seen.body)
					}
				}
				switch {
				case tt.want != http.StatusOK && len(writes) > 0:
					t.Errorf("%s: %d writes got to the homeserver", form.name, len(writes))
				case tt.want == http.StatusOK && (len(writes) != 1 || writes[0] != tt.body):
					t.Errorf("%s: %d writes got to the homeserver, or another than was sent", form.name, len(writes))
				}
			}
		})
	}
	expectPlain(t, hs)
}

// askWhileSending sends a request and reads its answer at the same time: a server may
// answer, and close, before it has read all of a body.
func askWhileSending(t *testing.T, address string, request []byte) (reply, error) {
	w := mustDial(t, address)
	go w.Write(request)
	method, _, _ := bytes.Cut(request, []byte(" "))
	return w.Receive(string(method))
}

// TestBodiesWithoutEnd: somebody sends a chunk after the other and never stops. They
// are cut off soon after max_body, having got an answer.
func TestBodiesWithoutEnd(t *testing.T) {
	hs := newHomeserver(t, false)
	s := newSite(t, hs, options{module: []string{"write_limit off"}})
	for _, tt := range []struct {
		name   string
		target string
		fields []string
		want   int
	}{
		{"own presence", presencePath(alice), []string{bearer(tokenOf("alice", 0))}, http.StatusRequestEntityTooLarge},
		{"another's presence", presencePath(bob), []string{bearer(tokenOf("alice", 0))}, http.StatusForbidden},
		{"no token", presencePath(bob), nil, http.StatusUnauthorized},
		{"unknown token", presencePath(bob), []string{bearer("made-up")}, http.StatusUnauthorized},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := mustDial(t, s.URL)
			if _, err := w.Write(append(wire.Request("PUT", tt.target, append(tt.fields, "Transfer-Encoding: chunked")...),
				"1000\r\n"+padded(0x1000)+"\r\n"...)); err != nil {
				t.Fatal(err)
			}
			sent := make(chan int)
			go func() {
				chunk, n := []byte("1000\r\n"+strings.Repeat("x", 0x1000)+"\r\n"), 0
				for {
					if _, err := w.Write(chunk); err != nil {
						if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
							sent <- n
						} else {
							sent <- -1 // time is up, or the test closed it
						}
						return
					}
					n += 0x1000
				}
			}()
			r, err := w.Receive("PUT")
			if err != nil {
				t.Fatal(err)
			}
			if r.Status != tt.want {
				t.Errorf("%s, want %d", r, tt.want)
			}
			// What the kernels' buffers hold has been sent, but read by nobody.
			if n := <-sent; n < 0 || n > 32<<20 {
				t.Errorf("%d bytes were sent before the server closed", n)
			}
		})
	}
	if work := hs.take(); work.count[write] > 0 {
		t.Errorf("%d writes got to the homeserver", work.count[write])
	}
}

// TestLengthsThatLie: a body that ends early is no write; one that goes on after its
// length is the next request, and judged as such.
func TestLengthsThatLie(t *testing.T) {
	hs := newHomeserver(t, true)
	s := newSite(t, hs, options{module: []string{"write_limit off"}})
	body := online("x")
	for _, tt := range []struct {
		name string
		raw  string
		want []int
	}{
		{"shorter than it says", string(wire.Request("PUT", presencePath(alice), bearer(tokenOf("alice", 0)),
			fmt.Sprintf("Content-Length: %d", len(body)+10_000))) + body, []int{400}},
		{"in chunks, without the last", string(wire.Request("PUT", presencePath(alice), bearer(tokenOf("alice", 0)),
			"Transfer-Encoding: chunked")) + fmt.Sprintf("%x\r\n%s\r\n", len(body), body), []int{400}},
		{"in a chunk that is shorter than it says", string(wire.Request("PUT", presencePath(alice), bearer(tokenOf("alice", 0)),
			"Transfer-Encoding: chunked")) + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body)+10, body), []int{400}},
		{"longer than it says", string(wire.Request("PUT", presencePath(alice), bearer(tokenOf("alice", 0)),
			fmt.Sprintf("Content-Length: %d", len(body)))) + body + "and more\r\n\r\n", []int{200, 400}},
		{"a length of 0", string(wire.Request("PUT", presencePath(alice), bearer(tokenOf("alice", 0)), "Content-Length: 0")) + body, []int{400, 400}},
		{"no length", string(wire.Request("PUT", presencePath(alice), bearer(tokenOf("alice", 0)))) + body, []int{400, 400}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hs.takeSeen()
			replies := converse(t, s.URL, tt.raw)
			if got := statusesOf(replies); fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("the answers are %d, want %d: %s", got, tt.want, replies)
			}
			writes := 0
			for _, seen := range hs.takeSeen() {
				if seen.method == "PUT" {
					writes++
				}
			}
			if want := strings.Count(fmt.Sprint(tt.want), "200"); writes != want {
				t.Errorf("%d writes got to the homeserver, want %d", writes, want)
			}
		})
	}
	expectPlain(t, hs)
}

// TestManyCostlyBodies: bodies that take the most to judge, by one user and as fast as
// they are answered.
func TestManyCostlyBodies(t *testing.T) {
	bodies := []string{
		members(6_000), strings.Repeat(`{"":`, 15_000), padded(maxBody), padded(maxBody + 1),
		`{` + strings.Repeat(`"presence":"x",`, 4_000) + `"presence":"x"}`,
		gzipped(padded(4 << 20)),
	}
	const connections = 64
	s := newSite(t, newHomeserver(t, false), options{module: []string{"write_limit off"}})
	siege{
		name: "bodies of 64 KiB: members, levels, the same key, gzip; no write_limit",
		site: s,
		flood: flood{
			connections: connections, requests: scale.bodies, judge: only(200, 400, 413),
			request: func(i int) []byte {
				return wire.RequestWith(bodies[i%len(bodies)], "PUT", presencePath("@mallory:hs"), viewer, from("192.0.2.1"))
			},
		},
		work: func(seconds float64) limits {
			return limits{count: [kinds]int{whoami: again(connections, seconds), write: scale.bodies/3 + 1}}
		},
		inFlight: connections * (connectionTakes + 40*maxBody),
	}.run(t)

	s = newSite(t, newHomeserver(t, false), options{})
	siege{
		name: "the same, default write_limit",
		site: s,
		flood: flood{
			connections: connections, requests: scale.bodies, judge: only(200, 400, 413, 429),
			request: func(i int) []byte {
				return wire.RequestWith(bodies[i%len(bodies)], "PUT", presencePath("@mallory:hs"), viewer, from("192.0.2.1"))
			},
		},
		work: func(seconds float64) limits {
			return limits{count: [kinds]int{whoami: again(1, seconds), write: 5 + int(seconds/10) + 1}}
		},
		inFlight: connections * connectionTakes,
	}.run(t)
}

// TestAMillionMembers: an admin has raised max_body to 16 MiB, and a user sends it full
// of members. It must not take many times its size to judge.
func TestAMillionMembers(t *testing.T) {
	const connections, times = 8, 8
	body := members(scale.members)
	siege{
		name:    fmt.Sprintf("bodies of %d members, max_body 16MiB", scale.members),
		options: options{module: []string{"write_limit off", "max_body 16MiB"}},
		flood: flood{
			connections: connections, requests: times, judge: only(200),
			request: func(int) []byte {
				return wire.RequestWith(body, "PUT", presencePath("@mallory:hs"), viewer, from("192.0.2.1"))
			},
		},
		work: func(float64) limits {
			return limits{count: [kinds]int{whoami: connections, write: times}}
		},
		// As it is read, while it grows, and as it is judged.
		inFlight: connections * 4 * int64(len(body)),
	}.run(t)
}

// TestSlowBodies: clients that send the beginning of a body and then nothing take a
// connection each, and nothing of the homeserver's.
func TestSlowBodies(t *testing.T) {
	neverEnd(t, "bodies", scale.slow/2+1+lookupsEach, func(i int) []byte {
		// Half of them have an account.
		token, name := "made-up", fmt.Sprintf("mallory%d", i)
		if i%2 == 0 {
			token = tokenOf(name, 0)
		}
		return append(wire.Request("PUT", presencePath("@"+name+":hs"), bearer(token), from("192.0.2.1"), "Content-Length: 60000"), '{')
	})
}

// neverEnd opens connections on which the beginning of a request comes, and then nothing. They may
// cost the homeserver some lookups, and when they are closed nothing may be left of them.
func neverEnd(t *testing.T, what string, lookups int, begin func(i int) []byte) {
	t.Helper()
	s := newSite(t, newHomeserver(t, false), options{})
	idle := s.vitals(t).Goroutines
	var wires []*wire.Conn
	siege{
		name: fmt.Sprintf("%d %s that never end", scale.slow, what),
		site: s,
		attack: func() tally {
			sum := tally{status: make(map[int]int)}
			for i := range scale.slow {
				w, err := wire.Dial(s.URL)
				if err != nil {
					sum.broken++
					continue
				}
				wires = append(wires, w)
				if _, err := w.Write(begin(i)); err != nil {
					sum.broken++
				}
				sum.sent++
			}
			<-time.After(calm) // for the victims to notice
			return sum
		},
		work:     func(float64) limits { return limits{count: [kinds]int{whoami: lookups}} },
		inFlight: int64(scale.slow) * connectionTakes,
	}.run(t)
	if work := s.hs.take(); work.count[write] > 0 {
		t.Errorf("%d writes got to the homeserver", work.count[write])
	}
	for _, w := range wires {
		w.Close()
	}
	suite.Eventually(t, "all that waited is gone", func() bool { return s.vitals(t).Goroutines < idle+50 })
}
