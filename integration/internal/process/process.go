package process

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is a running server.
type Process struct {
	// Log is the file that holds the server's standard output and error.
	Log string

	name   string
	cmd    *exec.Cmd
	exited chan struct{} // closed once the server is gone
	err    error         // why; read after exited is closed
	stop   sync.Once
}

// Start starts cmd with its output in the file log. Name is used in errors.
func Start(name string, cmd *exec.Cmd, log string) (*Process, error) {
	out, err := os.Create(log)
	if err != nil {
		return nil, fmt.Errorf("creating the log of %s: %w", name, err)
	}
	defer out.Close() // the child has its own copy of the descriptor
	cmd.Stdout, cmd.Stderr = out, out
	group := groupOfItsOwn()
	if cmd.SysProcAttr != nil { // for another user, or as it is
		group.Credential = cmd.SysProcAttr.Credential
	}
	cmd.SysProcAttr = group
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p := &Process{Log: log, name: name, cmd: cmd, exited: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// Ready polls url until the server answers at all, or until it has exited, ctx
// is done or five minutes have passed, whichever comes first: a busy machine takes
// more than one to start a Synapse.
func (p *Process) Ready(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if answers(ctx, url) {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.exited:
			return fmt.Errorf("starting %s: it exited: %v%w", p.name, p.err, p.lastWords())
		case <-ctx.Done():
			return fmt.Errorf("starting %s: no answer from %s: %w%w", p.name, url, ctx.Err(), p.lastWords())
		}
	}
}

func answers(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return true // a bad gateway too: the server itself is up
}

// ErrAddressInUse is part of the error of a server that lost its port to
// somebody else before it could listen.
var ErrAddressInUse = errors.New("address already in use")

// lastWords is the end of the log as an error, with ErrAddressInUse in its
// chain if the log says so: servers have no other way to tell.
func (p *Process) lastWords() error {
	tail := Tail(p.Log, 20)
	lower := strings.ToLower(tail)
	if strings.Contains(lower, "address already in use") || strings.Contains(lower, "errno 98") {
		return fmt.Errorf("; end of its log (%w):\n%s", ErrAddressInUse, tail)
	}
	return fmt.Errorf("; end of its log:\n%s", tail)
}

// Stop asks the server to leave, and kills it and its children if it has not
// done so within two seconds. Only the first call does anything: later the
// number of the process group may be somebody else's.
func (p *Process) Stop() {
	p.stop.Do(func() {
		group := -p.cmd.Process.Pid
		_ = syscall.Kill(group, syscall.SIGTERM)
		select {
		case <-p.exited:
		case <-time.After(2 * time.Second):
		}
		_ = syscall.Kill(group, syscall.SIGKILL)
		<-p.exited
	})
}

// PID is the number of the server's process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends the server a signal, and nothing else.
func (p *Process) Signal(signal os.Signal) error { return p.cmd.Process.Signal(signal) }

// Ended is how the server ended, once it has.
func (p *Process) Ended() *os.ProcessState { return p.cmd.ProcessState }

// Exited is closed once the server is gone, for whatever reason.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Tail returns the last n lines of a file.
func Tail(path string, n int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
