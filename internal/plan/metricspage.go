package plan

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

// page is what a metrics page says: values by name and labels. The module's are added up over all its
// stores.
type page struct {
	requests map[string]float64    // by route
	outcomes map[[2]string]float64 // by route and outcome
	lookups  float64               // that named a user
	entries  map[string]float64    // by table
	began    float64               // of the process, in seconds since 1970

	ours   int    // lines of the module
	others string // the name of another's metric
}

const (
	metricPrefix = "caddy_matrix_presence_"
	// maxPage is the size in bytes of the largest page that is read.
	maxPage = 64 << 20
)

// readPage reads a page in Prometheus' text format. Lines that can't be read are left out.
func readPage(r io.Reader) (*page, error) {
	p := &page{requests: make(map[string]float64), outcomes: make(map[[2]string]float64), entries: make(map[string]float64)}
	lines := bufio.NewScanner(io.LimitReader(r, maxPage))
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		name, labels, value, ok := readSample(lines.Text())
		if !ok {
			continue
		}
		p.note(name, labels, value)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading the metrics: %w", err)
	}
	return p, nil
}

// note takes a sample in.
func (p *page) note(name string, labels map[string]string, value float64) {
	if name == "process_start_time_seconds" {
		p.began = value
	}
	short, isOurs := strings.CutPrefix(name, metricPrefix)
	if !isOurs {
		p.others = name
		return
	}
	p.ours++
	switch short {
	case "requests_total":
		p.requests[labels["route"]] += value
	case "outcomes_total":
		p.outcomes[[2]string{labels["route"], labels["outcome"]}] += value
	case "observed_total": // what would have been is what matters
		p.outcomes[[2]string{labels["route"], "observed " + labels["outcome"]}] += value
	case "lookups_total":
		if labels["result"] == "known" || labels["result"] == "by_read" {
			p.lookups += value
		}
	case "entries":
		p.entries[labels["table"]] += value
	}
}

// readSample reads a line: a name, labels in braces if there are any, and a number of at least 0.
func readSample(line string) (name string, labels map[string]string, value float64, ok bool) {
	line = strings.TrimSpace(line)
	end := strings.IndexAny(line, "{ \t")
	if end <= 0 || line[0] == '#' {
		return "", nil, 0, false
	}
	name, rest := line[:end], line[end:]
	if rest[0] == '{' {
		if labels, rest, ok = readLabels(rest[1:]); !ok {
			return "", nil, 0, false
		}
	}
	fields := strings.Fields(rest)
	if len(fields) == 0 || len(fields) > 2 {
		return "", nil, 0, false
	}
	value, err := strconv.ParseFloat(fields[0], 64)
	return name, labels, value, err == nil && value >= 0 && !math.IsInf(value, 0)
}

// readLabels reads what stands between braces, and returns what follows.
func readLabels(text string) (labels map[string]string, rest string, ok bool) {
	labels = make(map[string]string)
	for {
		text = strings.TrimLeft(text, " ,\t")
		if after, closed := strings.CutPrefix(text, "}"); closed {
			return labels, after, true
		}
		name, after, found := strings.Cut(text, "=")
		if !found {
			return nil, "", false
		}
		quoted, err := strconv.QuotedPrefix(strings.TrimLeft(after, " "))
		if err != nil || quoted[0] != '"' {
			return nil, "", false
		}
		value, err := strconv.Unquote(quoted)
		if err != nil {
			return nil, "", false
		}
		labels[strings.TrimSpace(name)] = value
		text = strings.TrimLeft(after, " ")[len(quoted):]
	}
}

// FromMetrics answers a question about the load that a metrics page of the module tells of. The page was made at a
// time; over is the time in which its counters were counted, or 0 for as long as its process ran. What a page
// doesn't tell is of the question's load.
func (q *Question) FromMetrics(ctx context.Context, r io.Reader, made time.Time, over time.Duration) (*Answer, error) {
	p, err := readPage(r)
	if err != nil {
		return nil, err
	}
	if over, err = p.counted(made, over); err != nil {
		return nil, err
	}
	hits, err := p.describe(&q.Load, over, q.Settings)
	if err != nil {
		return nil, err
	}
	if err := q.fit(ctx, hits, p.requests["read"]/over.Seconds()); err != nil {
		return nil, err
	}
	a, err := q.Estimate(ctx)
	if err != nil {
		return nil, err
	}
	a.Source = "metrics page"
	a.Assumptions = append([]string{fmt.Sprintf("the load is the mean of %v, as the metrics page says, and not that of the busiest hour; %s",
		over.Round(time.Second), "how many devices are in use is guessed by how often the homeserver was asked whose a token is")}, a.Assumptions...)
	return a, nil
}

