package replication

import (
	"bufio"
	"os"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

// Each line is followed by what it tells. The lines have the shapes that were seen on a live
// Synapse with PostgreSQL, and on one with SQLite; the names are others.
func TestLinesOfAServer(t *testing.T) {
	for _, name := range []string{"postgresql.txt", "sqlite.txt", "restart.txt", "odd.txt"} {
		t.Run(name, func(t *testing.T) {
			file, err := os.Open("testdata/" + name)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			told := newTold()
			r := NewReader("fed.test", told)
			line, lines := "", 0
			for scanner := bufio.NewScanner(file); scanner.Scan(); {
				text := scanner.Text()
				want, isWant := strings.CutPrefix(text, "  = ")
				switch {
				case strings.HasPrefix(text, "#"):
				case isWant:
					if got := told.take(); got != want {
						t.Errorf("%s\ntells %q, want %q", line, got, want)
					}
				default:
					if got := told.take(); got != "" {
						t.Errorf("%s\ntells %q, want nothing", line, got)
					}
					line = text
					lines++
					r.Line(line)
				}
			}
			if got := told.take(); got != "" || lines < 5 {
				t.Errorf("%d lines, the last tells %q", lines, got)
			}
			n := 0
			for _, count := range told.lines {
				n += count
			}
			if n != lines {
				t.Errorf("%d of %d lines are counted", n, lines)
			}
		})
	}
}

func TestPositionsAreBounded(t *testing.T) {
	told := newTold()
	r := NewReader("fed.test", told)
	for i := range 2 * maxSources {
		r.Line("POSITION caches worker" + strings.Repeat("x", i%7) + string(rune('a'+i%26)) + strings.Repeat("y", i/26) + " 1 1")
		if i > maxSources+200 {
			break
		}
	}
	if len(r.positions) > maxSources {
		t.Errorf("%d positions are kept", len(r.positions))
	}
	for _, line := range []string{"POSITION caches %s 1 1", `RDATA caches %s 1 ["get_device",["@a:fed.test"],1]`} {
		told, length := newTold(), maxInstance+1
		r := NewReader("fed.test", told)
		r.Line(strings.Replace(line, "%s", strings.Repeat("x", length), 1))
		if len(r.positions) > 0 || !strings.Contains(told.take(), "missed") {
			t.Errorf("an instance with a name of %d bytes is kept", length)
		}
	}
}

// Whatever comes, nothing panics, each line is counted once, and nobody of another server is told to
// have ended sessions.
func FuzzLine(f *testing.F) {
	for _, name := range []string{"postgresql.txt", "sqlite.txt", "restart.txt", "odd.txt"} {
		text, err := os.ReadFile("testdata/" + name)
		if err != nil {
			f.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if !strings.HasPrefix(line, "  = ") {
				f.Add(strings.TrimSuffix(line, "\n"), "POSITION presence master 1 2")
			}
		}
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		told := newTold()
		r := NewReader("fed.test", told)
		for _, line := range []string{first, second, first} {
			r.Line(line)
		}
		n := 0
		for kind, count := range told.lines {
			if kind < gateway.LinePresence || kind > gateway.LineUnknown {
				t.Errorf("a line of kind %v", kind)
			}
			n += count
		}
		if n != 3 {
			t.Errorf("%d lines are counted of 3", n)
		}
		for _, says := range told.says {
			if user, ok := strings.CutPrefix(says, "sessions "); ok && !strings.HasSuffix(user, ":fed.test") {
				t.Errorf("told of %q", user)
			}
		}
	})
}
