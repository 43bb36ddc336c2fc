package freshness

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/accounting"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/scripted"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/traffic"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/homeserver"
)

// startSynapse makes a world of a real Synapse. Where there can be none, the
// shapes on it are skipped.
func (e *Experiment) startSynapse(ctx context.Context) error {
	targets, viewers := 0, 0
	for _, s := range e.options.SynapseShapes {
		targets, viewers = max(targets, s.Targets), max(viewers, s.Viewers)
	}
	world, err := synapseWorld(ctx, targets, viewers, homeserver.Options{Progress: e.options.Out})
	if errors.Is(err, homeserver.ErrUnavailable) {
		e.Skipped = append(e.Skipped, "shapes on a real Synapse: "+err.Error())
		return nil
	}
	if err != nil && ctx.Err() == nil {
		// A long experiment goes on without it.
		e.Problems = append(e.Problems, "shapes on a real Synapse: "+err.Error())
		return nil
	}
	e.synapse = world
	return err
}

// registered are the people of a real homeserver.
type registered map[traffic.User]homeserver.User

// ID returns a user's ID.
func (r registered) ID(u traffic.User) string { return r[u].ID }

// Token returns a user's token.
func (r registered) Token(u traffic.User) string { return r[u].AccessToken }

// synapseWorld is a real Synapse with users who share rooms such that the same of
// them see each other as on the scripted homeserver.
func synapseWorld(ctx context.Context, targets, viewers int, o homeserver.Options) (*World, error) {
	before, err := accounting.Children(os.Getpid())
	if err != nil {
		return nil, err
	}
	synapse, err := homeserver.StartSynapse(ctx, o)
	if err != nil {
		return nil, err
	}
	// It is the only process that is started meanwhile.
	after, err := accounting.Children(os.Getpid())
	started := slices.DeleteFunc(after, func(pid int) bool { return slices.Contains(before, pid) })
	if err == nil && len(started) != 1 {
		err = fmt.Errorf("finding Synapse's process: %d processes are new", len(started))
	}
	if err != nil {
		synapse.Stop()
		return nil, err
	}
	counter, err := newCounter(synapse.URL)
	if err != nil {
		synapse.Stop()
		return nil, err
	}
	people := make(registered)
	w := &World{
		Name: "Synapse", Address: counter.address, People: people,
		Counts: counter.counts,
		Usage:  func() (accounting.Usage, error) { return accounting.Of(started[0]) },
		Close: func() {
			counter.server.Close()
			synapse.Stop()
		},
		acknowledged: make([]atomic.Int64, targets),
	}
	if err := populate(ctx, synapse, people, targets, viewers); err != nil {
		w.Close()
		return nil, fmt.Errorf("making users: %w", err)
	}
	return w, nil
}

// populate registers everybody and puts them into two rooms: all viewers and the
// even targets into one, the even viewers and the odd targets into the other.
func populate(ctx context.Context, synapse *homeserver.Homeserver, people registered, targets, viewers int) error {
	client := synapse.Client()
	register := func(u traffic.User, name string) error {
		user, err := synapse.Register(ctx, name, "the password of "+name)
		people[u] = user
		return err
	}
	for t := range targets {
		if err := register(traffic.User(t), fmt.Sprintf("target%d", t)); err != nil {
			return err
		}
	}
	for v := range viewers {
		if err := register(traffic.Viewer(v), fmt.Sprintf("viewer%d", v)); err != nil {
			return err
		}
	}
	for parity := range traffic.User(min(2, targets)) {
		var created struct {
			RoomID string `json:"room_id"`
		}
		err := client.Do(ctx, http.MethodPost, "/_matrix/client/v3/createRoom", people.Token(parity),
			map[string]any{"preset": "public_chat"}, &created)
		if err != nil {
			return err
		}
		for u := range people {
			isViewer := u >= traffic.Viewer(0)
			if u == parity || !isViewer && u%2 != parity || isViewer && parity == 1 && u%2 == 1 {
				continue
			}
			err := client.Do(ctx, http.MethodPost, "/_matrix/client/v3/join/"+url.PathEscape(created.RoomID), people.Token(u), map[string]any{}, nil)
			if err != nil {
				return err
			}
		}
	}
	// Everybody's first presence, so that there is a version to read.
	conn, err := traffic.Dial(ctx, strings.TrimPrefix(synapse.URL, "http://"))
	if err != nil {
		return err
	}
	defer conn.Close()
	for t := range targets {
		write := traffic.Request{Kind: traffic.Write, Target: traffic.User(t)}
		resp, body, err := conn.Do(ctx, write.Text(people, scripted.Status(0, time.Now())))
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("writing: %s: %s", resp.Status, body)
		}
	}
	return nil
}

// counter stands between a contender and the homeserver and counts. What it costs
// is ours, and the same for all.
type counter struct {
	server  *httptest.Server
	address string

	reads, writes, whoami, other atomic.Int64
}

func newCounter(base string) (*counter, error) {
	target, err := url.Parse(base)
	if err != nil {
		return nil, err
	}
	c := new(counter)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host
		},
		Transport: &http.Transport{MaxIdleConnsPerHost: 2 * readers},
	}
	c.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/account/whoami"):
			c.whoami.Add(1)
		case !strings.Contains(r.URL.Path, "/presence/"):
			c.other.Add(1)
		case r.Method == http.MethodPut:
			c.writes.Add(1)
		default:
			c.reads.Add(1)
		}
		proxy.ServeHTTP(w, r)
	}))
	c.address = c.server.Listener.Addr().String()
	return c, nil
}

func (c *counter) counts(context.Context) (scripted.Counts, error) {
	return scripted.Counts{
		Reads: c.reads.Load(), Writes: c.writes.Load(), Whoami: c.whoami.Load(), Other: c.other.Load(),
	}, nil
}
