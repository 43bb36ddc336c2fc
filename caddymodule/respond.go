package caddymodule

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-matrix/caddy-matrix-presence/cache"
)

// How a presence request was answered, in the variables
// matrix_presence.cache and matrix_presence.decision of the request, for access
// logs: {http.vars.matrix_presence.cache}.
const (
	varCache    = "matrix_presence.cache"
	varDecision = "matrix_presence.decision"
)

// word is the value of a variable: a string that is in its interface already, so
// that setting it allocates nothing.
type word any

// The words of matrix_presence.cache. They say the same as the Cache-Status
// field (RFC 9211) of the answer.
var (
	cacheHit    word = "hit"    // from memory
	cacheMiss   word = "miss"   // asked the homeserver, or waited for somebody's request
	cacheStale  word = "stale"  // from memory, because the homeserver could not be reached
	cacheBypass word = "bypass" // passed on, not to be remembered
	cacheNone   word            // no read
)

// The words of matrix_presence.decision.
var (
	decisionForwarded word = "forwarded" // the homeserver answered
	decisionAnswered  word = "answered"  // its answer, from memory
	decisionRejected  word = "rejected"  // 401: no token, or one that it doesn't know
	decisionRefused   word = "refused"   // 403: somebody else's presence
	decisionLimited   word = "limited"   // 429
	decisionInvalid   word = "invalid"   // 400 or 413: a body that no homeserver takes
	decisionFailed    word = "failed"    // the homeserver could not be asked
)

// cacheName is our name in Cache-Status.
const cacheName = "matrix_presence"

// statusWrite is the Cache-Status of a write, which always goes forward.
const statusWrite = cacheName + "; fwd=method"

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
	if ttl >= 0 && ttl < len(hitStatuses) {
		return hitStatuses[ttl]
	}
	return cacheName + "; hit; ttl=" + strconv.Itoa(ttl)
}

func setVars(r *http.Request, cacheWord, decision word) {
	if cacheWord != cacheNone {
		caddyhttp.SetVar(r.Context(), varCache, cacheWord)
	}
	caddyhttp.SetVar(r.Context(), varDecision, decision)
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
	var fields []cache.Field
	for _, name := range slices.Sorted(maps.Keys(header)) {
		if isKept(name) && len(header[name]) > 0 {
			fields = append(fields, cache.Field{Name: name, Values: header[name]})
		}
	}
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
				// and preflights are not cached.
			case "origin":
				// tuwunel names it always; it matters if the origin is echoed.
				if origins := header[corsPrefix+"Allow-Origin"]; len(origins) > 0 && origins[0] != "*" {
					return true
				}
			default:
				return true
			}
		}
	}
	return false
}

// writeKept writes an answer from memory.
//
// Handlers before us may edit header values in place (header … replace), so none
// of the kept strings' slices goes into the response: the values of all
// fields are copied into one array, and each field gets a part of it that can't
// grow into the next.
func writeKept(w http.ResponseWriter, r *http.Request, status int, fields []cache.Field, cacheStatus string, body []byte) {
	n := 2
	for i := range fields {
		n += len(fields[i].Values)
	}
	values := make([]string, n)
	header := w.Header()
	for i := range fields {
		k := copy(values, fields[i].Values)
		header[fields[i].Name] = values[:k:k]
		values = values[k:]
	}
	values[0], values[1] = cacheStatus, decimal(len(body))
	header["Cache-Status"], header["Content-Length"] = values[:1:1], values[1:2:2]
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		// A client that went away is no error of ours.
		_, _ = w.Write(body)
	}
}

// writeAside passes on the answer to a request of ours, whole, as the answer to
// the client's.
func writeAside(w http.ResponseWriter, r *http.Request, a *aside, cacheStatus string) {
	header := w.Header()
	// An answer that came by way of reverse_proxy has no Server of Caddy's.
	delete(header, "Server")
	for name, values := range a.header {
		if name == "Trailer" || name == "Content-Length" {
			continue
		}
		// The answer is shared, its slices must not be.
		header[name] = slices.Clone(values)
	}
	if cacheStatus != "" {
		header.Add("Cache-Status", cacheStatus)
	}
	header.Set("Content-Length", strconv.Itoa(len(a.body)))
	w.WriteHeader(a.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(a.body)
	}
}

// matrixError is the standard error object of the client-server API.
type matrixError struct {
	Errcode      string `json:"errcode"`
	Error        string `json:"error"`
	RetryAfterMS int64  `json:"retry_after_ms,omitempty"`
}

// writeError answers with a Matrix error of ours.
func writeError(w http.ResponseWriter, r *http.Request, status int, decision word, e matrixError) {
	setVars(r, cacheNone, decision)
	header := w.Header()
	setCORS(header)
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	body, _ := json.Marshal(e) // strings and a number can't fail
	header.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}

// writeLimited answers that a budget is used up. The header and the body give
// the time rounded up, so that a client that obeys either never comes too early
// (specification, "Rate limiting": the header since v1.10, the member before).
func writeLimited(w http.ResponseWriter, r *http.Request, wait time.Duration) {
	seconds := (wait + time.Second - 1) / time.Second
	milliseconds := (wait + time.Millisecond - 1) / time.Millisecond
	w.Header().Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
	writeError(w, r, http.StatusTooManyRequests, decisionLimited, matrixError{
		Errcode: "M_LIMIT_EXCEEDED", Error: "Too many presence requests", RetryAfterMS: int64(milliseconds),
	})
}

// setCORS sets the fields that the specification recommends for every answer
// ("Web Browser Clients"), and lets scripts read Retry-After.
func setCORS(header http.Header) {
	header.Set(corsPrefix+"Allow-Origin", "*")
	header.Set(corsPrefix+"Allow-Methods", "GET, HEAD, POST, PUT, DELETE, OPTIONS")
	header.Set(corsPrefix+"Allow-Headers", "X-Requested-With, Content-Type, Authorization")
	header.Set(corsPrefix+"Expose-Headers", "Retry-After")
}
