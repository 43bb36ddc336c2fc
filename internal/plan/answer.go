package plan

import (
	"fmt"
	"math"
	"time"
)

// Answer is what a plan says. Rates are in a second, in the busiest hour. In JSON it is documented in
// docs/plan.md.
type Answer struct {
	Profile    string `json:"profile"`
	Homeserver string `json:"homeserver"`
	Nodes      int    `json:"nodes"`
	Source     string `json:"source"` // "described", or what the load is from
	Load       *Load  `json:"load,omitempty"`

	Log *LogCounts `json:"log,omitempty"` // the lines that were read, of an access log

	Simulated Simulated `json:"simulated"`

	// Clients are requests of clients by kind; Outcomes what becomes of them.
	Clients  map[string]Range            `json:"client_requests_per_second"`
	Outcomes map[string]map[string]Range `json:"outcomes_per_second"`

	// Without and With are requests for presence that reach the homeserver, syncs and lists aside: those do
	// in any case. Upstream is With by reason, and the syncs and lists.
	Without  Range            `json:"presence_requests_per_second_without"`
	With     Range            `json:"presence_requests_per_second_with"`
	Upstream map[string]Range `json:"upstream_requests_per_second"`
	HitRatio Range            `json:"hit_ratio"`

	// CPU time of the homeserver for presence, in cores, and the share of it that is saved.
	CPUWithout Range `json:"homeserver_cores_without"`
	CPUWith    Range `json:"homeserver_cores_with"`
	Saved      Range `json:"homeserver_cores_saved_share"`

	// Own is the module's, of all nodes together. NodesNeeded is how many nodes of so many cores it
	// takes to be half busy at most. Memory is that of a node's process.
	Own         Range `json:"own_cores"`
	NodesNeeded Range `json:"nodes_needed"`
	Memory      Range `json:"memory_mb_per_node"`

	Tables []TableUse `json:"tables"`

	Evicted    Range `json:"evictions_per_second"`
	Overflowed Range `json:"limiter_overflows_per_second"`

	Advice      []string `json:"advice"`
	Assumptions []string `json:"assumptions"`
}

// Simulated is how much was.
type Simulated struct {
	Users    int     `json:"users"`
	Share    float64 `json:"share"`
	Seconds  float64 `json:"seconds"` // of virtual time, that were counted
	Requests int64   `json:"requests"`
}

// TableUse is how full a table of each node is.
type TableUse struct {
	Name string `json:"name"`
	Used Range  `json:"entries"` // the high end is after a long time
	Size int    `json:"size"`
}

const (
	// modelError is how far the requests that were predicted may be from those that were measured,
	// and hitError the same of the hit ratio: what the comparison with relief allows.
	modelError, hitError = 0.05, 0.02

	// halfBusy is how busy a node may be on average: an hour has busier minutes.
	halfBusy = 0.5
)

// presenceRequests are those that reach the homeserver only for presence.
func presenceRequests(c *Counts) (n float64) {
	for reason, of := range c.Upstream {
		if Reason(reason) != ForSync && Reason(reason) != ForList {
			n += float64(of)
		}
	}
	return n
}

func (q *Question) answer(r *result) *Answer {
	a := &Answer{
		Profile: q.Profile, Homeserver: q.Homeserver, Nodes: q.Nodes, Source: "described", Load: &q.Load,
		Tables: []TableUse{}, Clients: make(map[string]Range), Outcomes: make(map[string]map[string]Range), Upstream: make(map[string]Range),
	}
	a.Simulated = Simulated{Users: int(math.Round(r.share * float64(q.Load.Users))), Share: r.share, Seconds: float64(len(r.samples)) / float64(r.simulated) * r.window.Seconds()}
	for i := range r.samples {
		a.Simulated.Requests += r.samples[i].Requests()
	}
	a.addRequests(r)
	a.addCPU(q, r)
	a.addTables(q, r)
	a.Advice, a.Assumptions = append([]string{}, q.advice(a)...), q.assumptions()
	return a
}

func (a *Answer) addRequests(r *result) {
	for k := range Kinds {
		a.Clients[KindNames[k]] = r.rate(func(c *Counts) float64 { return float64(c.Clients[k]) })
		a.Outcomes[KindNames[k]] = make(map[string]Range)
		for o := range Outcomes {
			if rate := r.rate(func(c *Counts) float64 { return float64(c.Outcomes[k][o]) }); rate.High > 0 {
				a.Outcomes[KindNames[k]][OutcomeNames[o]] = rate
			}
		}
	}
	for reason := range Reasons {
		rate := r.rate(func(c *Counts) float64 { return float64(c.Upstream[reason]) })
		if reason != ForSync && reason != ForList {
			rate = rate.within(modelError)
		}
		a.Upstream[ReasonNames[reason]] = rate
	}
	a.Without = r.rate(func(c *Counts) float64 { return float64(c.Clients[Read] + c.Clients[Write] + c.Clients[Preflight]) })
	a.With = r.rate(presenceRequests).within(modelError)
	hits := r.mean(1, func(c *Counts) float64 { return c.HitRatio() })
	if a.Clients[KindNames[Read]].High > 0 {
		a.HitRatio = Range{max(0, hits.Low-hitError), min(1, hits.High+hitError)}
	}
	a.Evicted = r.rate(func(c *Counts) float64 { return float64(c.Evicted) })
	a.Overflowed = r.rate(func(c *Counts) float64 { return float64(c.Overflowed) })
}

// within makes a range wider by a share.
func (r Range) within(share float64) Range { return Range{r.Low * (1 - share), r.High * (1 + share)} }

