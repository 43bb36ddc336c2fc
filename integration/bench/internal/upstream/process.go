// Package upstream runs the scripted homeserver in a process of its own, so that what it costs
// is nobody else's, and knows the users of package traffic. It counts what it is asked and tells
// that at a path of its own.
package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/traffic"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/process"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
)

// Command is the name of the hidden subcommand that is the homeserver.
const Command = "scripted-homeserver"

// countsPath is where the homeserver tells its counts. It doesn't count itself.
const countsPath = "/_bench/counts"

// Counts is what the homeserver was asked, by route.
type Counts map[scripted.Route]int

// All is the number of requests.
func (c Counts) All() (n int) {
	for _, of := range c {
		n += of
	}
	return n
}

// Since is what was asked after earlier was taken.
func (c Counts) Since(earlier Counts) Counts {
	since := make(Counts)
	for route, n := range c {
		since[route] = n - earlier[route]
	}
	return since
}

// Server is a running homeserver.
type Server struct {
	// Address is where it listens.
	Address string

	process *process.Process
	dir     string
}

// Start runs the homeserver in a process of its own.
func Start(ctx context.Context) (*Server, error) {
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
		cmd := exec.Command(self, Command, "-listen", addrs[0])
		if s.process, err = process.Start("the scripted homeserver", cmd, filepath.Join(dir, "log")); err == nil {
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
	flags := flag.NewFlagSet(Command, flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:0", "where to listen")
	if err := flags.Parse(args); err != nil {
		return err
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	server := &http.Server{Handler: handler(), ReadHeaderTimeout: time.Minute}
	go func() {
		<-ctx.Done()
		server.Close()
	}()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving: %w", err)
	}
	return nil
}

// handler is the homeserver. Who never wrote is away, with a body of typical length.
func handler() http.Handler {
	hs := scripted.New(scripted.Options{
		Owner: func(token string) (string, bool) {
			u, known := traffic.UserOfToken(token)
			return traffic.Scripted{}.ID(u), known
		},
		Body: func(_ string, s scripted.State) string {
			ago := time.Since(s.Active)
			if s.Status == "" {
				return fmt.Sprintf(`{"presence":"unavailable","last_active_ago":%d,"status_msg":"v0 t1700000000000"}`, ago.Milliseconds())
			}
			return fmt.Sprintf(`{"presence":"online","last_active_ago":%d,"status_msg":%q,"currently_active":%t}`, ago.Milliseconds(), s.Status, ago < time.Minute)
		},
		Streams: true,
	})
	mux, passed := http.NewServeMux(), new(atomic.Int64)
	passes := func(pattern, body string) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
			passed.Add(1)
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, body)
		})
	}
	passes("GET /_matrix/client/v3/sync", syncAnswer())
	passes("GET /_matrix/client/v3/rooms/{room}/members", memberList())
	mux.HandleFunc(countsPath, func(w http.ResponseWriter, _ *http.Request) {
		counts := Counts{scripted.Other: int(passed.Load())}
		for key, tally := range hs.Counts() {
			counts[key.Route] += tally.Asked
		}
		_ = json.NewEncoder(w).Encode(counts)
	})
	mux.Handle("/", hs)
	return mux
}
