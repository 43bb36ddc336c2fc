package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/accounting"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/counting"
)

// kindOfHomeserver is what has to be known of one.
type kindOfHomeserver struct {
	name, version string

	start func(context.Context, homeserver.Options) (*homeserver.Homeserver, error)

	// feeds says that it tells of changes by itself, on a Redis.
	feeds bool
	// hides says that who shares no room with a user may not see them.
	hides bool
	// merges says that a user is what the most present of their devices is. Otherwise the
	// last write counts, and of syncs the most present of the last ten seconds.
	merges bool
	// timers says that a user who is no longer heard of goes offline after 30 seconds.
	timers bool
	// lag is how long after its answer a write may not yet be seen.
	lag time.Duration
	// offlineIsNoChange says that a sync with set_presence=offline leaves presence alone.
	// Elsewhere only the set_presence of the last sync does, and it is compared with that
	// alone: a PUT in between is forgotten.
	offlineIsNoChange bool
	// priority is for how long a sync as the more present one counts for more than others.
	priority time.Duration
}

// homeservers are those that take part. Where their rules are from, and Dendrite's lag:
// see the package's documentation page.
var homeservers = []kindOfHomeserver{
	{
		name: "Synapse", version: "1.163.2", start: homeserver.StartSynapse,
		hides: true, merges: true, timers: true,
		offlineIsNoChange: true, // rest/client/sync.py
	},
	{
		name: "Dendrite", version: "0.13.8", start: homeserver.StartDendrite,
		lag: time.Second, priority: 10 * time.Second, // sync/requestpool.go
	},
}

// withRedis is a homeserver as it is for the shapes that are about what it tells by itself. Redis costs it some CPU time,
// so it is another one.
func (k kindOfHomeserver) withRedis() kindOfHomeserver {
	k.feeds = true
	return k
}

// world is a homeserver and its people.
type world struct {
	kindOfHomeserver

	server *homeserver.Homeserver
	hop    *counting.Hop
	client *http.Client
	ledger *ledger

	people, members, targets, ghosts []*person
	room                             string // that the first people share
	// outsider shares no room with anybody.
	outsider *person
	// second is another device of people[warrior].
	second *person

	// lastSync is when the last shape of syncs ended that changed presence.
	lastSync time.Time
	// idle is what the homeserver uses in a second when nobody asks.
	idle time.Duration
	// recording is of the way that is being played, or nil.
	recording *recording
	// warmed are the shapes that the homeserver has seen.
	warmed map[string]bool
}

// untouched is the set_presence that changes nothing for a user with this presence.
func (k kindOfHomeserver) untouched(is string) string {
	if k.offlineIsNoChange {
		return "offline"
	}
	return is
}

// warrior is the user with two devices. They are only looked at to see how the war goes.
const warrior = 1

// open starts a homeserver. Close it.
func (k kindOfHomeserver) open(ctx context.Context, out io.Writer) (*world, error) {
	server, err := k.start(ctx, homeserver.Options{Progress: out, Federation: true, Redis: k.feeds})
	if err != nil {
		return nil, err
	}
	hop, err := counting.Start(server.URL, nil)
	if err != nil {
		server.Stop()
		return nil, err
	}
	transport := &http.Transport{MaxIdleConns: 4 * workers, MaxIdleConnsPerHost: 2 * workers, DisableCompression: true}
	return &world{
		kindOfHomeserver: k, server: server, hop: hop,
		client: &http.Client{Transport: transport, Timeout: 30 * time.Second},
		ledger: newLedger(k), warmed: make(map[string]bool),
	}, nil
}

func (w *world) close() {
	w.client.CloseIdleConnections()
	w.hop.Stop()
	w.server.Stop()
}

// used is the CPU time of the homeserver so far.
func (w *world) used() (time.Duration, error) {
	usage, err := accounting.Of(w.server.PID())
	return usage.CPU(), err
}

// spends waits for a time and returns how much CPU time the homeserver used in it.
func (w *world) spends(ctx context.Context, during time.Duration) (time.Duration, error) {
	before, err := w.used()
	if err != nil {
		return 0, err
	}
	if err := wait(ctx, time.Now().Add(during)); err != nil {
		return 0, err
	}
	after, err := w.used()
	return after - before, err
}

// rests is how many times a homeserver is looked at when it is idle.
const rests = 3

// rest waits until the homeserver has done what was left to do, and measures what it uses
// when it is idle: the least of some times, because it has something left to do at others.
func (w *world) rest(ctx context.Context, measure time.Duration) error {
	// A Dendrite goes on for long with what thousands of new users left it to do.
	if err := w.calm(ctx, time.Minute); err != nil {
		return err
	}
	least := time.Duration(math.MaxInt64)
	for range rests {
		spent, err := w.spends(ctx, measure)
		if err != nil {
			return err
		}
		least = min(least, spent)
	}
	w.idle = time.Duration(float64(least) / measure.Seconds())
	return nil
}

// calm waits until the homeserver uses little, but no longer than its patience.
func (w *world) calm(ctx context.Context, patience time.Duration) error {
	const look, little = 300 * time.Millisecond, 20 * time.Millisecond
	for until := time.Now().Add(patience); time.Now().Before(until); {
		spent, err := w.spends(ctx, look)
		if err != nil {
			return err
		}
		if spent <= little+time.Duration(w.idle.Seconds()*float64(look)) {
			return nil
		}
	}
	return nil
}

// wait waits until a time.
func wait(ctx context.Context, until time.Time) error {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("waiting: %w", ctx.Err())
	case <-timer.C:
		return nil
	}
}
