package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

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
	crowd, err := hs.AddCrowd(ctx, crowdSize)
	if err != nil {
		return err
	}
	if _, err := hs.Client().Room(ctx, stage.alice, crowd...); err != nil {
		return err
	}
	t := &trial{stage: stage, hs: hs}
	if err := t.front(ctx, listen); err != nil {
		return err
	}
	defer t.sidecar.Stop()
	stop, err := t.watch(ctx, out)
	if err != nil {
		return err
	}
	defer stop()
	traffic, stopTraffic := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stopTraffic()
	running.Go(func() { stage.traffic(traffic, t.sidecar.URL, crowd) })

	p := newPrinter(out)
	p.trial(t)
	if once {
		return nil
	}
	return t.stay(ctx, p, in)
}

// trial is what stays.
type trial struct {
	stage   *stage
	hs      *homeserver.Homeserver
	sidecar *sidecar.Sidecar
	page    string // its address
	alerts  string // where they are, or why they aren't
}

// front starts the sidecar.
func (t *trial) front(ctx context.Context, listen string) (err error) {
	if t.page, err = claim(listen); err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(t.page)
	text := fmt.Sprintf(trialCaddyfile, writeLimit, strings.TrimPrefix(t.hs.URL, "http://"), t.page, port)
	if t.sidecar, err = sidecar.StartCaddyfile(ctx, text); err != nil {
		return err
	}
	// With its addresses in place of variables, the file can be changed and loaded again by whoever has nothing else.
	addresses := strings.NewReplacer("{$ADMIN}", t.sidecar.Admin, "{$LISTEN}", strings.TrimPrefix(t.sidecar.URL, "http://"))
	if err = os.WriteFile(t.caddyfile(), []byte(addresses.Replace(text)), 0o600); err != nil {
		t.sidecar.Stop()
	}
	return err
}

func (t *trial) caddyfile() string { return filepath.Join(t.sidecar.Dir, "Caddyfile") }

// watch starts a Prometheus that scrapes the sidecar and has the alerts of contrib, unless there is none to be had.
func (t *trial) watch(ctx context.Context, out io.Writer) (stop func(), err error) {
	program, err := debian.Command(ctx, out, "prometheus", "prometheus")
	if errors.Is(err, debian.ErrUnavailable) {
		t.alerts = "there is no Prometheus: " + err.Error()
		return func() {}, nil
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
	dir := t.sidecar.Dir
	config := filepath.Join(dir, "prometheus.yml")
	text := fmt.Sprintf("global:\n  scrape_interval: 5s\n  evaluation_interval: 5s\nrule_files: [%q]\nscrape_configs:\n  - job_name: presence\n    static_configs:\n      - targets: [%q]\n",
		filepath.Join(root, "contrib", "prometheus", "rules.yml"), t.sidecar.Admin)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	p, err := process.Start("Prometheus", program("--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "metrics"), "--web.listen-address="+addresses[0]),
		filepath.Join(dir, "prometheus.log"))
	if err != nil {
		return nil, err
	}
	t.alerts = "http://" + addresses[0] + "/alerts"
	if err := p.Ready(ctx, "http://"+addresses[0]+"/-/ready"); err != nil {
		p.Stop()
		return nil, err
	}
	return p.Stop, nil
}

// trial prints where all is, and what to try.
func (p *printer) trial(t *trial) {
	binary, _ := sidecar.Build(p.out)
	p.line("Page:       http://%s/", t.page)
	p.line("Alerts:     %s", t.alerts)
	p.line("Sidecar:    %s, before a Synapse at %s", t.sidecar.URL, t.hs.URL)
	p.line("Caddyfile:  %s, its folder has all logs", t.caddyfile())
	p.line("\n%s", p.paint(bold, "Try docs/operations.md and docs/alerts.md, in another terminal:"))
	p.line("alias caddy-presence=%s", binary)
	stranger := t.stage.stranger.ID
	for _, command := range []string{
		"presence-health", "presence-top --users", "presence-user " + stranger, "presence-user --reset " + stranger, "presence-purge --all",
	} {
		p.line("caddy-presence %s --address %s", command, t.sidecar.Admin)
	}
	for _, command := range []string{"presence-check", "reload --force"} {
		p.line("caddy-presence %s --config %s", command, t.caddyfile())
	}
	p.line("kill %d    # stops the Synapse; Enter here starts it again", t.hs.PID())
	p.curls(t.stage, t.sidecar.URL)
	p.line("\nIt stays up until Ctrl-C.")
}

// stay waits until ctx ends, and starts the homeserver again when it has ended and there is a line.
func (t *trial) stay(ctx context.Context, p *printer, in io.Reader) error {
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
	exited := t.hs.Exited()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.sidecar.Exited():
			return fmt.Errorf("the sidecar ended by itself:\n%s", t.sidecar.Log())
		case <-exited:
			exited = nil
			p.line("The Synapse has ended. Enter starts it again.")
		case <-lines:
			if exited != nil {
				continue
			}
			if err := t.hs.Start(ctx); err != nil {
				return err
			}
			exited = t.hs.Exited()
			p.line("The Synapse is back: kill %d", t.hs.PID())
		}
	}
}
