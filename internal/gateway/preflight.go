package gateway

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
)

const (
	// preflightMaxAge is for how many seconds a browser need not ask again, if the
	// homeserver doesn't say: two hours, as long as Chromium believes any. Firefox
	// would believe a day, WebKit ten minutes, and without the field all of them five
	// seconds.
	preflightMaxAge = "7200"

	// preflightTTL is how long an answer is given from memory. A homeserver's CORS
	// fields change with its version or its configuration, while somebody is looking
	// at it, and one question in five minutes is no load.
	preflightTTL = 5 * time.Minute

	// maxPreflights is how many kinds are remembered. Clients have a few, times the
	// origins that they are served from where the homeserver names these one by one.
	maxPreflights = 64

	// maxPreflightField is the size in bytes of the longest field of a request that is
	// remembered. Browsers send far less unless a script makes fields up.
	maxPreflightField = 512
)

// preflightKind is all of a preflight that a homeserver's answer depends on. The path is
// no part of it: homeservers answer alike for everybody's presence.
type preflightKind struct {
	method  string // that is asked for
	headers string // that are asked for, in lower case, each once, sorted
	origin  string // empty for answers that are for all origins
}

const (
	requestPrefix = corsPrefix + "Request-"
	maxAgeField   = corsPrefix + "Max-Age"
)

// newPreflightKind returns the kind of an OPTIONS request, unless it isn't what browsers
// send before a presence request (Fetch, "CORS-preflight fetch"): that has neither body
// nor credentials, and asks for a method and perhaps header fields, and for nothing
// else. It doesn't look at the body, see [mayHaveBody].
func newPreflightKind(r *http.Request) (kind preflightKind, ok bool) {
	if route, ok := presenceRoute(r); !ok || !route.Canonical {
		return preflightKind{}, false
	}
	origins, methods := r.Header["Origin"], r.Header[requestPrefix+"Method"]
	if len(origins) != 1 || origins[0] == "" || len(origins[0]) > maxPreflightField || len(methods) != 1 ||
		!mayHaveBody(r) && hasBody(r) || r.Header["Authorization"] != nil || r.Header["Cookie"] != nil || r.Header["Upgrade"] != nil {
		return preflightKind{}, false
	}
	switch methods[0] {
	case http.MethodGet, http.MethodHead, http.MethodPut:
	default:
		return preflightKind{}, false // no homeserver has another for a presence
	}
	for name := range r.Header {
		if strings.HasPrefix(name, requestPrefix) && name != requestPrefix+"Method" && name != requestPrefix+"Headers" {
			return preflightKind{}, false // such as Access-Control-Request-Private-Network
		}
	}
	headers := strings.Join(r.Header[requestPrefix+"Headers"], ",")
	if len(headers) > maxPreflightField {
		return preflightKind{}, false
	}
	return preflightKind{methods[0], sortedNames(headers), origins[0]}, true
}

// sortedNames returns the list of field names in the one spelling that all lists of the
// same names have.
func sortedNames(list string) string {
	names := strings.Split(strings.ToLower(list), ",")
	for i, name := range names {
		names[i] = strings.Trim(name, " \t")
	}
	slices.Sort(names)
	return strings.TrimPrefix(strings.Join(slices.Compact(names), ","), ",")
}

// servePreflight answers as the homeserver has answered one of the same kind, or passes
// the request on and learns. Several that come before the first answer all go to the
// homeserver: that is a handful, every five minutes, and nobody has to wait for
// another's.
func (g *Gateway) servePreflight(w http.ResponseWriter, r *http.Request, next Next, kind preflightKind) error {
	g.store.counters.requests[routePreflight].Add(1)
	now := g.store.now()
	known, fresh := g.store.preflights.cached(kind, now)
	isSites, hadBody := g.isSites(r), func() bool { return false }
	switch {
	case g.cfg.Observe:
		hadBody = watchBody(r)
		verdict := g.newVerdict(r)
		defer func() {
			if known != nil && !hadBody() {
				g.noteObserved(verdict, routePreflight, outcomeHit)
			} else {
				g.noteObserved(verdict, routePreflight, outcomeForwarded)
			}
		}()
	case known != nil:
		g.note(r, outcomeHit)
		writeKept(w, r, known.status, known.fields, statusHit(fresh), nil)
		return nil
	}
	g.note(r, outcomeForwarded)
	answer := &preflightWriter{
		responseWriter: responseWriter{w},
		hold:           !g.cfg.Observe,
		hadBody:        hadBody,
		learn: func(status int, header http.Header) bool {
			// What the site answers some with, by their address perhaps, is not for all.
			return !isSites() && g.store.preflights.learn(kind, status, header, now)
		},
	}
	err := g.forward(answer, r, next, reasonPreflight, func(int) {})
	if err == nil {
		answer.end(r.Context().Err() == nil)
	}
	return err
}

// preflightWriter is the response writer of a preflight that goes to the homeserver. The
// head of an answer that may be learned waits here for its end, or its first byte: one
// that is known to have no body, for nothing. tuwunel's comes in chunks, with none in it.
type preflightWriter struct {
	responseWriter

	// hold is false for an answer that goes out as it came.
	hold bool
	// hadBody tells of a request that came with one, as no browser's does.
	hadBody func() bool
	learn   func(status int, header http.Header) (stored bool)

	status int  // of the final head, or 0
	held   bool // the head waits
	over   bool // whether to learn the answer is decided
}

