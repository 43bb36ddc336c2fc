package world_test

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/bubble"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/checkout"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/progress"
)

var (
	worlds   = flag.Int("worlds", 45, "how many worlds are drawn, unless a duration is given")
	duration = flag.Duration("duration", 0, "for how long worlds are drawn")
	from     = flag.Uint64("from", 1, "the first world that is drawn; what others draw depends on it")
	more     = flag.String("more", "", "values that are drawn more often, such as \"profile=busy;homeserver=dendrite\"")
	replay   = flag.String("replay", "", "a file of a plan that failed, to be played again")
	docs     = flag.String("docs", "", "the folder of the documentation, to write the pairs that were drawn into")
	seed     uint64 // -seed, which testkit declares: the only world to draw, or 0 for one after the other
)

func TestMain(m *testing.M) {
	flag.Parse()
	flag.Visit(func(f *flag.Flag) { // not one that has its default
		if f.Name == "seed" {
			seed, _ = strconv.ParseUint(f.Value.String(), 0, 64)
		}
	})
	for name, value := range map[string]string{"rapid.checks": "1", "rapid.nofailfile": "true"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(bubble.Run(m))
}

const (
	// tries is how often a world must be judged to be wrong: what happens in the same moment
	// has no order.
	tries = 5

	// maxFailures is how many failures are enough.
	maxFailures = 5
)

// TestWorld draws worlds and judges what happens in them.
func TestWorld(t *testing.T) {
	certificate, key, err := bubble.Certificate(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &wanderer{T: t, files: [2]string{certificate, key}, seen: newCoverage(), began: time.Now()}
	if *replay != "" {
		w.replay(*replay)
		return
	}
	stop := progress.Regularly(os.Stderr, w.String)
	defer stop()
	for number := *from; ; number++ {
		p := w.look(number)
		w.seen.add(p)
		if number < seed {
			continue // what has been seen by then decides what is drawn
		}
		w.n.Add(1)
		if w.isEnough() {
			break
		}
	}
	t.Log(w)
	if *docs != "" {
		w.document(*docs)
	}
}

// wanderer goes from world to world.
type wanderer struct {
	*testing.T
	files [2]string // of a certificate
	seen  *coverage
	began time.Time

	n, requests, failures atomic.Int64
}

func (w *wanderer) isEnough() bool {
	switch {
	case seed != 0:
		return true
	case *duration > 0:
		return time.Since(w.began) > *duration || w.failures.Load() >= maxFailures
	}
	return w.n.Load() >= int64(*worlds) || w.failures.Load() >= maxFailures
}

// String says how far it is.
func (w *wanderer) String() string {
	s := fmt.Sprintf("%d worlds, %d requests, %v, %d failures", w.n.Load(), w.requests.Load(), w.seen, w.failures.Load())
	if left := *duration - time.Since(w.began); left > 0 {
		s += fmt.Sprintf("; %v left", left.Round(time.Second))
	}
	return s
}

// look draws a world and judges it. It returns what was drawn, not what that was reduced to.
func (w *wanderer) look(number uint64) (drawn *plan) {
	if err := flag.Set("rapid.seed", fmt.Sprint(number)); err != nil {
		w.Fatal(err)
	}
	aside, first := &quiet{T: w.T}, ""
	rapid.Check(aside, func(rt *rapid.T) {
		p := draw(rt, w.seen)
		if drawn == nil {
			drawn = p
		}
		if number < seed {
			return
		}
		law, said := w.judge(p)
		if law == "" {
			return
		}
		said = fmt.Sprintf("seed %d: %s\nin\n%v", number, said, p)
		if file, err := w.keep(fmt.Sprintf("seed-%d.plan", number), p, said); err == nil {
			said += "\nplay it again with -replay " + file
		}
		first = cmp.Or(first, said)
		rt.Log(said)
		rt.Fatal(law) // rapid reduces a failure as long as it says the same
	})
	if aside.failed {
		w.failures.Add(1)
		w.Error(strings.Join(aside.said, "\n") + "\nbefore it was reduced:\n" + first)
	}
	return drawn
}

// judge plays a plan until nothing is wrong, and returns which law that breaks and how if it does
// each time.
func (w *wanderer) judge(p *plan) (law, said string) {
	for range tries {
		var runs []*run
		for _, v := range []variant{{direct: true}, {}, {peaceful: true}, {protocol: bubble.HTTP1}} {
			r := p.play(w.T, w.files, v)
			w.requests.Add(int64(len(r.outcomes)))
			runs = append(runs, r)
		}
		if said = judge(p, runs[0], runs[1], runs[2], runs[3]); said == "" {
			return "", ""
		}
	}
	law, _, _ = strings.Cut(said, ":")
	return law, said
}

// keep writes a plan that failed into a file, and returns its name.
func (w *wanderer) keep(name string, p *plan, said string) (file string, err error) {
	root, err := checkout.Root()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, ".cache", "world")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", fmt.Errorf("making a folder for plans: %w", err)
	}
	file = filepath.Join(dir, name)
	return file, drawing.write(file, said+"\n\n"+p.script())
}

// replay plays a plan from a file.
func (w *wanderer) replay(file string) {
	var err error
	if drawing, err = readTape(file); err != nil {
		w.Fatal(err)
	}
	p := draw(nil, w.seen)
	w.Log(p)
	if law, said := w.judge(p); law != "" {
		w.Fatal(said)
	}
	w.Log("nothing is wrong")
}

// document writes which pairs have been drawn into the documentation.
func (w *wanderer) document(dir string) {
	const begin, end = "<!-- pairs -->\n", "<!-- /pairs -->\n"
	file := filepath.Join(dir, "reliability.md")
	text, err := os.ReadFile(file)
	if err != nil {
		w.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ends := strings.Cut(rest, end)
	if !ok || !ends {
		w.Fatalf("%s has no place for the pairs: %s%s", file, begin, end)
	}
	table := fmt.Sprintf("After %v:\n\n%s", w, w.seen.markdown())
	if err := os.WriteFile(file, []byte(before+begin+table+end+after), 0o644); err != nil {
		w.Fatal(err)
	}
}

// quiet is a test for rapid that keeps what is said of a failure to itself.
type quiet struct {
	*testing.T
	said   []string
	failed bool
}

func (q *quiet) Log(args ...any) { q.said = append(q.said, fmt.Sprint(args...)) }
func (q *quiet) Logf(format string, args ...any) {
	q.said = append(q.said, fmt.Sprintf(format, args...))
}
func (q *quiet) Error(args ...any)                 { q.Log(args...); q.failed = true }
func (q *quiet) Errorf(format string, args ...any) { q.Logf(format, args...); q.failed = true }
func (q *quiet) FailNow()                          { q.failed = true }
func (q *quiet) Failed() bool                      { return q.failed }
