package gateway

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/identity"
)

// cacheName is our name in Cache-Status.
const cacheName = "matrix_presence"

// The Cache-Status of what goes forward: a write always, a read that memory has no answer to.
const (
	statusWrite     = cacheName + "; fwd=method"
	statusMiss      = cacheName + "; fwd=miss"
	statusStored    = statusMiss + "; stored"
	statusCollapsed = statusMiss + "; collapsed"
)

// decimals holds the numbers that answers from memory usually need, lengths of
// bodies and seconds to live, so that they need no formatting.
var decimals = func() (numbers [512]string) {
	for n := range numbers {
		numbers[n] = strconv.Itoa(n)
	}
	return numbers
}()

func decimal(n int) string {
	if n >= 0 && n < len(decimals) {
		return decimals[n]
	}
	return strconv.Itoa(n)
}

// hitStatuses holds the Cache-Status of a hit likewise, by its seconds to live.
var hitStatuses = func() (statuses [len(decimals)]string) {
	for ttl := range statuses {
		statuses[ttl] = cacheName + "; hit; ttl=" + decimal(ttl)
	}
	return statuses
}()

func statusHit(fresh time.Duration) string {
	ttl := int(fresh / time.Second)
	if fresh < 0 {
		ttl = int((fresh - time.Second + 1) / time.Second) // stale, also for less than a second
	}
	if ttl >= 0 && ttl < len(hitStatuses) {
		return hitStatuses[ttl]
	}
	return cacheName + "; hit; ttl=" + strconv.Itoa(ttl)
}

// keptFields are the header fields that are kept with an answer and sent with it
// again: what a browser, a client or a cache needs in order to treat the body as
// the homeserver meant. Others belong to the one response they came with, such as
// Date, Via, Server, Set-Cookie or a trace ID. All names that begin with
// Access-Control- are kept as well.
var keptFields = []string{
	"Cache-Control", "Content-Language", "Content-Type", "Expires", "Pragma", "Vary",
	"Content-Security-Policy", "Cross-Origin-Resource-Policy", "Origin-Agent-Cluster",
	"Permissions-Policy", "Referrer-Policy", "Strict-Transport-Security",
	"X-Content-Type-Options", "X-Frame-Options", "X-Xss-Protection",
}

const corsPrefix = "Access-Control-"

func isKept(name string) bool {
	return strings.HasPrefix(name, corsPrefix) || slices.Contains(keptFields, name)
}

// keptHeader returns a copy of what is kept of header.
func keptHeader(header http.Header) http.Header {
	kept := make(http.Header)
	for name, values := range header {
		if isKept(name) {
			kept[name] = slices.Clone(values)
		}
	}
	return kept
}

// keptList returns what is kept of header as a list, in the order of names.
func keptList(header http.Header) []cache.Field {
	fields := make([]cache.Field, 0, len(header))
	for name, values := range header {
		if isKept(name) && len(values) > 0 {
			fields = append(fields, cache.Field{Name: name, Values: values})
		}
	}
	slices.SortFunc(fields, func(a, b cache.Field) int { return strings.Compare(a.Name, b.Name) })
	return fields
}

// variesByClient tells that an answer may differ between two requests of the same
// viewer in a way that the cache doesn't know, so that it can't be kept.
func variesByClient(header http.Header) bool {
	for _, value := range header["Vary"] {
		for name := range strings.SplitSeq(value, ",") {
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "", "accept-encoding", "authorization",
				"access-control-request-method", "access-control-request-headers":
				// No matter: encodings are not kept, viewers are told apart,
				// and preflights are cached apart.
			case "origin":
				// tuwunel names it always; it matters if the origin is echoed. A request
				// without one gets no field then, and nobody else is to get that answer.
				if origins := header[corsPrefix+"Allow-Origin"]; len(origins) == 0 || origins[0] != "*" {
					return true
				}
			default:
				return true
			}
		}
	}
	return false
}

// echoesOrigin tells of an answer that scripts of one origin may read it: the one that the
// request names, or none if it names none. A client that names "*" is answered as all are.
func echoesOrigin(request, answer http.Header) bool {
	origins := answer[corsPrefix+"Allow-Origin"]
	if len(origins) == 0 {
		return false
	}
	allowed := origins[len(origins)-1] // what came from upstream is last
	return allowed == request.Get("Origin") && allowed != "*"
}