// WriteHeader implements http.ResponseWriter.
func (p *preflightWriter) WriteHeader(status int) {
	if status < http.StatusOK {
		p.responseWriter.WriteHeader(status)
		return
	}
	if p.status != 0 {
		return
	}
	p.status, p.held = status, true
	may, empty := learnable(status, p.Header())
	switch {
	case !may:
		p.decide(false)
	case empty:
		p.decide(true)
	case !p.hold:
		p.release("")
	}
}

// decide learns the answer or doesn't. The first decision counts.
func (p *preflightWriter) decide(empty bool) {
	if p.over {
		return
	}
	p.over, empty = true, empty && !p.hadBody()
	params := ""
	if empty && p.learn(p.status, p.Header()) {
		params = "; stored"
	}
	if empty && p.hold && p.held {
		addMaxAge(p.Header())
	}
	p.release(params)
}

// release sends the head, unless that was done.
func (p *preflightWriter) release(params string) {
	if !p.held {
		return
	}
	p.held = false
	if p.hold {
		p.Header().Add("Cache-Status", cacheName+"; fwd=miss"+params)
	}
	p.responseWriter.WriteHeader(p.status)
}

// Write implements http.ResponseWriter.
func (p *preflightWriter) Write(b []byte) (int, error) {
	p.WriteHeader(http.StatusOK)
	if len(b) == 0 {
		return 0, nil
	}
	p.decide(false)
	return p.responseWriter.Write(b)
}

// ReadFrom is there because the embedded one would go around Write.
func (p *preflightWriter) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{p}, r)
}

// FlushError sends the head of an answer that may yet turn out to be empty.
func (p *preflightWriter) FlushError() error {
	p.WriteHeader(http.StatusOK)
	p.release("")
	return http.NewResponseController(p.ResponseWriter).Flush()
}

// end is called when the answer is over, and whether it is whole.
func (p *preflightWriter) end(whole bool) {
	if p.status != 0 {
		p.decide(whole)
	}
}

// addMaxAge lets a browser remember an answer, unless the homeserver says for how long.
func addMaxAge(header http.Header) {
	if header[maxAgeField] == nil {
		header[maxAgeField] = []string{preflightMaxAge}
	}
}

// learnable tells that an answer allows something, and that all preflights of a kind get the
// same; and whether it is known to have no body. If not, that will be seen.
func learnable(status int, header http.Header) (may, empty bool) {
	empty = status == http.StatusNoContent || header.Get("Content-Length") == "0"
	if status >= http.StatusMultipleChoices || !empty && header["Content-Length"] != nil {
		return false, empty
	}
	if origins := header[corsPrefix+"Allow-Origin"]; len(origins) != 1 || origins[0] == "" {
		return false, empty
	}
	for _, value := range header["Vary"] {
		for name := range strings.SplitSeq(value, ",") {
			switch name = strings.ToLower(strings.TrimSpace(name)); {
			case name == "", name == "origin", name == "accept-encoding", strings.HasPrefix(name, "access-control-request-"):
			default:
				return false, empty
			}
		}
	}
	return true, empty
}

// preflights remembers how the homeserver answers preflights. It is safe for use by
// several goroutines.
type preflights struct {
	mu      sync.Mutex // guards all below
	known   *simplelru.LRU[preflightKind, *preflightAnswer]
	evicted uint64
}

// preflightAnswer is what is sent again. It is immutable.
type preflightAnswer struct {
	status  int
	fields  []cache.Field
	learned time.Time
}

func newPreflights() *preflights {
	known, _ := simplelru.NewLRU[preflightKind, *preflightAnswer](maxPreflights, nil) // fails below 1 only
	return &preflights{known: known}
}

// cached returns the answer to a kind of preflight and for how long it holds, or nil.
func (p *preflights) cached(kind preflightKind, now time.Time) (*preflightAnswer, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, origin := range [...]string{"", kind.origin} {
		kind.origin = origin
		if answer, ok := p.known.Get(kind); ok && now.Sub(answer.learned) < preflightTTL {
			return answer, preflightTTL - now.Sub(answer.learned)
		}
	}
	return nil, 0
}

// learn remembers an answer, as of when it was asked for, unless its fields are too
// large.
func (p *preflights) learn(kind preflightKind, status int, header http.Header, asked time.Time) bool {
	if header.Get(corsPrefix+"Allow-Origin") == "*" {
		kind.origin = ""
	}
	// A copy: handlers before us may yet edit the header's values in place.
	kept := keptHeader(header)
	addMaxAge(kept)
	answer := &preflightAnswer{status, keptList(kept), asked}
	if !cache.Fits("", answer.fields) {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known.Add(kind, answer) {
		p.evicted++
	}
	return true
}

// usage returns how many kinds are remembered, and how many made room for others.
func (p *preflights) usage() (entries int, evicted uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known.Len(), p.evicted
}
