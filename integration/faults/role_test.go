package faults

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// trial is a fault that meets a role.
type trial struct {
	*testing.T
	*site
	fault *fault

	// alone is what clients of Caddy without the module see of the fault.
	alone map[kind]seen
}

// role is in what a fault strikes. It returns what the client saw.
type role struct {
	name string
	play func(*trial) seen

	// passes tells that the client's own request is passed on, so that Caddy's
	// reverse_proxy may do to it whatever it does without us.
	passes bool
}

var roles = []role{
	{"other", (*trial).other, true},
	{"read", (*trial).read, false},
	{"readers", (*trial).readers, false},
	{"stale read", (*trial).staleRead, false},
	{"write", (*trial).write, true},
	{"write, stale", (*trial).writeThenNothingStale, true},
	{"logout", (*trial).logout, true},
	{"whoami of a read", (*trial).whoamiOfRead, false},
	{"whoami of a write", (*trial).whoamiOfWrite, false},
	{"all of a read", (*trial).allOfRead, true},
	{"all of a write", (*trial).allOfWrite, true},
}

// under runs ask while an upstream has the fault.
func (tr *trial) under(ask func() seen, upstreams ...*upstream) seen {
	tr.Helper()
	tr.begin(upstreams...)
	defer tr.end(upstreams...)
	return ask()
}

func (tr *trial) begin(upstreams ...*upstream) {
	tr.Helper()
	for _, u := range upstreams {
		if err := u.set(tr.fault); err != nil {
			tr.Fatal(err)
		}
	}
}

func (tr *trial) end(upstreams ...*upstream) {
	tr.Helper()
	for _, u := range upstreams {
		_, _, _, struck, _ := u.state()
		if err := u.set(nil); err != nil {
			tr.Fatal(err)
		}
		// What is still on its way ends before the next request comes: a
		// connection that goes bad later is another fault.
		suite.EventuallyNil(tr.T, "the upstream is done", func() error {
			if busy, _, _, _, _ := u.state(); busy > 0 {
				return fmt.Errorf("it answers %d requests", busy)
			}
			return nil
		})
		// A request on a connection that was closed for the sake of a greeting may fail
		// without another connection.
		if u == upstreams[0] && tr.fault.strike != nil && struck == 0 {
			tr.Error("the fault was never let loose")
		}
	}
	// Nor is a request under way whose client has left.
	suite.EventuallyNil(tr.T, "the handlers are done", func() error {
		if n := inHandler(); n > 0 {
			return fmt.Errorf("%d are not", n)
		}
		return nil
	})
}

// expect fails unless a client got that.
func (tr *trial) expect(when string, got seen, status int, body, cacheStatus string) {
	tr.Helper()
	if got.status != status || got.broken || body != "" && got.body != body || !strings.HasPrefix(got.cacheStatus(), cacheStatus) {
		tr.Errorf("%s: got %v %s (%s), want %d %s (%s)", when, got, got.excerpt(), got.cacheStatus(), status, body, cacheStatus)
	}
}

// expectAlone fails unless a client got what it would have got without us.
func (tr *trial) expectAlone(got, alone seen, apart ...string) {
	tr.Helper()
	if err := difference(got, alone, apart...); err != nil {
		tr.Errorf("with us against without: %v", err)
	}
}

// expectRead fails unless a client got what is right for a read of a target that we make
// ourselves.
func (tr *trial) expectRead(got seen, target string, apart ...string) {
	tr.Helper()
	alone := tr.alone[read]
	switch {
	case tr.fault.large:
		tr.expectAlone(got, alone)
	case alone.broken, alone.status == 0, tr.fault.nothing:
		if got.status != http.StatusBadGateway || got.broken {
			tr.Errorf("got %v, want 502", got)
		}
	default:
		// That was of a target who had not changed.
		alone.body = strings.ReplaceAll(alone.body, newest(presence(0)), newest(tr.hs.presence(target)))
		// Interim answers and trailers of the module's own request don't reach the client.
		tr.expectAlone(got, alone, append(apart, "interim", "trailer", "Trailer", "Content-Length")...)
	}
}

// newest is what tells one version of a presence from another.
func newest(presence string) string {
	return presence[strings.Index(presence, "version") : len(presence)-2]
}

// asked returns how often the homeserver is asked for something while f runs.
func (tr *trial) asked(what kind, f func()) int {
	before := tr.hs.count(what)
	f()
	return tr.hs.count(what) - before
}

