package plan

import (
	"container/heap"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

const (
	// maxWaiting is how many lines wait to be put in order.
	maxWaiting = 1 << 18
	// maxRefused is how many pairs are known in which the homeserver has refused one to the other.
	maxRefused = 1 << 18
)

// byBegin orders entries by when they began.
type byBegin []entry

func (b byBegin) Len() int           { return len(b) }
func (b byBegin) Less(i, j int) bool { return b[i].begun.Before(b[j].begun) }
func (b byBegin) Swap(i, j int)      { b[i], b[j] = b[j], b[i] }
func (b *byBegin) Push(e any)        { *b = append(*b, e.(entry)) } //nolint:forcetypeassert // of ours
func (b *byBegin) Pop() any {
	last := len(*b) - 1
	e := (*b)[last]
	*b = (*b)[:last]
	return e
}

// LogCounts are the lines of an access log.
type LogCounts struct {
	Lines int64 `json:"lines"`
	// Used are those about presence, Other those about something else, Bad those that can't be read.
	Used  int64 `json:"used"`
	Other int64 `json:"other"`
	Bad   int64 `json:"bad"`
}

// replay is an access log that is being played.
type replay struct {
	q       *Question
	player  *Player
	refused map[[2]string]bool
	waiting byBegin
	counted LogCounts
	late    int64     // lines that should have come long before
	begun   time.Time // the first request
	latest  time.Time // the latest end
	at      time.Duration
	step    time.Duration
	edges   []Counts // at the end of each step
	clients map[uint64]string
}

const (
	// firstStep is after which time the counts are taken. When there are maxSteps, every second is dropped, and
	// the step is twice as long from then on.
	firstStep = 10 * time.Second
	maxSteps  = 4096
	// maxLogUsers is how many users and clients a log may have.
	maxLogUsers = 2_000_000
)

// FromLog answers a question about the load that an access log tells of. The log is read once, and not kept.
func (q *Question) FromLog(r io.Reader, told func(LogCounts)) (*Answer, error) {
	p := &replay{q: q, step: firstStep, refused: make(map[[2]string]bool), clients: make(map[uint64]string)}
	var err error
	p.player, err = NewPlayer(Script{
		Settings: q.Settings, Homeserver: q.Homeserver, Nodes: q.Nodes,
		Sees: func(viewer, target string) bool { return !p.refused[[2]string{viewer, target}] },
	})
	if err != nil {
		return nil, err
	}
	lines := newLogReader(r)
	for {
		e, ok, err := lines.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("reading the log: %w", err)
		}
		if p.counted.Lines++; told != nil && p.counted.Lines%10_000 == 0 {
			told(p.counted)
		}
		switch {
		case !ok:
			p.counted.Bad++
		case !e.seen || !isPresence(&e):
			p.counted.Other++
		default:
			p.counted.Used++
			if err := p.wait(e); err != nil {
				return nil, err
			}
		}
	}
	for p.waiting.Len() > 0 {
		p.play(heap.Pop(&p.waiting).(entry)) //nolint:forcetypeassert // of ours
	}
	return p.answer()
}

// wait has an entry played when none that began before it can come any more.
func (p *replay) wait(e entry) error {
	heap.Push(&p.waiting, e)
	switch {
	case e.ended.After(p.latest):
		p.latest = e.ended
	case e.ended.Before(p.latest.Add(-maxLasts)):
		p.late++
	}
	for p.waiting.Len() > maxWaiting || p.waiting.Len() > 0 && p.waiting[0].begun.Before(p.latest.Add(-maxLasts)) {
		p.play(heap.Pop(&p.waiting).(entry)) //nolint:forcetypeassert // of ours
		if p.player.Users() > maxLogUsers {
			return fmt.Errorf("the log has more than %d users and clients: give a shorter one", maxLogUsers)
		}
	}
	return nil
}

// maxGap is the longest pause in a log that is played. A longer one is left out.
const maxGap = time.Hour

// play plays an entry.
func (p *replay) play(e entry) {
	if p.begun.IsZero() {
		p.begun = e.begun
	}
	at := e.begun.Sub(p.begun)
	if at > p.at+maxGap {
		p.begun = p.begun.Add(at - p.at)
		at = p.at
	}
	for p.at = max(p.at, at); time.Duration(len(p.edges)+1)*p.step <= p.at; {
		p.edges = append(p.edges, p.player.Until(time.Duration(len(p.edges)+1)*p.step))
		if len(p.edges) == maxSteps {
			for i := range maxSteps / 2 {
				p.edges[i] = p.edges[2*i+1]
			}
			p.edges, p.step = p.edges[:maxSteps/2], 2*p.step
		}
	}
	if r, ok := p.request(&e); ok {
		r.At = p.at
		p.player.Play(r)
	}
}

