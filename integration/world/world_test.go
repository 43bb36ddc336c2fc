package world_test

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/bubble"
)

var (
	worlds   = flag.Int("worlds", 60, "how many worlds are drawn, unless a duration is given")
	duration = flag.Duration("duration", 0, "for how long worlds are drawn")
	from     = flag.Uint64("from", 1, "the first world that is drawn; what others draw depends on it")
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

// TestWorld draws worlds and judges what happens in them.
func TestWorld(t *testing.T) {
	certificate, key, err := bubble.Certificate(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	files := [2]string{certificate, key}
	seen := &coverage{pairs: make(map[[2]string]int)}
	began, told := time.Now(), time.Now()
	n, failed, requests := 0, 0, 0
	for number := *from; ; number++ {
		if err := flag.Set("rapid.seed", fmt.Sprint(number)); err != nil {
			t.Fatal(err)
		}
		var p *plan
		first := "" // what failed before it was reduced
		passed := t.Run(fmt.Sprint(number), func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Log("at first: " + first)
				}
			}()
			rapid.Check(t, func(rt *rapid.T) {
				p = draw(rt, seen)
				if number < seed {
					return // what has been seen by then decides what is drawn
				}
				for try := 0; ; try++ {
					direct, ours := p.play(t, files, variant{direct: true}), p.play(t, files, variant{})
					peaceful, plain := p.play(t, files, variant{peaceful: true}), p.play(t, files, variant{protocol: bubble.HTTP1})
					requests += len(direct.outcomes) + len(ours.outcomes) + len(peaceful.outcomes) + len(plain.outcomes)
					wrong := judge(p, direct, ours, peaceful, plain)
					if wrong == "" {
						return
					}
					// rapid reduces a failure as long as it says the same.
					law, details, _ := strings.Cut(wrong, ":")
					if try < 2 {
						t.Logf("%s, perhaps once only", law)
						continue // what happens in the same moment has no order
					}
					said := fmt.Sprintf("seed %d: %s:%s\nin\n%v", number, law, details, p)
					first = cmp.Or(first, said)
					rt.Log(said)
					rt.Fatal(law)
				}
			})
		})
		seen.add(p)
		if number < seed {
			continue
		}
		n++
		if !passed {
			failed++
		}
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			fmt.Printf("… %d worlds, %d requests\n", n, requests)
		}
		if failed >= 5 || seed != 0 || *duration == 0 && n >= *worlds || *duration > 0 && time.Since(began) > *duration {
			break
		}
	}
	t.Logf("%d worlds, %d requests; %d pairs of values", n, requests, len(seen.pairs))
}