// other is any request that isn't ours.
func (tr *trial) other() seen {
	user := newUser("user")
	got := tr.under(func() seen { return tr.ask(tr.T, withUs, other, user, "") }, tr.main)
	tr.expectAlone(got, tr.alone[other])
	tr.expect("afterwards", tr.ask(tr.T, withUs, other, user, ""), 200, `{"other":true}`, "")
	return got
}

// read is a reader who is known and asks for somebody who isn't.
func (tr *trial) read() seen {
	reader, target := newUser("reader"), newUser("target")
	tr.ask(tr.T, withUs, read, reader, reader)
	got := tr.under(func() seen { return tr.ask(tr.T, withUs, read, reader, target) }, tr.main)
	tr.expectRead(got, target)
	tr.expectKept(reader, target)
	return got
}

// expectKept looks at what has become of the answer to a read. Behind our back there is a
// new version by then, so that the old one shows where it comes from.
func (tr *trial) expectKept(reader, target string) {
	tr.Helper()
	old := tr.hs.presence(target)
	tr.hs.Change(target)
	again := func() seen { return tr.ask(tr.T, withUs, read, reader, target) }
	switch now := tr.hs.presence(target); tr.fault.kept {
	case stored:
		tr.expect("afterwards", again(), 200, old, "matrix_presence; hit")
	case marked:
		tr.expect("afterwards", again(), 200, now, "matrix_presence; fwd=bypass; detail=uncacheable")
	default:
		tr.expect("afterwards", again(), 200, now, "matrix_presence; fwd=miss; stored")
		tr.expect("at last", again(), 200, now, "matrix_presence; hit")
	}
}

// crowd is how many readers share a fetch.
func crowd() int {
	if suite.Full() {
		return 64
	}
	return 8
}

// readers are of two users who may see the target, so that they share one fetch.
func (tr *trial) readers() seen {
	viewers, target := []string{newUser("viewer"), newUser("viewer")}, newUser("target")
	for _, viewer := range viewers {
		tr.ask(tr.T, withUs, read, viewer, target)
	}
	// The state goes, and the permissions stay.
	tr.expect("the write before", tr.ask(tr.T, withUs, write, target, target), 200, `{}`, "")

	answers := make([]seen, crowd())
	all := func() seen {
		release := tr.main.hold()
		defer release()
		var wg sync.WaitGroup
		for i := range answers {
			wg.Go(func() {
				var err error
				if answers[i], err = tr.try(tr.Context(), withUs, read, viewers[i%len(viewers)], target); err != nil {
					tr.Error(err)
				}
			})
		}
		if tr.fault.strike != nil {
			suite.EventuallyNil(tr.T, "all readers but one wait for that one's fetch", func() error {
				if _, _, _, _, arrived := tr.main.state(); arrived != 1 || waitingIn(inFetch) != len(answers)-1 {
					return fmt.Errorf("%d have arrived, %d wait", arrived, waitingIn(inFetch))
				}
				return nil
			})
		}
		release()
		wg.Wait()
		return answers[0]
	}
	var got seen
	fetches := tr.asked(read, func() { got = tr.under(all, tr.main) })
	for i, answer := range answers {
		if err := tr.collect(func() { tr.expectShared(answer, target) }); err != nil {
			tr.Errorf("reader %d: %v", i, err)
		}
	}
	// What tells something about one of them only is asked for by each of them. Whatever
	// else came, the reader whose fetch it is asks twice, and then one of the other user's.
	// One more is one that reverse_proxy's transport repeats because it had gone out on a
	// connection that wasn't new.
	most := 4
	if tr.fault.large || tr.fault.kept == dropped && !got.failed() || tr.fault.kept == marked {
		most = 1 + len(answers)
	}
	if tr.fault.strike != nil && fetches > most {
		tr.Errorf("%d readers cost the homeserver %d requests, want at most %d", len(answers), fetches, most)
	}
	tr.expectKept(viewers[0], target)
	return got
}

// expectShared fails unless a reader who may have shared a fetch got the right answer.
func (tr *trial) expectShared(got seen, target string) {
	tr.Helper()
	if !strings.Contains(got.cacheStatus(), "collapsed") {
		tr.expectRead(got, target)
		return
	}
	// Only what is the same for all goes with a shared answer.
	var apart []string
	for name := range merged(got.header, tr.alone[read].header) {
		switch name {
		case "Content-Type", "Access-Control-Allow-Origin":
		default:
			apart = append(apart, name)
		}
	}
	tr.expectRead(got, target, apart...)
}

