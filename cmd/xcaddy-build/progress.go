package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// A progress turns xcaddy's log into a report for somebody who waits: each
// line begins with the seconds since the start, and a step that stays silent
// (the compiler does, for a minute) is named again from time to time.
//
// It is an io.Writer for log.SetOutput, which calls Write once a record.
type progress struct {
	began time.Time

	mu      sync.Mutex // guards what follows, and keeps lines whole
	out     io.Writer
	step    string // the command that runs now
	stepped time.Time
}

func newProgress(out io.Writer) *progress {
	return &progress{out: out, began: time.Now()}
}

// Write reports one record of the log.
func (p *progress) Write(record []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	line := strings.TrimPrefix(strings.TrimSpace(string(record)), "[INFO] ")
	if command, ok := commandOf(line); ok {
		line, p.step, p.stepped = command, command, time.Now()
	}
	if err := p.report(line); err != nil {
		return 0, err
	}
	return len(record), nil
}

// sayf reports a line of our own.
func (p *progress) sayf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.report(fmt.Sprintf(format, args...)) // a terminal that went away must not fail the build
}

// report writes one line. The caller holds mu.
func (p *progress) report(line string) error {
	line = strings.ReplaceAll(line, "\n", "\n          ")
	_, err := fmt.Fprintf(p.out, "%7.1fs  %s\n", time.Since(p.began).Seconds(), line)
	return err
}

// current returns the command that runs now or ran last.
func (p *progress) current() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.step
}

// remind names the running step at every interval in which no new one began,
// until ctx is done.
func (p *progress) remind(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p.mu.Lock()
		if ran := time.Since(p.stepped); p.step != "" && ran >= every {
			_ = p.report(fmt.Sprintf("still at %q, for %.0fs", short(p.step), ran.Seconds()))
		}
		p.mu.Unlock()
	}
}

// short returns the first two words of a command: "go build".
func short(command string) string {
	words := strings.Fields(command)
	return strings.Join(words[:min(2, len(words))], " ")
}

// commandOf returns the command of a log line by which xcaddy says that it runs
// one: "exec (timeout=0s): /usr/local/go/bin/go mod init caddy".
func commandOf(line string) (string, bool) {
	rest, ok := strings.CutPrefix(line, "exec (timeout=")
	if !ok {
		return "", false
	}
	_, command, ok := strings.Cut(rest, "): ")
	if !ok {
		return "", false
	}
	program, args, _ := strings.Cut(command, " ")
	return filepath.Base(program) + " " + args, true
}
