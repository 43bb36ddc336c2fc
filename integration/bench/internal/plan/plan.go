// Package plan runs the steps of a long experiment one after the other and tells
// a person how far it is: which step of how many, how long it took, and how long
// the rest will about take.
package plan

import (
	"context"
	"fmt"
	"io"
	"time"
)

// Step is a part of an experiment.
type Step struct {
	// Name says what is being done.
	Name string
	// About is how long it takes, roughly: what counts is its share of the whole.
	About time.Duration
	// Do does it. An error ends the experiment.
	Do func(context.Context) error
}

// Run does all steps. Progress goes to out: a line for each step, or one line that
// is written over if out is a terminal.
func Run(ctx context.Context, steps []Step, out io.Writer, terminal bool) error {
	var whole, done time.Duration
	for _, s := range steps {
		whole += s.About
	}
	start, end := time.Now(), "\n"
	if terminal {
		end = "\x1b[K\r"
		defer fmt.Fprint(out, "\x1b[K")
	}
	for i, s := range steps {
		elapsed := time.Since(start)
		fmt.Fprintf(out, "[%d/%d] %s; %s so far, about %s to go%s", i+1, len(steps), s.Name,
			short(elapsed), short(rest(elapsed, done, whole)), end)
		if err := s.Do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		done += s.About
	}
	return nil
}

// rest estimates what remains: by what the steps said, and more and more by how
// long those really took that are done.
func rest(elapsed, done, whole time.Duration) time.Duration {
	remaining := whole - done
	if done == 0 {
		return remaining
	}
	measured := float64(elapsed) / float64(done)
	trust := float64(done) / float64(whole)
	return time.Duration(float64(remaining) * (trust*measured + (1 - trust)))
}

func short(d time.Duration) time.Duration { return d.Round(time.Second) }
