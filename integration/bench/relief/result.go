package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/counting"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/plan"
)

// Result is one phase of a shape on one homeserver, by one way.
type Result struct {
	Homeserver string
	Shape      string
	Key        string
	Phase      string
	What       string
	Way        string

	Requests int
	Reads    int
	Seconds  float64
	// Upstream is what reached the homeserver.
	Upstream counting.Counts

	// HomeserverCPU is what its process used, in seconds, and IdleCPU what it would have used
	// with nothing to do. OtherCPU is what the same requests cost without any change of
	// presence, idling included, where they do more than presence.
	HomeserverCPU float64
	IdleCPU       float64
	OtherCPU      *float64
	SidecarCPU    float64
	GeneratorCPU  float64

	P50 float64
	P99 float64

	// MessageP99 is that of messages, in milliseconds, after the first seconds, and OtherMessageP99 that
	// without presence, with as much for the machine to do beside.
	MessageP99, OtherMessageP99 *float64

	// Errors are statuses other than 200 and 204. Limited are the 429s among them of who did
	// nothing wrong.
	Errors  map[string]int
	Limited int
	// Late are presences that are seen late as documented: those that syncs changed, for the
	// ttl, by default.
	Late     int
	Wrong    map[verdict]int
	Examples []string

	// FinalMillis is how long after its write's answer the last state of a device war was
	// seen by the way, FinalDirectMillis how long until the homeserver itself had it.
	FinalMillis       *float64
	FinalDirectMillis *float64
	// Seen is how long after the answer to a sync the change that it made was first seen.
	Seen *quantiles
	// WhoamiBound is how many questions whose token it is there may be.
	WhoamiBound *int

	// Target is the share of PresenceCPU that has to be saved with the busy profile, or 0.
	Target float64
	// Predicted is what presence-plan's simulation says, of the ways that it knows.
	Predicted    *predicted
	PredictedCPU *plan.Range // CPU time of the homeserver for presence, in seconds

	// Saved is the share that was saved compared with direct. It is left out where that is
	// too little to tell.
	Saved *float64
}

// PresenceCPU is what presence cost the homeserver, in seconds.
func (r Result) PresenceCPU() float64 {
	if r.OtherCPU != nil {
		return r.HomeserverCPU - *r.OtherCPU
	}
	return r.HomeserverCPU - r.IdleCPU
}

// telling returns what presence cost the homeserver, and whether that is enough to compare
// with: ten ticks of the clock that it is measured by, and a tenth of all that it did. Two runs of the same differ by as much.
func (r Result) telling() (cost float64, ok bool) {
	const ticks = 0.1
	share := 0.1
	if r.OtherCPU != nil {
		share = 0.2 // it is a difference of two runs
	}
	cost = r.PresenceCPU()
	return cost, cost >= max(ticks, share*r.HomeserverCPU)
}

// wrong is how many answers were.
func (r Result) wrong() (n int) {
	for _, of := range r.Wrong {
		n += of
	}
	return n
}

// sortByPhase puts the ways of a phase side by side. What was measured first stays so.
func sortByPhase(results []Result) {
	type part struct{ homeserver, key, phase string }
	of := func(r Result) part { return part{r.Homeserver, r.Key, r.Phase} }
	place := make(map[part]int)
	for i, r := range results {
		if _, ok := place[of(r)]; !ok {
			place[of(r)] = i
		}
	}
	slices.SortStableFunc(results, func(a, b Result) int { return place[of(a)] - place[of(b)] })
}

// relate fills in what has to be known of other ways of the same phase.
func relate(results []Result) {
	same := func(a, b Result) bool {
		return a.Homeserver == b.Homeserver && a.Key == b.Key && a.Phase == b.Phase
	}
	for i := range results {
		for _, other := range results {
			if same(results[i], other) && other.Way == quiet.name {
				cost := other.HomeserverCPU / other.Seconds * results[i].Seconds
				results[i].OtherCPU = &cost
			}
			if same(results[i], other) && other.Way == beside.name {
				results[i].OtherMessageP99 = other.MessageP99
			}
		}
	}
	for i := range results {
		for _, other := range results {
			if r := &results[i]; same(*r, other) && other.Way == direct.name && r.Way != direct.name && r.Way != quiet.name {
				// Less than nothing is the clock's.
				r.predictCPU(other)
				if whole, ok := other.telling(); ok {
					saved := 1 - max(0, r.PresenceCPU())/whole
					r.Saved = &saved
				}
			}
		}
	}
}

// met says whether the targets are met that hold for this way, and which there are.
func (r Result) met() (words []string, ok bool) {
	ok = true
	say := func(is bool, format string, args ...any) {
		word := fmt.Sprintf(format, args...)
		if !is {
			ok, word = false, word+": no"
		}
		words = append(words, word)
	}
	switch target := fmt.Sprintf("≥ %.0f %% saved", 100*r.Target); {
	case r.Target == 0 || r.Way != busyWay.name:
	case r.Saved == nil:
		words = append(words, target+": too little to tell")
	default:
		say(*r.Saved >= r.Target, "%s", target)
	}
	if r.FinalMillis != nil && r.Way == busyWay.name {
		say(*r.FinalMillis <= 1000, "final state in 1 s")
	}
	if r.Way != direct.name && (r.Key == nat.key || r.Key == badTokens.key) {
		say(r.Limited == 0, "no 429 to the honest")
	}
	if r.Way == brownWay.name && r.MessageP99 != nil && r.OtherMessageP99 != nil {
		say(*r.MessageP99 <= 1.1**r.OtherMessageP99, "messages ≤ 1.1 × as long as without presence")
	}
	if r.Way == fedWay.name && r.Seen != nil {
		say(r.Seen.p99 <= 1000, "changes seen in 1 s (p99)")
	}
	if r.WhoamiBound != nil {
		say(r.Upstream.Whoami <= int64(*r.WhoamiBound), "whoami ≤ %d", *r.WhoamiBound)
	}
	for _, wrong := range slices.Concat(r.foreseen(), r.foreseenCPU()) {
		say(false, "%s", wrong)
	}
	if r.wrong() > 0 && !isPeer(r.Way) && r.Way != unrelieved.name {
		say(false, "0 wrong")
	}
	return words, ok
}

// problems are the targets that are not met, each with what it is about.
func problems(results []Result) (list []string) {
	for _, r := range results {
		if words, ok := r.met(); !ok {
			missed := slices.DeleteFunc(words, func(w string) bool { return !strings.HasSuffix(w, ": no") })
			list = append(list, fmt.Sprintf("%s, %s, %s: %s", r.Homeserver, r.title(), r.Way, strings.Join(missed, ", ")))
			for _, e := range r.Examples {
				list = append(list, "  for example "+e)
			}
		}
	}
	return list
}

// title names what was measured.
func (r Result) title() string {
	if r.Phase == "" {
		return r.Shape
	}
	return r.Shape + ", " + r.Phase
}

// listed writes counts as "429 × 12, 401 × 3".
func listed[K ~string](counts map[K]int) string {
	var words []string
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		words = append(words, fmt.Sprintf("%s × %d", what, counts[what]))
	}
	if len(words) == 0 {
		return "–"
	}
	return strings.Join(words, ", ")
}