// learnOrigins notes whether the answers to reads of ours are for the origin that asks.
func (m *Store) learnOrigins(request *http.Request, answer *subresponse) {
	if request.Header["Origin"] != nil && answer.header[corsPrefix+"Allow-Origin"] != nil {
		m.echoes.Store(answer.echoes)
	}
}

// isForItsOrigin tells of a read that its answer will be for its origin. What was asked for
// without one, by no browser, would be for no browser.
func (m *Store) isForItsOrigin(r *http.Request) bool {
	return m.echoes.Load() && r.Header["Origin"] != nil
}

// unlearnOrigins returns a writer that notes that an answer is for all origins. That it is for
// one may be by the site's own header fields, which are in the same map.
func (m *Store) unlearnOrigins(w http.ResponseWriter) http.ResponseWriter {
	return onStatus(w, func(int) {
		if origins := w.Header()[corsPrefix+"Allow-Origin"]; slices.Contains(origins, "*") {
			m.echoes.Store(false)
		}
	})
}

// valueArray is room for the values of all header fields of a response. Handlers before us
// may edit values in place (header … replace), so no slice of what is kept or shared goes
// into a response: each field gets a part of the array, which can't grow into the next.
type valueArray []string

// copyOf returns a copy of values.
func (a *valueArray) copyOf(values []string) []string {
	k := copy(*a, values)
	own := (*a)[:k:k]
	*a = (*a)[k:]
	return own
}

// of returns one value.
func (a *valueArray) of(value string) []string {
	(*a)[0] = value
	own := (*a)[:1:1]
	*a = (*a)[1:]
	return own
}

// newValueArray returns room for the values of header, and so many more.
func newValueArray(header http.Header, more int) valueArray {
	for _, values := range header {
		more += len(values)
	}
	return make(valueArray, more)
}

// writeKept writes an answer from memory, or one of ours.
func writeKept(w http.ResponseWriter, r *http.Request, status int, fields []cache.Field, cacheStatus string, body []byte) {
	n := 2
	for i := range fields {
		n += len(fields[i].Values)
	}
	room := make(valueArray, n)
	header := w.Header()
	for i := range fields {
		header[fields[i].Name] = room.copyOf(fields[i].Values)
	}
	if status != http.StatusNoContent { // which must have none (RFC 9110, 8.6)
		header["Content-Length"] = room.of(decimal(len(body)))
	}
	if cacheStatus != "" {
		header["Cache-Status"] = room.of(cacheStatus)
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		// A client that went away is no error of ours.
		_, _ = w.Write(body)
	}
}

// writeSubresponse passes on the answer to a request of ours, whole, as the answer to
// the client's.
func writeSubresponse(w http.ResponseWriter, r *http.Request, a *subresponse, cacheStatus string) {
	header := w.Header()
	// An answer that came by way of reverse_proxy has no Server of Caddy's.
	delete(header, "Server")
	room := newValueArray(a.header, 2)
	for name, values := range a.header {
		if name != "Trailer" && name != "Content-Length" {
			header[name] = room.copyOf(values)
		}
	}
	header["Content-Length"] = room.of(decimal(len(a.body)))
	switch before := header["Cache-Status"]; {
	case cacheStatus == "":
	case len(before) == 0:
		header["Cache-Status"] = room.of(cacheStatus)
	default: // of another cache
		header["Cache-Status"] = append(before, cacheStatus)
	}
	w.WriteHeader(a.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(a.body)
	}
}

// writeForClient passes on the answer to a request of ours that was made without the
// client's Origin.
func writeForClient(w http.ResponseWriter, r *http.Request, a *subresponse) {
	allowAnyOrigin(w.Header(), a.header)
	writeSubresponse(w, r, a, "")
}

// allowAnyOrigin lets scripts read an answer that was asked for without an Origin, as
// homeservers do. Proxies that echo the origin had none to echo.
func allowAnyOrigin(dst, answer http.Header) {
	if answer[corsPrefix+"Allow-Origin"] == nil {
		dst[corsPrefix+"Allow-Origin"] = []string{"*"}
	}
}

