package freshness

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/accounting"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/counting"
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
	synapse, err := homeserver.StartSynapse(ctx, o)
	if err != nil {
		return nil, err
	}
	counter, err := counting.Start(synapse.URL)
	if err != nil {
		synapse.Stop()
		return nil, err
	}
	people := make(registered)
	w := &World{
		Name: "Synapse", Address: counter.Address, People: people,
		Counts: func(context.Context) (scripted.Counts, error) {
			c := counter.Counts()
			other := c.All() - c.Reads - c.Writes - c.Whoami
			return scripted.Counts{Reads: c.Reads, Writes: c.Writes, Whoami: c.Whoami, Other: other}, nil
		},
		Usage: func() (accounting.Usage, error) { return accounting.Of(synapse.PID()) },
		Close: func() {
			counter.Stop()
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