// counted returns the time in which the counters of a page were counted.
func (p *page) counted(made time.Time, over time.Duration) (time.Duration, error) {
	switch {
	case p.ours == 0 && p.others == "":
		return 0, errors.New("it is no metrics page in Prometheus' text format; presence-plan reads http://localhost:2019/metrics, or a file with the same, or an access log")
	case p.ours == 0:
		return 0, fmt.Errorf("it has no metrics of matrix_presence but others, such as %s: give the page of the Caddy with the module, http://localhost:2019/metrics", p.others)
	case over > 0:
		return over, nil
	case p.began == 0:
		return 0, errors.New("it doesn't say when its process began: give --over, the time in which its counters were counted, such as 24h")
	}
	whole, part := math.Modf(p.began)
	if p.began < 1e11 {
		over = made.Sub(time.Unix(int64(whole), int64(part*1e9)))
	}
	if over < time.Minute || over > 10*365*24*time.Hour {
		return 0, fmt.Errorf("by its file's time, its process had run for %v: give --over, the time in which its counters were counted, such as 24h", over.Round(time.Second))
	}
	return over, nil
}

// describe makes a description of what a page says, and returns the share of reads that weren't asked for. Of who
// asks there is no more than how often the homeserver was asked whose a token is.
func (p *page) describe(l *Load, over time.Duration, s *gateway.Settings) (hits float64, err error) {
	seconds := over.Seconds()
	reads, writes := p.requests["read"]/seconds, p.requests["write"]/seconds
	if reads+writes == 0 {
		return 0, errors.New("it counts no reads and no writes of presence: there is nothing to plan for, or nothing passes the module")
	}
	// A device that is in use costs a lookup as often as what is known of its token ends.
	tokens := max(1, p.entries["identities"])
	devices := min(max(1, p.lookups/seconds*s.Lifetimes.Identity.Seconds()), tokens)
	if l.Users == 0 {
		l.Users = int(min(max(2, tokens), MaxUsers))
	}
	l.Devices, l.Online = 1, min(1, devices/float64(l.Users))
	l.Session = Duration(2 * time.Hour)
	perHour := 3600 / (float64(l.Users) * l.Online)
	for i := range l.Rooms {
		l.Rooms[i].Size = max(2, min(l.Rooms[i].Size, l.Users))
	}
	// So many writes are a bridge's.
	const busiest = 120
	l.Writes = min(writes*perHour, 3600)
	if ghosts := int(min(p.entries["writers"], MaxUsers)); l.Writes > busiest && ghosts > 0 {
		l.Writes = 0
		every := time.Duration(float64(ghosts) / writes * float64(time.Second))
		l.Bridges = []Bridge{{ghosts, Duration(max(10*time.Millisecond, every)), Duration(max(time.Minute, every))}}
	}
	l.Opens = min(reads*perHour/max(1, l.looksEach()), 3600)
	if reads > 0 {
		l.Browsers = min(1, p.requests["preflight"]/seconds/reads)
	}
	if syncs := p.requests["sync"] / seconds; syncs > 0 {
		l.SyncEvery = Duration(min(max(0.1, float64(l.Users)*l.Online/syncs), 3600) * float64(time.Second))
	}
	return p.hits(), nil
}

// hits is the share of reads that weren't asked for, or in mode observe would not have been.
func (p *page) hits() float64 {
	of := func(outcomes ...string) (n float64) {
		for _, o := range outcomes {
			n += p.outcomes[[2]string{"read", o}]
		}
		return n
	}
	observed := of("observed hit", "observed miss", "observed bypass", "observed limited")
	if observed > 0 {
		return of("observed hit") / observed
	}
	return of("hit", "collapsed") / max(1, p.requests["read"])
}

// looksEach is how many members a device asks for when it opens a room, on average.
func (l *Load) looksEach() float64 {
	rooms, looks := 0.0, 0.0
	for _, r := range l.Rooms {
		rooms += r.PerUser
		looks += r.PerUser * float64(min(l.Looks, r.Size-1))
	}
	if rooms == 0 {
		return 0
	}
	return looks / rooms
}

// fit finds how often clients must ask again for so many hits as there were, and how many rooms they open for
// so many reads a second: it tries, with a small part of the server, and takes the best. Hits go by leaps: whether a
// client asks two or three times within a ttl.
func (q *Question) fit(ctx context.Context, hits, reads float64) error {
	const tries, fewRequests = 8, 200_000
	rounds := func(poll float64) float64 { return math.Ceil(q.Load.Shown.seconds() / poll) }
	opens := q.Load.Opens
	if hits < hitError || opens == 0 {
		q.Load.Poll = 0
		return nil
	}
	try := *q
	try.Requests, try.Progress, try.Blocks = fewRequests, nil, 0
	least := math.Inf(1)
	low, high := 1.0, 120.0 // seconds: many hits, and few
	for range tries {
		poll := math.Sqrt(low * high)
		try.Load.Poll, try.Load.Opens = Duration(poll*float64(time.Second)), opens/rounds(poll)
		r, err := try.simulate(ctx)
		if err != nil {
			return err
		}
		all := Counts{}
		for i := range r.samples {
			all.add(r.samples[i])
		}
		got, read := all.HitRatio(), r.rate(func(c *Counts) float64 { return float64(c.Clients[Read]) }).Middle()
		if off := math.Abs(got - hits); off < least && read > 0 {
			least = off
			q.Load.Poll, q.Load.Opens = try.Load.Poll, min(try.Load.Opens*reads/read, 3600)
		}
		if got < hits {
			high = poll
		} else {
			low = poll
		}
	}
	return nil
}
