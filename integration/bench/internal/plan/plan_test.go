package plan

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestStepsRunInOrder(t *testing.T) {
	var got []string
	step := func(name string, err error) Step {
		return Step{name, time.Second, func(context.Context) error { got = append(got, name); return err }}
	}
	broken := errors.New("broken")
	var out strings.Builder
	err := Run(t.Context(), []Step{step("one", nil), step("two", broken), step("three", nil)}, &out, false)
	if !errors.Is(err, broken) || strings.Join(got, " ") != "one two" {
		t.Errorf("did %q: %v", got, err)
	}
	for _, want := range []string{"[1/3] one; 0s so far, about 3s to go\n", "[2/3] two;"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in %q", want, out.String())
		}
	}
}

func TestRest(t *testing.T) {
	for _, c := range []struct{ elapsed, done, whole, want time.Duration }{
		{0, 0, 100, 100},
		{50, 50, 100, 50},  // as told
		{100, 50, 100, 75}, // twice as long: half believed so far
		{200, 100, 100, 0}, // over
		{180, 90, 100, 19}, // nearly all believed
	} {
		if got := rest(c.elapsed*time.Second, c.done*time.Second, c.whole*time.Second); got != c.want*time.Second {
			t.Errorf("%+v: got %v", c, got)
		}
	}
}