// collect is for checks that are made many times over: of their failures one is enough.
func (tr *trial) collect(check func()) error {
	if tr.Failed() {
		return nil
	}
	if check(); tr.Failed() {
		return fmt.Errorf("that was the first one that failed")
	}
	return nil
}

// staleRead is a reader for whom there is an answer that is no longer fresh.
func (tr *trial) staleRead() seen {
	reader, target := newUser("reader"), newUser("target")
	tr.ask(tr.T, stale, read, reader, target)
	old, since := tr.hs.presence(target), time.Now()
	for time.Since(since) <= time.Millisecond { // its ttl
	}
	tr.hs.Change(target)
	got := tr.under(func() seen { return tr.ask(tr.T, stale, read, reader, target) }, tr.main)
	if (tr.alone[read].failed() || tr.fault.nothing) && !tr.fault.large {
		tr.expect("in need", got, 200, old, "matrix_presence; hit; ttl=-")
		if !strings.HasSuffix(got.cacheStatus(), "; detail=stale-if-error") {
			tr.Errorf("Cache-Status is %q", got.cacheStatus())
		}
	} else {
		tr.expectRead(got, target)
	}
	now := tr.hs.presence(target)
	tr.expect("afterwards", tr.ask(tr.T, stale, read, reader, target), 200, now, "matrix_presence; ")
	return got
}

// write is a user who writes, and somebody who has their presence in memory.
func (tr *trial) write() seen {
	writer, reader := newUser("writer"), newUser("reader")
	tr.ask(tr.T, withUs, read, writer, writer)
	tr.expect("before", tr.ask(tr.T, withUs, read, reader, writer), 200, "", "matrix_presence; fwd=miss; stored")
	tr.expect("before", tr.ask(tr.T, withUs, read, reader, writer), 200, "", "matrix_presence; hit")

	got := tr.under(func() seen { return tr.ask(tr.T, withUs, write, writer, writer) }, tr.main)
	tr.expectAlone(got, tr.alone[write])

	now := tr.hs.presence(writer)
	if n := tr.asked(read, func() {
		tr.expect("the read after the write", tr.ask(tr.T, withUs, read, reader, writer), 200, now, "matrix_presence; fwd=miss; stored")
	}); n != 1 {
		tr.Errorf("the read after the write cost the homeserver %d requests, want 1", n)
	}
	tr.expect("the one after that", tr.ask(tr.T, withUs, read, reader, writer), 200, now, "matrix_presence; hit")
	tr.expect("another write", tr.ask(tr.T, withUs, write, writer, writer), 200, `{}`, "matrix_presence; fwd=method")
	return got
}

// writeThenNothingStale is a write after which the homeserver is down, where a reader
// would rather have a stale answer than none: not that of before the write.
func (tr *trial) writeThenNothingStale() seen {
	writer, reader := newUser("writer"), newUser("reader")
	tr.ask(tr.T, stale, read, writer, writer)
	tr.ask(tr.T, stale, read, reader, writer)
	got := tr.under(func() seen { return tr.ask(tr.T, stale, write, writer, writer) }, tr.main)
	tr.expectAlone(got, tr.alone[write])

	down := &trial{tr.T, tr.site, &fault{name: "down", down: true}, nil}
	after := down.under(func() seen { return tr.ask(tr.T, stale, read, reader, writer) }, tr.main)
	tr.expect("the read after the write", after, http.StatusBadGateway, "", "")
	tr.expect("at last", tr.ask(tr.T, stale, read, reader, writer), 200, tr.hs.presence(writer), "matrix_presence; fwd=miss; stored")
	return got
}

// logout is a user whose token is known.
func (tr *trial) logout() seen {
	user := newUser("user")
	tr.ask(tr.T, withUs, read, user, user)
	got := tr.under(func() seen { return tr.ask(tr.T, withUs, logout, user, "") }, tr.main)
	tr.expectAlone(got, tr.alone[logout])

	var after seen
	questions := tr.asked(whoami, func() { after = tr.ask(tr.T, withUs, read, user, user) })
	if tr.fault.refuses {
		if questions != 0 || after.status != http.StatusOK {
			tr.Errorf("a refused logout: whose token it is was asked %d times, and the next read got %v", questions, after)
		}
		return got
	}
	status := http.StatusOK
	if !tr.hs.Knows(tokenOf(user)) {
		status = http.StatusUnauthorized
	}
	if questions != 1 || after.status != status {
		tr.Errorf("a logout that may have happened: whose token it is was asked %d times, want 1, and the next read got %v, want %d", questions, after, status)
	}
	return got
}