// request is what a client asked, as far as the log tells: not whose it is. A client is taken for the user whose
// presence it wrote, else for one of its own.
func (p *replay) request(e *entry) (r Request, ok bool) {
	token := strconv.FormatUint(e.client, 36)
	own := p.clients[e.client]
	if own == "" {
		own = "@" + token + ":client"
	}
	device := func(userID string) *Device {
		if e.status == unauthorized {
			return p.player.Stranger(token, token)
		}
		return p.player.Device(userID, token, false)
	}
	if route, isPresence := matrix.ParsePresenceRoute(e.path); isPresence {
		switch e.method {
		case methodOptions:
			return Request{Kind: Preflight, By: device(own), Target: p.player.User(route.UserID)}, true
		case methodPut:
			return p.write(e, route.UserID, token), true
		}
		p.note(own, route.UserID, e.status)
		return Request{Kind: Read, By: device(own), Target: p.player.User(route.UserID)}, true
	}
	if list, isList := matrix.ParseMemberListRoute(e.path, e.query); isList {
		return Request{Kind: List, By: device(own), Room: list.RoomID}, true
	}
	dialect := homeservers[p.q.Homeserver]
	query := matrix.ParseSyncQuery(dialect, e.query)
	return Request{Kind: Sync, By: device(own), Presence: query.Sets, Lasts: e.lasted, Timeout: min(query.Timeout, maxLasts)}, true
}

// write is a write. A log doesn't have what it said, so that it changes something is drawn by lot, the same each time.
func (p *replay) write(e *entry, userID, token string) Request {
	switch known, ok := p.clients[e.client]; {
	case !ok && len(p.clients) < maxLogUsers:
		p.clients[e.client] = userID
	case ok && known != userID:
		p.clients[e.client] = "@" + token + ":bridge" // it writes for several
	}
	d := p.player.Device(userID, token, p.clients[e.client] != userID)
	a := p.player.world.direct.of(d.User)
	presence := a.presence
	if n := p.counted.Used; presence == matrix.Offline || float64(n*2654435761%1000)/1000 < p.q.Load.Changes {
		presence = otherThan(presence)
	}
	return Request{Kind: Write, By: d, Presence: presence}
}

// note notes who may not see whom, by what the homeserver has said before.
func (p *replay) note(viewer, target string, status int) {
	pair := [2]string{viewer, target}
	switch {
	case status == forbidden && len(p.refused) < maxRefused:
		p.refused[pair] = true
	case status == served:
		delete(p.refused, pair)
	}
}

// answer makes the answer of what was played.
func (p *replay) answer() (*Answer, error) {
	c := p.counted
	switch {
	case c.Lines == 0:
		return nil, errors.New("the log is empty")
	case c.Used == 0 && c.Bad > c.Other:
		return nil, fmt.Errorf("none of %d lines can be read: an access log has to be Caddy's in JSON, or in nginx's format combined", c.Lines)
	case c.Used == 0:
		return nil, fmt.Errorf("none of %d lines is about presence: give the log of what stands before the homeserver, with its /_matrix/client paths", c.Lines)
	}
	if p.late > c.Used/10 {
		return nil, fmt.Errorf("%d of %s about presence are older than some before them: give the log in the order of time, the oldest file first", p.late, lines(c.Used))
	}
	if len(p.edges) < 2*leastSteps {
		return nil, fmt.Errorf("the log covers %v: it takes at least %v to say anything", p.at.Round(time.Second), 2*leastSteps*firstStep)
	}
	r := &result{blocks: blocks{load: &p.q.Load, n: 1, simulated: 1, share: 1}}
	size := max(leastSteps, len(p.edges)/12)
	r.window = time.Duration(size) * p.step
	for from := -1; from+size < len(p.edges); from += size {
		before := Counts{}
		if from >= 0 {
			before = p.edges[from]
		}
		r.samples = append(r.samples, p.edges[from+size].Since(before))
	}
	for t, n := range p.player.world.entries() {
		r.entries[t] = float64(n)
	}
	a := p.q.answer(r)
	a.Source, a.Load, a.Log = "access log", nil, &c
	a.Simulated.Users = p.player.Users()
	a.Assumptions = p.assumptions()
	return a, nil
}

// assumptions are what an answer about a log depends on.
func (p *replay) assumptions() []string {
	c := p.counted
	return []string{
		fmt.Sprintf("the load is that of the log: %s about presence in %v, of %s that can be read and %s that can't",
			lines(c.Used), p.at.Round(time.Second), lines(c.Used+c.Other), lines(c.Bad)),
		"who asks is told by address and User-Agent: clients that share both count as one, so that more seems to be asked again than is",
		fmt.Sprintf("a log doesn't say what a write says: %.3g %% of them change something", 100*p.q.Load.Changes),
		"whom the log shows as refused may not see that user; pauses of more than " + maxGap.String() + " are left out; the module begins with nothing in memory",
		costsAssumed,
	}
}

func lines(n int64) string {
	if n == 1 {
		return "1 line"
	}
	return strconv.FormatInt(n, 10) + " lines"
}

// leastSteps is how many steps a window has at least.
const leastSteps = 3