// passOn gives the client what a request of ours got that isn't the homeserver's word:
// an error as it is, so that the site's handle_errors works, with the header fields that
// go with it, such as Retry-After.
func passOn(w http.ResponseWriter, r *http.Request, a *subresponse) error {
	switch {
	case a.aborted:
		panic(http.ErrAbortHandler)
	case a.err != nil:
		header, room := w.Header(), newValueArray(a.header, 0)
		for name, values := range a.header {
			header[name] = room.copyOf(values)
		}
		return a.err
	}
	if a.large { // not all of it is there
		writeMatrixError(w, r, a.status, matrixError{Errcode: "M_UNKNOWN", Error: http.StatusText(a.status)})
		return nil
	}
	writeSubresponse(w, r, a, "")
	return nil
}

// matrixError is the standard error object of the client-server API.
type matrixError struct {
	Errcode      string `json:"errcode"`
	Error        string `json:"error"`
	RetryAfterMS int64  `json:"retry_after_ms,omitempty"`
}

// ownFields are those of the answers that we make ourselves: the CORS fields that the
// specification recommends for every answer ("Web Browser Clients"), with
// Retry-After for scripts to read.
var ownFields = []cache.Field{
	{Name: "Content-Type", Values: []string{"application/json"}},
	{Name: "Cache-Control", Values: []string{"no-store"}},
	{Name: corsPrefix + "Allow-Origin", Values: []string{"*"}},
	{Name: corsPrefix + "Allow-Methods", Values: []string{"GET, HEAD, POST, PUT, DELETE, OPTIONS"}},
	{Name: corsPrefix + "Allow-Headers", Values: []string{"X-Requested-With, Content-Type, Authorization"}},
	{Name: corsPrefix + "Expose-Headers", Values: []string{"Retry-After"}},
}

// writeMatrixError answers with a Matrix error of ours.
func writeMatrixError(w http.ResponseWriter, r *http.Request, status int, e matrixError) {
	body, _ := json.Marshal(e) // strings and a number can't fail
	writeKept(w, r, status, ownFields, "", body)
}

// writeDone answers a write as homeservers do, without one.
func writeDone(w http.ResponseWriter, r *http.Request, o outcome) {
	writeKept(w, r, http.StatusOK, ownFields, cacheName+"; detail="+outcomes[o].name, []byte("{}"))
}

// writeLimited answers that a budget is used up. The header and the body give
// the time rounded up, so that a client that obeys either never comes too early
// (specification, "Rate limiting": the header since v1.10, the member before).
func writeLimited(w http.ResponseWriter, r *http.Request, wait time.Duration) {
	seconds := (wait + time.Second - 1) / time.Second
	milliseconds := (wait + time.Millisecond - 1) / time.Millisecond
	w.Header().Set("Retry-After", decimal(int(seconds)))
	writeMatrixError(w, r, http.StatusTooManyRequests, matrixError{
		Errcode: "M_LIMIT_EXCEEDED", Error: "Too many presence requests", RetryAfterMS: int64(milliseconds),
	})
}

// brownOutDetail is what Cache-Status says of an answer that is what it is because presence gives way.
const brownOutDetail = "; detail=brown-out"

// writeShed answers that presence gives way.
func writeShed(w http.ResponseWriter, r *http.Request, wait time.Duration) {
	w.Header().Add("Cache-Status", cacheName+brownOutDetail)
	writeLimited(w, r, wait)
}

// writeUnverified answers a write whose sender could not be found out.
func (g *Gateway) writeUnverified(w http.ResponseWriter, r *http.Request, err error) {
	status := statusOf(g.server, err)
	if status < http.StatusInternalServerError {
		status = http.StatusBadGateway
	}
	writeMatrixError(w, r, status, matrixError{
		Errcode: "M_UNKNOWN", Error: "The homeserver could not be asked whose access token this is",
	})
}

func writeMissingToken(w http.ResponseWriter, r *http.Request, message string) {
	writeMatrixError(w, r, http.StatusUnauthorized, matrixError{Errcode: "M_MISSING_TOKEN", Error: message})
}

// writeUnknownToken passes on the homeserver's answer to a token that it doesn't
// know, with its soft_logout: a client decides by that whether to keep its keys.
func writeRejection(w http.ResponseWriter, r *http.Request, rejection *identity.UnknownToken) {
	allowAnyOrigin(w.Header(), rejection.Header)
	writeKept(w, r, http.StatusUnauthorized, keptList(rejection.Header), "", []byte(rejection.Body))
}
