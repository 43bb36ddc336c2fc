package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Range is from the least to the most that is likely.
type Range struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

func (r Range) times(f float64) Range { return Range{r.Low * f, r.High * f} }

func (r Range) plus(o Range) Range { return Range{r.Low + o.Low, r.High + o.High} }

// Middle is the middle of a range.
func (r Range) Middle() float64 { return (r.Low + r.High) / 2 }

// Cost is what something costs, and where that was measured.
type Cost struct {
	Name   string
	Is     Range
	Source string
}

// Costs are what requests and entries cost. All numbers of a plan that were measured elsewhere are
// here, and docs/plan.md shows them.
type Costs struct {
	// Homeserver is CPU time in milliseconds, by work. What a list of members costs is no presence.
	Homeserver [Works]Cost
	// Own is CPU time of the module's process in microseconds, by outcome; Lookup is that of a
	// request of its own beside those of clients: a whoami, or a write that has waited.
	Own    [Outcomes]Cost
	Lookup Cost
	// Entry is heap in bytes, by table, and Process what a process has without any, in megabytes.
	Entry   [Tables]Cost
	Process Cost
}

// DefaultCosts returns those of a homeserver as they were measured: on one machine, so that a slower
// one needs more of everything.
func DefaultCosts(homeserver string) (*Costs, error) {
	works, ok := measuredWorks[homeserver]
	if !ok {
		return nil, fmt.Errorf("homeserver: costs were measured of synapse and dendrite, not of %q; choose the one that is more like it", homeserver)
	}
	return &Costs{Homeserver: works, Own: ownCosts, Lookup: lookupCost, Entry: entryCosts, Process: processCost}, nil
}

// Where the numbers are from. A range is from what the load of one shape shows to what another does:
// a homeserver spends up to twice as much on a request when few come at a time.
const (
	fromRelief      = "docs/relief.md, run of 2026-11-23: "
	fromPerformance = "docs/performance.md, run of 2026-11-23: "
)

var measuredWorks = map[string][Works]Cost{
	"synapse": {
		ServeRead:       {"read", Range{0.83, 1.75}, fromRelief + "popular targets direct, room open cold busy"},
		ApplyChange:     {"change", Range{3.6, 5.9}, fromRelief + "NAT direct less its reads, device war by PUT direct"},
		ApplyRepeat:     {"repeat", Range{1.5, 1.7}, fromRelief + "bridge direct less its reads and changes"},
		SyncChange:      {"sync_change", Range{1.8, 5.5}, fromRelief + "reconnect storm direct less its reads"},
		SyncRepeat:      {"sync_repeat", Range{0, 0.2}, fromRelief + "device war by sync direct"},
		AnswerPreflight: {"preflight", Range{0.8, 1}, fromRelief + "room open, direct and again by default"},
		TellOwner:       {"whoami", Range{0.8, 2.2}, fromRelief + "NAT and bad tokens by default, less direct"},
		RejectToken:     {"unknown_token", Range{0.8, 1.7}, fromRelief + "bad tokens direct less its reads"},
		ListMembers:     {"list", Range{}, "the same with the module and without: not counted"},
	},
	"dendrite": {
		ServeRead:       {"read", Range{0.67, 1.5}, fromRelief + "popular targets direct, room open cold busy"},
		ApplyChange:     {"change", Range{3.4, 3.9}, fromRelief + "NAT direct less its reads, device war by PUT direct"},
		ApplyRepeat:     {"repeat", Range{3.3, 3.5}, fromRelief + "bridge direct less its reads"},
		SyncChange:      {"sync_change", Range{2.3, 6.8}, fromRelief + "reconnect storm direct less its reads"},
		SyncRepeat:      {"sync_repeat", Range{0, 0.2}, fromRelief + "device war by sync direct"},
		AnswerPreflight: {"preflight", Range{0.46, 0.6}, fromRelief + "room open, direct and again by default"},
		TellOwner:       {"whoami", Range{0.34, 1.1}, fromRelief + "NAT and bad tokens by default, less direct"},
		RejectToken:     {"unknown_token", Range{1, 1.7}, fromRelief + "bad tokens direct less its reads"},
		ListMembers:     {"list", Range{}, "the same with the module and without: not counted"},
	},
}

