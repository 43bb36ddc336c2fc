package contender

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/accounting"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/process"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/protocol"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/redisserver"
)

// Spec is a server that can be started.
type Spec struct {
	Program Program
	// Config is a template: see settings for what it sees.
	Config string
	// Env is added to the program's environment.
	Env []string
	// Protocol is what its clients speak, HTTP/1.1 unless given.
	Protocol protocol.Protocol
	// Redis says that it needs one of its own.
	Redis bool
}

// settings is what the templates of configurations see.
type settings struct {
	// Listen is the address to serve on, Port its port, Admin another address.
	Listen, Port, Admin string
	// Upstream is the homeserver's address, UpstreamPort its port.
	Upstream, UpstreamPort string
	// Redis is the address of its Redis, if it needs one.
	Redis string
	// Certificate and Key are files for a server that speaks TLS.
	Certificate, Key string
	// Dir is a folder for files, Memory one that is in memory where that can be had.
	Dir, Memory string
	// Root says that this is root, whom nginx would leave.
	Root bool
}

// Server is a running contender.
type Server struct {
	// Address is where it serves, Admin where Caddy's admin endpoint is, if the
	// configuration has it on.
	Address, Admin string
	// Protocol is what clients speak to it, and Certificate the file with the one that
	// they are to trust, if that is over TLS.
	Protocol    protocol.Protocol
	Certificate string

	process     *process.Process
	redis       *process.Process // or nil
	pid         int
	dir, memory string // removed by Stop
}

// joins is for how long a node that has just joined a cluster keeps nothing, and some more.
const joins = 2 * time.Second

// Find looks for all that the contender needs, and builds what is ours.
func (s Spec) Find(ctx context.Context, out io.Writer) error {
	if s.Redis {
		if _, err := redisserver.Redis.Command(ctx); err != nil {
			return fmt.Errorf("redis-server is %w: %w", ErrMissing, err)
		}
	}
	_, err := s.Program.Find(out)
	return err
}

// Start runs a contender in front of upstream. Out is told if that takes long.
func (s Spec) Start(ctx context.Context, upstream string, out io.Writer) (*Server, error) {
	path, err := s.Program.Find(out)
	if err != nil {
		return nil, err
	}
	return process.Retry(func() (*Server, error) {
		addrs, err := process.FreeAddresses(3)
		if err != nil {
			return nil, err
		}
		dir, err := os.MkdirTemp("", "presence-bench-")
		if err != nil {
			return nil, fmt.Errorf("making a folder for %s: %w", s.Program, err)
		}
		memory, err := os.MkdirTemp("/dev/shm", "presence-bench-")
		if err != nil {
			memory = dir
		}
		server := &Server{Address: addrs[0], Admin: addrs[1], Protocol: s.Protocol, dir: dir, memory: memory}
		if server.Protocol == "" {
			server.Protocol = protocol.HTTP1
		}
		if err := server.run(ctx, s, path, upstream, addrs[2]); err != nil {
			server.Stop()
			return nil, err
		}
		return server, nil
	})
}

func (s *Server) run(ctx context.Context, spec Spec, path, upstream, redis string) error {
	with := settings{Listen: s.Address, Admin: s.Admin, Upstream: upstream, Redis: redis, Dir: s.dir, Memory: s.memory, Root: os.Getuid() == 0}
	if spec.Redis {
		if err := s.runRedis(ctx, redis); err != nil {
			return err
		}
	}
	if s.Protocol.TLS() {
		var err error
		if with.Certificate, with.Key, err = protocol.WriteCertificate(s.dir); err != nil {
			return err
		}
		s.Certificate = with.Certificate
	}
	text, err := spec.render(with)
	if err != nil {
		return fmt.Errorf("configuring %s: %w", spec.Program, err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, configName), []byte(text), 0o600); err != nil {
		return fmt.Errorf("configuring %s: %w", spec.Program, err)
	}
	cmd := spec.Program.command(path, s.dir, s.Address)
	cmd.Env = append(cmd.Env, spec.Env...)
	if s.process, err = process.Start(string(spec.Program), cmd, filepath.Join(s.dir, "server.log")); err != nil {
		return err
	}
	s.pid = cmd.Process.Pid
	// Not a presence path: nothing is to be in a cache yet.
	protocol.Register()
	defer protocol.Close()
	if err := s.process.Ready(ctx, s.Protocol.URL(s.Address)+"/_matrix/client/versions"); err != nil || s.redis == nil {
		return err
	}
	select {
	case <-time.After(joins):
	case <-ctx.Done():
	}
	return ctx.Err()
}

// runRedis starts the contender's Redis, whose use is nobody's.
func (s *Server) runRedis(ctx context.Context, address string) error {
	program, err := redisserver.Redis.Command(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	cmd := program("--bind", host, "--port", port, "--save", "", "--appendonly", "no", "--dir", s.dir)
	s.redis, err = process.Start("redis", cmd, filepath.Join(s.dir, "redis.log"))
	return err
}

func (s Spec) render(with settings) (string, error) {
	var err error
	if _, with.Port, err = net.SplitHostPort(with.Listen); err != nil {
		return "", err
	}
	if _, with.UpstreamPort, err = net.SplitHostPort(with.Upstream); err != nil {
		return "", err
	}
	tmpl, err := template.New(string(s.Program)).Parse(s.Config)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	err = tmpl.Execute(&text, with)
	return text.String(), err
}

// Usage is what the contender has used, with all its processes.
func (s *Server) Usage() (accounting.Usage, error) { return accounting.Of(s.pid) }

// Exited is closed when the contender is gone, for whatever reason.
func (s *Server) Exited() <-chan struct{} { return s.process.Exited() }

// Log returns the end of what the contender has logged.
func (s *Server) Log() string { return process.Tail(s.process.Log, 20) }

// Stop ends the contender and removes its files.
func (s *Server) Stop() {
	if s.process != nil {
		s.process.Stop()
	}
	if s.redis != nil {
		s.redis.Stop()
	}
	os.RemoveAll(s.dir)
	os.RemoveAll(s.memory)
}
