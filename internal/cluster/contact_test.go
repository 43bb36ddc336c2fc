package cluster

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// transitions are what people are told of a log.
type transitions []string

func (r *transitions) Up(int)             { *r = append(*r, "up") }
func (r *transitions) Down(error)         { *r = append(*r, "down") }
func (r *transitions) Nodes(were, is int) {}
func (r *transitions) Flushed(Doubt)      {}
func (r *transitions) Warn(string)        {}

// An answer may be read after the refusals of calls that left later, as of a server that takes no more writes. Then the log was
// said to be back, and gone once more.
func TestAnswerFromBeforeIsNoReturn(t *testing.T) {
	var told transitions
	c := contact{report: &told}
	began := time.Now()
	note := func(err error, left int) {
		c.note(err, began.Add(time.Duration(left)*time.Millisecond), began.Add(time.Second), 1)
	}
	note(nil, 0)
	for range tooMany {
		note(errors.New("READONLY"), 20)
	}
	note(nil, 10)
	if got := fmt.Sprint(told); got != "[up down]" || c.isUp() {
		t.Errorf("after an answer from before: %s", got)
	}
	note(nil, 30)
	if got := fmt.Sprint(told); got != "[up down up]" || !c.isUp() {
		t.Errorf("after another: %s", got)
	}
}
