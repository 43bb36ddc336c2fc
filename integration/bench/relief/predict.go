package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/report"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/plan"
)

// recording is all that clients sent during a shape by one way: who asked whom, and when. It is
// played again by presence-plan's simulation, which knows the way's configuration and nothing of what
// was measured.
type recording struct {
	base string // of the way

	mu    sync.Mutex // guards all below
	begun time.Time
	lines []recorded
}

// recorded is a request, with what a write says.
type recorded struct {
	request
	sent      time.Time
	direct    bool // it didn't take the way
	statusMsg string
}

// newRecording returns one of a way with a profile, else nil.
func newRecording(profile, base string) *recording {
	if profile == "" {
		return nil
	}
	return &recording{base: base, begun: time.Now()}
}

// note notes a request that is being sent. A nil recording doesn't.
func (rec *recording) note(base string, r request, statusMsg string) {
	if rec == nil {
		return
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.lines = append(rec.lines, recorded{r, time.Now(), base != rec.base, statusMsg})
}

// span is a part of a recording that was measured.
type span struct{ begin, end time.Time }

// predicted is what the simulation says of a phase.
type predicted struct {
	upstream int64
	hits     float64 // share of reads

	// with and without are the homeserver's CPU time for presence in seconds, with the module and
	// without it, as the costs in internal/plan have it.
	with, without plan.Range
	lists         bool // of members were among the requests
}

// profileOf is the simulation's name of a way's configuration, or "".
func profileOf(w way) string {
	switch w.name {
	case byDefault.name:
		return "default"
	case busyWay.name:
		return "busy"
	}
	return ""
}

// predictResults notes what is predicted of the phases of a shape. A nil recording predicts nothing.
func (rec *recording) predictResults(w *world, profile string, spans []span, results []Result) error {
	if rec == nil {
		return nil
	}
	each, err := rec.predict(w, profile, spans)
	if err != nil {
		return fmt.Errorf("predicting: %w", err)
	}
	for i := range each {
		results[i].Predicted = &each[i]
	}
	return nil
}

// readsOf is how many reads there are in a schedule.
func readsOf(requests []request) (n int) {
	for _, r := range requests {
		if r.kind == read {
			n++
		}
	}
	return n
}

// predict plays a recording, and returns what happened in each span.
func (rec *recording) predict(w *world, profile string, spans []span) (each []predicted, err error) {
	settings, err := plan.Profile(profile)
	if err != nil {
		return nil, err
	}
	homeserver := strings.ToLower(w.name)
	costs, err := plan.DefaultCosts(homeserver)
	if err != nil {
		return nil, err
	}
	p, err := plan.NewPlayer(plan.Script{
		Settings: settings, Homeserver: homeserver, Nodes: 1,
		Sees: func(viewer, target string) bool {
			return !w.hides || viewer == target || viewer != w.outsider.id && target != w.outsider.id
		},
		Members: func(string) []string { return idsOf(w.roommates()) },
	})
	if err != nil {
		return nil, err
	}
	lines := slices.Clone(rec.lines)
	slices.SortStableFunc(lines, func(a, b recorded) int { return a.sent.Compare(b.sent) })
	counted := make([]plan.Counts, 0, 2*len(spans)) // at the edges of the spans
	var edges []time.Time
	for _, s := range spans {
		edges = append(edges, s.begin, s.end)
	}
	for _, line := range lines {
		for len(counted) < len(edges) && !line.sent.Before(edges[len(counted)]) {
			counted = append(counted, p.Until(edges[len(counted)].Sub(rec.begun)))
		}
		if r, ok := line.simulated(p, rec.begun, w.dialect()); ok && line.direct {
			p.AtHomeserver(r)
		} else if ok {
			p.Play(r)
		}
	}
	for len(counted) < len(edges) {
		counted = append(counted, p.Until(edges[len(counted)].Sub(rec.begun)))
	}
	for i := range spans {
		c := counted[2*i+1].Since(counted[2*i])
		each = append(each, predicted{
			upstream: c.ToHomeserver(), hits: 1 - float64(c.Upstream[plan.ForFetch]+c.Upstream[plan.ForFirstRead])/max(1, float64(c.Clients[plan.Read])),
			with: costs.HomeserverSeconds(c.With), without: costs.HomeserverSeconds(c.Without), lists: c.Clients[plan.List] > 0,
		})
	}
	return each, nil
}

// simulated is a request as the simulation has it; messages have nothing to do with presence.
func (l recorded) simulated(p *plan.Player, begun time.Time, dialect matrix.Dialect) (r plan.Request, ok bool) {
	const pollTime = 5 * time.Millisecond // of a sync that waits for nothing
	r = plan.Request{At: l.sent.Sub(begun), StatusMsg: l.statusMsg}
	if l.token != "" {
		r.By = p.Stranger(l.token, l.from)
	} else {
		r.By = p.Device(l.by.id, l.by.token, l.by.ghost)
		r.By.Address = l.from
	}
	switch l.kind {
	case read:
		r.Kind, r.Target = plan.Read, p.User(l.of)
	case write:
		r.Kind, r.Presence = plan.Write, matrix.ParsePresence(l.presence)
	case sync_:
		r.Kind, r.Presence, r.Lasts = plan.Sync, dialect.SyncPresence(l.presence), pollTime
	case preflight:
		r.Kind, r.Target = plan.Preflight, p.User(l.of)
	case list:
		r.Kind, r.Room = plan.List, l.of
	default:
		return r, false
	}
	return r, true
}

// dialect is what the homeserver makes of presence.
func (w *world) dialect() matrix.Dialect {
	if w.merges {
		return matrix.Synapse
	}
	return matrix.Dendrite
}

// roommates are all who are in the first room.
func (w *world) roommates() []*person {
	return slices.Concat(w.people[:min(roomSize, len(w.people))], w.targets, w.ghosts)
}

func idsOf(people []*person) (ids []string) {
	for _, p := range people {
		ids = append(ids, p.id)
	}
	return ids
}

// How far a prediction may be from what was measured: requests that reached the homeserver by a share, and by
// a few that are nobody's in particular; the share of hits; and CPU time by a share, and ten ticks.
const (
	upstreamShare, upstreamFew = 0.05, 5
	hitsOff                    = 0.02
	cpuShare, ticks            = 0.20, 0.1
)

// hits is the share of a phase's reads that didn't cost the homeserver one.
func (r Result) hits() (share float64, ok bool) {
	if r.Reads == 0 {
		return 0, false
	}
	return 1 - float64(r.Upstream.Reads)/float64(r.Reads), true
}

// foreseen says what of a prediction was wrong.
func (r Result) foreseen() (wrong []string) {
	if r.Predicted == nil {
		return nil
	}
	was, said := float64(r.Upstream.All()), float64(r.Predicted.upstream)
	if math.Abs(said-was) > upstreamShare*was+upstreamFew {
		wrong = append(wrong, fmt.Sprintf("%.0f requests upstream were predicted, %.0f came", said, was))
	}
	if hits, ok := r.hits(); ok && math.Abs(r.Predicted.hits-hits)*float64(r.Reads) > hitsOff*float64(r.Reads)+upstreamFew {
		wrong = append(wrong, fmt.Sprintf("%.0f %% hits were predicted, there were %.0f %%", 100*r.Predicted.hits, 100*hits))
	}
	return wrong
}

// foreseenCPU says what of a prediction of CPU time was wrong.
func (r Result) foreseenCPU() (wrong []string) {
	if cpu := r.PredictedCPU; cpu != nil {
		if was := r.PresenceCPU(); was > 0 && (was < cpu.Low*(1-cpuShare)-ticks || was > cpu.High*(1+cpuShare)+ticks) {
			wrong = append(wrong, fmt.Sprintf("%.2f to %.2f s of CPU time were predicted, it took %.2f", cpu.Low, cpu.High, was))
		}
	}
	return wrong
}

// predictCPU notes the homeserver's CPU time for presence as predicted: the costs in internal/plan, by the
// measure of what the same phase has cost directly on this machine. What lists of members cost isn't known.
func (r *Result) predictCPU(direct Result) {
	cost, telling := direct.telling()
	if r.Predicted == nil || !telling || r.Predicted.without.Middle() == 0 || r.Predicted.lists {
		return
	}
	scale := cost / r.Predicted.without.Middle()
	r.PredictedCPU = &plan.Range{Low: r.Predicted.with.Low * scale, High: r.Predicted.with.High * scale}
}

// predictions is the table of what was predicted beside what was measured.
func (r *measured) predictions() report.Table {
	t := report.Table{
		Name: "relief-predicted", Title: "What presence-plan predicts of these shapes, and what was measured",
		Columns: []string{"<homeserver", "<shape", "<way", "upstream", "predicted", "hits", "predicted", "CPU s for presence", "predicted"},
	}
	for i := range r.results {
		m := &r.results[i]
		if m.Predicted == nil {
			continue
		}
		hits, saidHits, cpu := "", "", ""
		if share, ok := m.hits(); ok {
			hits, saidHits = fmt.Sprintf("%.0f %%", 100*share), fmt.Sprintf("%.0f %%", 100*m.Predicted.hits)
		}
		if m.PredictedCPU != nil {
			cpu = fmt.Sprintf("%.2f–%.2f", m.PredictedCPU.Low, m.PredictedCPU.High)
		}
		t.Rows = append(t.Rows, []string{
			m.Homeserver, m.title(), m.Way, fmt.Sprint(m.Upstream.All()), fmt.Sprint(m.Predicted.upstream), hits, saidHits,
			fmt.Sprintf("%.2f", m.PresenceCPU()), cpu,
		})
	}
	return t
}