// Of the module's own CPU time the low end is at full load, where a process handles many requests at
// a time, and the high end at a few hundred requests a second, where it wakes up for each.
var (
	ownCosts = [Outcomes]Cost{
		Hit:       {"hit", Range{33, 210}, fromPerformance + "hit; " + fromRelief + "popular targets by default"},
		Collapsed: {"collapsed", Range{33, 210}, "as a hit"},
		Miss:      {"miss", Range{116, 530}, fromPerformance + "miss; " + fromRelief + "room open cold by default"},
		Forwarded: {"forwarded", Range{129, 530}, fromPerformance + "uncached; " + fromRelief + "room open cold by default"},
		Stripped:  {"stripped", Range{131, 1000}, fromPerformance + "pass-through; " + fromRelief + "device war by sync busy"},
		Absorbed:  {"absorbed", Range{35, 410}, fromPerformance + "limited; " + fromRelief + "bridge busy"},
		Coalesced: {"coalesced", Range{35, 410}, fromPerformance + "limited; " + fromRelief + "bridge busy"},
		Limited:   {"limited", Range{35, 410}, fromPerformance + "limited; " + fromRelief + "bridge by default"},
		Rejected:  {"rejected", Range{32, 350}, fromPerformance + "refused; " + fromRelief + "bad tokens by default"},
	}
	lookupCost  = Cost{"lookup", Range{83, 320}, "a miss less a hit"}
	processCost = Cost{"process", Range{58, 80}, fromPerformance + "RSS of respond and of hit, MB"}
	entryCosts  = [Tables]Cost{
		States:      {"states", Range{429, 450}, fromPerformance + "a state"},
		Permissions: {"permissions", Range{40, 56}, fromPerformance + "a permission"},
		Identities:  {"identities", Range{158, 158}, fromPerformance + "a token whose user is known"},
		Readers:     {"readers", Range{56, 56}, fromPerformance + "a user with a budget"},
		Writers:     {"writers", Range{56, 56}, fromPerformance + "a user with a budget"},
		Syncers:     {"syncers", Range{56, 56}, fromPerformance + "a user with a budget"},
		Devices:     {"devices", Range{382, 382}, fromPerformance + "a device"},
		LastWrites:  {"last_writes", Range{56, 80}, "as a budget, with a digest"},
		RoomMembers: {"room_members", Range{250, 250}, "docs/options.md: learn { members }"},
	}
)

// Set overrides a cost: "read=1.2" or "read=1-1.5", in the unit that it has. Costs of the homeserver
// and of the module are named as in docs/plan.md.
func (c *Costs) Set(text string) error {
	name, value, ok := strings.Cut(text, "=")
	var r Range
	low, high, isRange := strings.Cut(value, "-")
	if !isRange {
		high = low
	}
	var badLow, badHigh error
	r.Low, badLow = strconv.ParseFloat(low, 64)
	r.High, badHigh = strconv.ParseFloat(high, 64)
	if !ok || badLow != nil || badHigh != nil || !(r.Low >= 0 && r.High >= r.Low && r.High <= 1e6) {
		return fmt.Errorf("cost %q: expected a name and a number, or two from low to high, such as read=0.9 or read=0.8-1.2", text)
	}
	all := c.All()
	i := slices.IndexFunc(all, func(known *Cost) bool { return known.Name == name })
	if i < 0 {
		var names []string
		for _, known := range all {
			names = append(names, known.Name)
		}
		return fmt.Errorf("cost %q: there is no %q, only %s", text, name, strings.Join(names, ", "))
	}
	all[i].Is, all[i].Source = r, "given"
	return nil
}

// All returns all costs.
func (c *Costs) All() (all []*Cost) {
	for i := range c.Homeserver {
		all = append(all, &c.Homeserver[i])
	}
	for i := range c.Own {
		all = append(all, &c.Own[i])
	}
	all = append(all, &c.Lookup)
	for i := range c.Entry {
		all = append(all, &c.Entry[i])
	}
	return append(all, &c.Process)
}

// HomeserverSeconds is the CPU time of a homeserver for what it has done.
func (c *Costs) HomeserverSeconds(did [Works]int64) (sum Range) {
	for w, n := range did {
		sum = sum.plus(c.Homeserver[w].Is.times(float64(n) / 1000))
	}
	return sum
}

// OwnSeconds is the module's CPU time for what it has done.
func (c *Costs) OwnSeconds(counts *Counts) (sum Range) {
	for k := range Kinds {
		for o := range Outcomes {
			sum = sum.plus(c.Own[o].Is.times(float64(counts.Outcomes[k][o]) / 1e6))
		}
	}
	return sum.plus(c.Lookup.Is.times(float64(counts.Upstream[ForWhoAmI]+counts.Upstream[ForDelivery]) / 1e6))
}
