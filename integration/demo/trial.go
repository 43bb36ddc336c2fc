package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/checkout"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/debian"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/process"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

// trialCaddyfile is that of the trial. What it has for a site, docs/operations.md explains.
const trialCaddyfile = `{
	admin {$ADMIN}
}
http://{$LISTEN} {
	bind 127.0.0.1
	matrix_presence {
		write_limit %[1]s
	}
	reverse_proxy %[2]s
}
http://%[3]s, http://localhost:%[4]s {
	bind 127.0.0.1
	presence_status {
		show_users on
	}
}
`

// runTrial has a Synapse, the sidecar and a Prometheus stay, with some traffic, so that all that docs/operations.md and
// docs/alerts.md say can be tried. A line on in starts the Synapse again after it has ended.
func runTrial(ctx context.Context, out io.Writer, in io.Reader, listen string, once bool) error {
	if _, err := sidecar.Build(out); err != nil {
		return err
	}
	hs, err := homeserver.StartSynapse(ctx, homeserver.Options{Progress: out})
	if err != nil {
		return err
	}
	defer hs.Stop()
	stage := &stage{name: "a Synapse", url: hs.URL}
	if err := stage.hire(ctx, hs.Client().Register, ""); err != nil {
		return err
	}
	page, err := claim(listen)
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(page)
	s, err := sidecar.StartCaddyfile(ctx, fmt.Sprintf(trialCaddyfile, writeLimit, strings.TrimPrefix(hs.URL, "http://"), page, port))
	if err != nil {
		return err
	}
	defer s.Stop()
	prometheus, err := watch(ctx, out, s)
	if err != nil {
		return err
	}
	if prometheus != nil {
		defer prometheus.Stop()
	}
	traffic, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	running.Go(func() { stage.traffic(traffic, s.URL) })

	p := newPrinter(out)
	p.trial(stage, s, hs, page)
	if once {
		return nil
	}
	return stay(ctx, p, hs, s, in)
}

// watch starts a Prometheus that scrapes the sidecar and has the alerts of contrib, unless there is none to be had.
func watch(ctx context.Context, out io.Writer, s *sidecar.Sidecar) (*process.Process, error) {
	program, err := debian.Command(ctx, out, "prometheus", "prometheus")
	if errors.Is(err, debian.ErrUnavailable) {
		fmt.Fprintf(out, "There is no Prometheus: %v\n", err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	root, err := checkout.Root()
	if err != nil {
		return nil, err
	}
	addresses, err := process.FreeAddresses(1)
	if err != nil {
		return nil, err
	}
	config := filepath.Join(s.Dir, "prometheus.yml")
	text := fmt.Sprintf("global:\n  scrape_interval: 5s\n  evaluation_interval: 5s\nrule_files: [%q]\nscrape_configs:\n  - job_name: presence\n    static_configs:\n      - targets: [%q]\n",
		filepath.Join(root, "contrib", "prometheus", "rules.yml"), s.Admin)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	p, err := process.Start("Prometheus", program("--config.file="+config, "--storage.tsdb.path="+filepath.Join(s.Dir, "metrics"), "--web.listen-address="+addresses[0]),
		filepath.Join(s.Dir, "prometheus.log"))
	if err != nil {
		return nil, err
	}
	if err := p.Ready(ctx, "http://"+addresses[0]+"/-/ready"); err != nil {
		p.Stop()
		return nil, err
	}
	fmt.Fprintf(out, "Alerts: http://%s/alerts\n", addresses[0])
	return p, nil
}

// traffic is that bob looks at alice, who is there and says so now and then, and that a client of the stranger's goes
// mad: it writes all the time.
func (s *stage) traffic(ctx context.Context, base string) {
	read := act{method: http.MethodGet, target: s.alice, token: s.bob.AccessToken}
	write := act{method: http.MethodPut, target: s.alice, token: s.alice.AccessToken, status: "here"}
	floods := act{method: http.MethodPut, target: s.stranger, token: s.stranger.AccessToken, status: "mad"}
	const often, seldom = 250 * time.Millisecond, 60
	for n := 0; ctx.Err() == nil; n++ {
		acts := []act{read, floods}
		if n%seldom == 0 {
			acts = append(acts, write)
		}
		for _, a := range acts {
			_, _ = a.send(ctx, base) // a homeserver that is down is part of the trial
		}
		_ = wait(ctx, often)
	}
}

// trial prints where all is, and what to try.
func (p *printer) trial(stage *stage, s *sidecar.Sidecar, hs *homeserver.Homeserver, page string) {
	binary, _ := sidecar.Build(p.out)
	p.line("Page:       http://%s/", page)
	p.line("Sidecar:    %s, before a Synapse at %s", s.URL, hs.URL)
	p.line("Caddyfile:  %s, its folder has all logs", filepath.Join(s.Dir, "Caddyfile"))
	_, port, _ := net.SplitHostPort(s.Admin)
	p.line("\n%s", p.paint(bold, "Try docs/operations.md and docs/alerts.md:"))
	p.line("alias caddy-presence=%s", binary)
	for _, command := range []string{
		"presence-health", "presence-top --users", "presence-user " + stage.stranger.ID, "presence-user --reset " + stage.stranger.ID,
		"presence-purge --all",
	} {
		p.line("caddy-presence %s --address localhost:%s", command, port)
	}
	p.line("kill %d    # stops the Synapse; Enter here starts it again", hs.PID())
	p.curls(stage, s.URL)
	p.line("\nIt stays up until Ctrl-C.")
}

// stay waits until ctx ends, and starts the homeserver again when it has ended and there is a line.
func stay(ctx context.Context, p *printer, hs *homeserver.Homeserver, s *sidecar.Sidecar, in io.Reader) error {
	lines := make(chan struct{})
	go func() {
		for scanner := bufio.NewScanner(in); scanner.Scan(); {
			select {
			case lines <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
	}()
	exited := hs.Exited()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.Exited():
			return fmt.Errorf("the sidecar ended by itself:\n%s", s.Log())
		case <-exited:
			exited = nil
			p.line("The Synapse has ended. Enter starts it again.")
		case <-lines:
			if exited != nil {
				continue
			}
			if err := hs.Start(ctx); err != nil {
				return err
			}
			exited = hs.Exited()
			p.line("The Synapse is back: kill %d", hs.PID())
		}
	}
}