func (a *Answer) addCPU(q *Question, r *result) {
	between := func(of func(c *Counts) Range) Range {
		low := r.rate(func(c *Counts) float64 { return of(c).Low })
		high := r.rate(func(c *Counts) float64 { return of(c).High })
		return Range{low.Low, high.High}
	}
	with := func(c *Counts) Range { return q.Costs.HomeserverSeconds(c.With) }
	without := func(c *Counts) Range { return q.Costs.HomeserverSeconds(c.Without) }
	a.CPUWithout, a.CPUWith = between(without), between(with).within(modelError)
	// The same machine does both: cheap with cheap, dear with dear. What is left has fewer requests at
	// a time, and each may cost more.
	var least, most [2]float64
	for i := range r.samples {
		before, after := without(&r.samples[i]), with(&r.samples[i])
		least[0], least[1] = least[0]+after.Low, least[1]+before.Low
		most[0], most[1] = most[0]+after.High, most[1]+before.High
	}
	if least[1] > 0 && most[1] > 0 {
		one, other := 1-least[0]/least[1], 1-most[0]/most[1]
		a.Saved = Range{min(one, other) - modelError, min(1, max(one, other)+modelError)}
	}
	a.Own = between(func(c *Counts) Range { return q.Costs.OwnSeconds(c) })
	// A process that is busy handles many requests at a time: what it costs then decides.
	cores := func(cost float64) float64 { return math.Max(1, math.Ceil(cost/halfBusy/float64(q.Cores))) }
	const spread = 1.5 // of the cost at full load, between runs of docs/performance.md
	a.NodesNeeded = Range{cores(a.Own.Low), cores(a.Own.Low * spread)}
}

// longRun is how many entries there can be at most in each table, however long it takes.
func (l *Load) longRun() (n [Tables]float64) {
	all := float64(l.Users + l.Ghosts())
	seen := 0.0
	for _, r := range l.Rooms {
		seen += r.PerUser * float64(r.Size-1)
	}
	tokens := float64(l.Users)*math.Ceil(l.Devices) + float64(l.Ghosts())
	n[States], n[Permissions] = all, float64(l.Users)*min(seen, all)
	n[Identities], n[Devices], n[LastWrites], n[RoomMembers] = tokens, tokens, all, all
	return n
}

func (a *Answer) addTables(q *Question, r *result) {
	s := q.Settings.Sizes
	sizes := [Tables]int{
		States: s.States, Permissions: s.Permissions + s.Permissions/8, Identities: s.Tokens + s.Tokens/8,
		Readers: s.Tokens, Writers: s.Tokens, Syncers: s.Tokens, Devices: s.Tokens, LastWrites: s.Tokens, RoomMembers: s.Rooms,
	}
	most := q.Load.longRun()
	const megabyte = 1e6
	least, full := 0.0, 0.0
	for t := range Tables {
		used := r.entries[t] / r.share / float64(q.Nodes)
		if used == 0 {
			continue
		}
		size := float64(sizes[t])
		use := Range{min(used, size), min(max(used, most[t]), size)}
		a.Tables = append(a.Tables, TableUse{TableNames[t], use, sizes[t]})
		least += use.Low * q.Costs.Entry[t].Is.Low / megabyte
		full += use.High * q.Costs.Entry[t].Is.High / megabyte
	}
	const garbage = 2 // GOGC=100
	a.Memory = Range{q.Costs.Process.Is.Low + least, q.Costs.Process.Is.High + garbage*full}
}

// assumptions are what an answer depends on and the question may have left out.
func (q *Question) assumptions() (list []string) {
	l := &q.Load
	say := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	say("the busiest hour: %.3g %% of %d users online at a time, for %v, with %.3g devices each", 100*l.Online, l.Users, time.Duration(l.Session), l.Devices)
	for _, r := range l.Rooms {
		say("each user is in %.3g rooms of %d members, all of this server", r.PerUser, r.Size)
	}
	again := "asks once"
	if l.Poll > 0 {
		again = fmt.Sprintf("asks again each %v for %v", time.Duration(l.Poll), time.Duration(l.Shown))
	}
	say("a device opens %.3g rooms an hour, asks for up to %d members and %s; %.3g %% get the list of members first", l.Opens, l.Looks, again, 100*l.Lists)
	say("%.3g %% of devices are browsers, with a preflight before each read", 100*l.Browsers)
	say("a device writes %.3g times an hour, %.3g %% of that changes", l.Writes, 100*l.Changes)
	say("a device syncs each %v, and goes idle or comes back %.3g times an hour", time.Duration(l.SyncEvery), l.Idles)
	for _, b := range l.Bridges {
		say("a bridge of %d ghosts: a write of each every %v, a change every %v", b.Ghosts, time.Duration(b.Every), time.Duration(b.Changes))
	}
	return append(list, q.alwaysAssumed()...)
}

// alwaysAssumed is what is assumed of any load that is described.
func (q *Question) alwaysAssumed() (list []string) {
	say := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	if q.Nodes > 1 {
		say("%d nodes share budgets and hear of each other's writes; all that comes of a device goes to the same node", q.Nodes)
	}
	say("people look at those with whom they share a room, and may see them; tokens are good; nothing fails, and nobody tries tokens")
	if q.Settings.Learn {
		say("what syncs tell of others is not learned from here, only lists of members; tokens of %s are as it makes them by itself", q.Homeserver)
	}
	return append(list, costsAssumed)
}

const costsAssumed = "costs were measured on 2 cores of AMD EPYC: a slower machine needs more of everything, and yours may differ; " +
	"TLS, access logs and all that is no presence are not in it"