// whoamiOfRead is a reader of whom nobody knows who it is.
func (tr *trial) whoamiOfRead() seen {
	reader, target := newUser("reader"), newUser("target")
	got := tr.under(func() seen { return tr.ask(tr.T, withUs, read, reader, target) }, tr.whoami)
	if tr.fault.owner == learned {
		tr.expect("the read", got, 200, tr.hs.presence(target), "matrix_presence; fwd=miss; stored")
	} else {
		tr.expect("the read", got, 200, tr.hs.presence(target), "matrix_presence; fwd=bypass; detail=unknown-identity")
		tr.expectForgotten(reader, target)
	}
	tr.expect("at last", tr.ask(tr.T, withUs, read, reader, target), 200, tr.hs.presence(target), "matrix_presence; hit")
	return got
}

// expectForgotten fails unless a read asks for everything.
func (tr *trial) expectForgotten(reader, target string) {
	tr.Helper()
	if n := tr.asked(whoami, func() {
		tr.expect("afterwards", tr.ask(tr.T, withUs, read, reader, target), 200, tr.hs.presence(target), "matrix_presence; fwd=miss; stored")
	}); n != 1 {
		tr.Errorf("afterwards the homeserver was asked %d times whose token it is, want once", n)
	}
}

// whoamiOfWrite is a writer of whom nobody knows who it is.
func (tr *trial) whoamiOfWrite() seen {
	writer := newUser("writer")
	var got seen
	writes := tr.asked(write, func() {
		got = tr.under(func() seen { return tr.ask(tr.T, withUs, write, writer, writer) }, tr.whoami)
	})
	if tr.fault.owner == learned {
		tr.expect("the write", got, 200, `{}`, "matrix_presence; fwd=method")
		return got
	}
	tr.expectUnverified(got, writes)
	tr.expect("afterwards", tr.ask(tr.T, withUs, write, writer, writer), 200, `{}`, "matrix_presence; fwd=method")
	return got
}

// expectUnverified fails unless a write was refused because its writer isn't known.
func (tr *trial) expectUnverified(got seen, writes int) {
	tr.Helper()
	if writes != 0 {
		tr.Errorf("%d writes of nobody knows who reached the homeserver", writes)
	}
	var object struct{ Errcode, Error string }
	if err := json.Unmarshal([]byte(got.body), &object); err != nil || object.Error == "" {
		tr.Errorf("the write got %v %s, want a Matrix error", got, got.excerpt())
	}
	switch {
	case tr.fault.owner == refused && got.status != tr.fault.status:
		tr.Errorf("the write got %v, want the homeserver's own %d", got, tr.fault.status)
	case tr.fault.owner == unknown && (got.status != http.StatusBadGateway || object.Errcode != "M_UNKNOWN"):
		tr.Errorf("the write got %v %s, want 502 M_UNKNOWN", got, got.excerpt())
	}
}

// allOfRead is a reader of whom nobody knows who it is, and nothing works.
func (tr *trial) allOfRead() seen {
	reader, target := newUser("reader"), newUser("target")
	got := tr.under(func() seen { return tr.ask(tr.T, withUs, read, reader, target) }, tr.whoami, tr.main)
	if tr.fault.owner == learned {
		tr.expectRead(got, target)
		tr.expectKept(reader, target)
		return got
	}
	tr.expectAlone(got, tr.alone[read])
	if tr.fault.owner == refused && tr.fault.status < 429 {
		// That the account is refused is remembered, until a read of it succeeds.
		tr.expect("the next read", tr.ask(tr.T, withUs, read, reader, target), 200, tr.hs.presence(target), "matrix_presence; fwd=bypass")
	}
	tr.expectForgotten(reader, target)
	return got
}

// allOfWrite is the same for a writer.
func (tr *trial) allOfWrite() seen {
	writer := newUser("writer")
	var got seen
	writes := tr.asked(write, func() {
		got = tr.under(func() seen { return tr.ask(tr.T, withUs, write, writer, writer) }, tr.whoami, tr.main)
	})
	if tr.fault.owner == learned {
		tr.expectAlone(got, tr.alone[write])
	} else {
		tr.expectUnverified(got, writes)
	}
	tr.expect("afterwards", tr.ask(tr.T, withUs, read, writer, writer), 200, tr.hs.presence(writer), "matrix_presence; ")
	tr.expect("another write", tr.ask(tr.T, withUs, write, writer, writer), 200, `{}`, "matrix_presence; fwd=method")
	return got
}
