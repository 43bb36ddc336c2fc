package cluster

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// contact says whether the log can be reached. It can't be when three of the last five calls
// failed, until one succeeds: the pull that is tried each tick.
type contact struct {
	report Reporter
	down   atomic.Pointer[error] // why it can't be reached, or nil

	mu       sync.Mutex // guards all below, and orders changes of down
	last     [5]bool    // whether the last calls failed
	next     int        // where the next is noted
	told     bool       // that it is up, or down
	answered time.Time  // when a call last succeeded
	failing  time.Time  // since when all have failed, or zero
	refused  time.Time  // when the last one left that failed
	lastPull time.Time  // when the last one left that succeeded
	nodes    attendance
}

// attendance is how many nodes there are, and of how many people were told.
type attendance struct {
	told, now int
	since     time.Time // that there are as many as now
}

// steady is for how long there are as many nodes until people are told: after the log was away they come back one by one.
const steady = 2 * time.Second

// tooMany is of how many failures it takes that it can't be reached.
const tooMany = 3

// ErrDown is part of the error while the log can't be reached.
var ErrDown = errors.New("the cluster's log can't be reached")

// note notes how a call ended, that left at some time.
func (c *contact) note(err error, left, now time.Time, nodes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last[c.next] = err != nil
	c.next = (c.next + 1) % len(c.last)
	if err == nil {
		c.answered, c.failing = now, time.Time{}
		if c.down.Load() != nil && !left.After(c.refused) {
			return // it left before others that were refused, and says nothing of what has been since
		}
		if c.down.Swap(nil) != nil || !c.told {
			c.told, c.last = true, [5]bool{}
			c.nodes = attendance{told: nodes, now: nodes, since: now}
			c.report.Up(nodes)
		}
		return
	}
	if left.After(c.refused) {
		c.refused = left
	}
	if c.failing.IsZero() {
		if c.failing = left; c.answered.After(left) {
			c.failing = c.answered
		}
	}
	failures := 0
	for _, failed := range c.last {
		if failed {
			failures++
		}
	}
	if c.down.Load() == nil && (failures >= tooMany || !c.told || errors.Is(err, ErrForeign)) {
		down := fmt.Errorf("%w: %w", ErrDown, err)
		c.down.Store(&down)
		c.told = true
		c.report.Down(err)
	}
}

// attend notes how many nodes there are, and tells if they have become more or fewer.
func (c *contact) attend(nodes int, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := &c.nodes
	if nodes != n.now {
		n.now, n.since = nodes, now
	}
	if n.now != n.told && now.Sub(n.since) >= steady {
		c.report.Nodes(n.told, n.now)
		n.told = n.now
	}
}

// lasting returns why the log can't be reached, or nil.
func (c *contact) lasting() error {
	if down := c.down.Load(); down != nil {
		return *down
	}
	return nil
}

// isUp tells that a call has succeeded, and not too many have failed since.
func (c *contact) isUp() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.told && c.down.Load() == nil
}

// failed returns for how long all calls have failed.
func (c *contact) failed(now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failing.IsZero() {
		return 0
	}
	return now.Sub(c.failing)
}

// notePull notes a pull that succeeded, and when it left.
func (c *contact) notePull(left time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastPull = left
}

// sincePull returns how long ago the last pull left that succeeded.
func (c *contact) sincePull(now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return now.Sub(c.lastPull)
}
