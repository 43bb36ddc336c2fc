package scripted

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/process"
)

// Command is the name of the hidden subcommand that is the homeserver.
const Command = "scripted-homeserver"

// countsPath is where the homeserver tells its counts. It doesn't count itself.
const countsPath = "/_bench/counts"

// Options say how the homeserver behaves.
type Options struct {
	// Cost makes each request cost what it costs Synapse.
	Cost bool
	// Hidden makes half of the viewers not see half of the targets.
	Hidden bool
}

// Server is a running homeserver.
type Server struct {
	// Address is where it listens.
	Address string
	// PID is its process.
	PID int

	process *process.Process
	dir     string
}

// Start runs the homeserver in a process of its own.
func Start(ctx context.Context, o Options) (*Server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	return process.Retry(func() (*Server, error) {
		addrs, err := process.FreeAddresses(1)
		if err != nil {
			return nil, err
		}
		dir, err := os.MkdirTemp("", "presence-scripted-")
		if err != nil {
			return nil, fmt.Errorf("making a folder for the scripted homeserver: %w", err)
		}
		s := &Server{Address: addrs[0], dir: dir}
		cmd := exec.Command(self, Command, "-listen", addrs[0],
			fmt.Sprintf("-cost=%t", o.Cost), fmt.Sprintf("-hidden=%t", o.Hidden))
		if s.process, err = process.Start("the scripted homeserver", cmd, filepath.Join(dir, "log")); err == nil {
			s.PID = cmd.Process.Pid
			err = s.process.Ready(ctx, "http://"+s.Address+countsPath)
		}
		if err != nil {
			s.Stop()
			return nil, err
		}
		return s, nil
	})
}

// Counts asks the homeserver what it was asked.
func (s *Server) Counts(ctx context.Context) (c Counts, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Address+countsPath, nil)
	if err != nil {
		return c, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return c, fmt.Errorf("counting what reached the homeserver: %w", err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&c); err != nil {
		return c, fmt.Errorf("counting what reached the homeserver: %w", err)
	}
	return c, nil
}

// Stop ends the homeserver.
func (s *Server) Stop() {
	if s.process != nil {
		s.process.Stop()
	}
	os.RemoveAll(s.dir)
}

// Main is the hidden subcommand. It serves until ctx is done.
func Main(ctx context.Context, args []string) error {
	var o Options
	flags := flag.NewFlagSet(Command, flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:0", "where to listen")
	flags.BoolVar(&o.Cost, "cost", false, "burn Synapse's CPU time")
	flags.BoolVar(&o.Hidden, "hidden", false, "hide half of the targets from half of the viewers")
	if err := flags.Parse(args); err != nil {
		return err
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	server := &http.Server{Handler: &homeserver{options: o, began: time.Now()}, ReadHeaderTimeout: time.Minute}
	go func() {
		<-ctx.Done()
		server.Close()
	}()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving: %w", err)
	}
	return nil
}
