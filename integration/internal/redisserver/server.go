// Package redisserver runs a real Redis, or a Valkey, for a test, and does to it what happens to such servers.
//
//   - server.go: a server, and what can be done to it;
//   - sentinel.go: a sentinel that watches one;
//   - programs.go: where the programs come from;
//   - relay.go: a network between a client and a server, which can be cut.
package redisserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/process"
)

// Server is a running server that keeps nothing on disk. It ends with its test.
type Server struct {
	Address string

	t       testing.TB
	program func(args ...string) *exec.Cmd
	process *process.Process
	args    []string
}

// Start starts a server of a kind. The test is skipped if there is none of that kind, but with
// CI=true it fails if that is Redis.
func Start(t testing.TB, kind Kind, args ...string) *Server {
	t.Helper()
	program, err := kind.Command(context.WithoutCancel(t.Context()))
	if err != nil && (kind != Redis || os.Getenv("CI") != "true") {
		t.Skipf("there is no %s: %v", kind, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, program: program, args: args}
	t.Cleanup(s.Kill)
	_, err = process.Retry(func() (*Server, error) {
		addresses, err := process.FreeAddresses(1)
		if err != nil {
			return nil, err
		}
		s.Address = addresses[0]
		return s, s.start()
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// patience is how long a server may take for anything. A busy machine has it wait.
const patience = time.Minute

// Restart starts the server anew, with nothing in it, if it isn't running.
func (s *Server) Restart() {
	s.t.Helper()
	end := time.Now().Add(patience)
	err := s.start()
	for ; errors.Is(err, process.ErrAddressInUse) && time.Now().Before(end); err = s.start() {
		time.Sleep(20 * time.Millisecond) // meanwhile the port is a client's
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// start starts the server at its address, and returns when it answers.
func (s *Server) start() error {
	host, port, _ := net.SplitHostPort(s.Address)
	cmd := s.program(append([]string{
		"--bind", host, "--port", port, "--save", "", "--appendonly", "no", "--enable-debug-command", "yes", "--repl-diskless-sync-delay", "0",
	}, s.args...)...)
	dir := s.t.TempDir()
	cmd.Dir = dir
	p, err := process.Start("redis", cmd, filepath.Join(dir, "redis.log"))
	if err != nil {
		return err
	}
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		select {
		case <-p.Exited():
			tail := process.Tail(p.Log, 20)
			if strings.Contains(strings.ToLower(tail), "address already in use") {
				return fmt.Errorf("the server has ended: %w:\n%s", process.ErrAddressInUse, tail)
			}
			return fmt.Errorf("the server has ended:\n%s", tail)
		default:
		}
		if answer, err := ask(s.Address, "PING"); err == nil && strings.HasPrefix(answer, "+PONG") {
			s.process = p
			return nil
		}
		if time.Now().After(end) {
			p.Stop()
			return fmt.Errorf("the server doesn't answer:\n%s", process.Tail(p.Log, 20))
		}
	}
}

// Kill ends the server as a power failure does. What it had is gone.
func (s *Server) Kill() {
	if s.process != nil {
		_ = s.process.Signal(syscall.SIGCONT)
		_ = s.process.Signal(syscall.SIGKILL)
		<-s.process.Exited()
		s.process.Stop()
		s.process = nil
	}
}

// Pause has the server stand still: its connections stay open, and nothing is answered.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Resume ends a pause.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(signal os.Signal) {
	if err := s.process.Signal(signal); err != nil {
		s.t.Error(err)
	}
}

// Do sends the server a command, and returns the first line of its answer.
func (s *Server) Do(words ...string) string {
	answer, err := ask(s.Address, words...)
	if err != nil || strings.HasPrefix(answer, "-") {
		s.t.Errorf("%q: %v %s", words, err, answer)
	}
	return answer
}

// Follow has the server be a replica of another, and waits until it is.
func (s *Server) Follow(primary *Server) {
	s.t.Helper()
	host, port, _ := net.SplitHostPort(primary.Address)
	s.Do("REPLICAOF", host, port)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if answer, err := ask(s.Address, "INFO", "replication"); err == nil && strings.Contains(answer, "master_link_status:up") {
			return
		}
	}
	s.t.Fatal("the replica never followed")
}

// ask sends one command over a connection of its own, and returns what comes first.
func ask(address string, words ...string) (string, error) {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	request := fmt.Sprintf("*%d\r\n", len(words))
	for _, word := range words {
		request += fmt.Sprintf("$%d\r\n%s\r\n", len(word), word)
	}
	if _, err := conn.Write([]byte(request)); err != nil {
		return "", err
	}
	buffer := make([]byte, 64<<10)
	n, err := conn.Read(buffer)
	return string(buffer[:n]), err
}
