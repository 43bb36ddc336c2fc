package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"
)

// dialect is what a homeserver makes of a sync's set_presence.
type dialect = matrix.Dialect

const (
	Auto     = matrix.UnknownDialect // to be learned, see the option
	synapse  = matrix.Synapse
	Dendrite = matrix.Dendrite
	Tuwunel  = matrix.Tuwunel
)

var Dialects = map[string]dialect{"": Auto, "auto": Auto, "synapse": synapse, "dendrite": Dendrite, "tuwunel": Tuwunel}

// softwareNames are homeservers by what they call themselves, in lower case. The
// forks that tuwunel comes from are not among them: they don't merge devices.
var softwareNames = map[string]dialect{"synapse": synapse, "dendrite": Dendrite, "tuwunel": Tuwunel}

const (
	// softwareLasts is for how long what the homeserver says of itself is believed.
	softwareLasts = 10 * time.Minute
	// softwareRetry is after which time it is asked again if it didn't tell. If it could
	// not be asked that is firstSoftwareRetry, then twice as long each time, up to this.
	softwareRetry, firstSoftwareRetry = time.Minute, 2 * time.Second
	// softwareTimeout is how long it may take to tell.
	softwareTimeout = 5 * time.Second
)

// software is what the homeserver has told of itself. It outlives a reload.
type software struct {
	mu       sync.Mutex // guards all below
	dialect  dialect    // auto if unknown
	asking   bool
	next     time.Time // when to ask again
	failures int       // in a row
	warned   bool
}

// known returns what is known without asking.
func (s *software) known() dialect {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dialect
}

// knownDialect returns what is known of the homeserver without asking.
func (t tenant) knownDialect() dialect {
	if t.cfg.Dialect != Auto {
		return t.cfg.Dialect
	}
	return t.store.software.known()
}

// askSoftwareInTime has the homeserver asked now and then which one it is, while a request is
// served: no client waits for it.
func (g *Gateway) askSoftwareInTime(r *http.Request, next Next) {
	if g.cfg.Dialect == Auto && g.store.software.beginAsking(g.store.now()) {
		go g.learnSoftware(g.newVersionQuestions(r, next))
	}
}

// beginAsking reports whether it is time to ask, and nobody does.
func (s *software) beginAsking(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asking || now.Before(s.next) {
		return false
	}
	s.asking = true
	return true
}

// learnSoftware asks the homeserver for its name and remembers that.
func (g *Gateway) learnSoftware(questions []subrequest) {
	found, name, failed, err := Auto, "", true, error(nil)
	if crash := g.store.guard(func() { found, name, failed, err = g.askSoftware(questions) }); crash != nil {
		err = crash
	}
	s := &g.store.software
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asking = false
	if found == Auto {
		retry := softwareRetry
		if failed {
			retry = min(retry, firstSoftwareRetry<<min(s.failures, 10))
			s.failures++
		}
		s.next = g.store.now().Add(retry)
		if retry == softwareRetry && !s.warned && s.dialect == Auto {
			s.warned = true
			g.logger.Warn("the homeserver doesn't tell which one it is, so syncs are left alone: "+
				"set homeserver to synapse, dendrite or tuwunel", "error", err)
		}
		return
	}
	s.next, s.failures = g.store.now().Add(softwareLasts), 0
	if found != s.dialect {
		s.dialect, s.warned = found, false
		g.logger.Info("the homeserver has told which one it is", "homeserver", name)
	}
}

// newVersionQuestions makes the requests that ask a homeserver for its name: where
// federation asks for it, and where that is closed where clients ask (MSC4383). They have
// nothing of the client's: the answer is for all.
func (g *Gateway) newVersionQuestions(r *http.Request, next Next) (questions []subrequest) {
	for _, path := range []string{"/_matrix/federation/v1/version", matrix.ClientPrefix + "versions"} {
		question := g.newSubrequest(r, next, &url.URL{Path: path}, "").plain()
		questions = append(questions, question)
	}
	return questions
}

// askSoftware asks until the homeserver names itself, as Synapse does in every answer. It
// reports whether one of the questions failed, so that it may tell soon.
func (g *Gateway) askSoftware(questions []subrequest) (found dialect, name string, failed bool, err error) {
	var problems []string
	for _, question := range questions {
		answer := question.send(softwareTimeout, g.store.counters.departs(reasonVersion))
		failed = failed || answer.failed() || answer.site || answer.isAboutRequest() // perhaps for this client only
		if answer.err != nil {
			problems = append(problems, answer.err.Error())
			continue
		}
		var about struct {
			Server struct {
				Name string `json:"name"`
			} `json:"server"`
		}
		if answer.status == http.StatusOK {
			answer.decode(&about) // what isn't there is no name
		}
		product, _, _ := strings.Cut(answer.header.Get("Server"), "/")
		for _, name := range []string{about.Server.Name, product} {
			if found := softwareNames[strings.ToLower(name)]; found != Auto {
				return found, name, false, nil
			}
		}
		problems = append(problems, fmt.Sprintf("GET %s was answered with status %d and the names %q and %q",
			question.request.URL.Path, answer.status, about.Server.Name, product))
	}
	return Auto, "", failed, errors.New(strings.Join(problems, "; "))
}
