package counting

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
)

// Counts are requests that reached a homeserver.
type Counts struct {
	// Reads and Writes are of presence, Whoami asks whose token it is, Syncs may
	// set a presence too, Preflights are OPTIONS of anything.
	Reads, Writes, Whoami, Syncs, Preflights, Other int64
}

// All is the number of requests.
func (c Counts) All() int64 {
	return c.Reads + c.Writes + c.Whoami + c.Syncs + c.Preflights + c.Other
}

// Since returns what was counted after earlier was taken.
func (c Counts) Since(earlier Counts) Counts {
	return Counts{
		Reads: c.Reads - earlier.Reads, Writes: c.Writes - earlier.Writes, Whoami: c.Whoami - earlier.Whoami,
		Syncs: c.Syncs - earlier.Syncs, Preflights: c.Preflights - earlier.Preflights, Other: c.Other - earlier.Other,
	}
}

// Hop stands before a homeserver and counts. Stop it.
type Hop struct {
	// URL is where it listens, and Address the address of that.
	URL, Address string

	server    *httptest.Server
	transport *http.Transport

	reads, writes, whoami, syncs, preflights, other atomic.Int64
}

// connections are kept to the homeserver: more than any experiment has under way.
const connections = 256

// Start puts a hop before the homeserver at base, "http://127.0.0.1:port". Before, unless nil, is
// called for each request when it is counted, and before it is passed on.
func Start(base string, before func(*http.Request)) (*Hop, error) {
	target, err := url.Parse(base)
	if err != nil {
		return nil, err
	}
	h := &Hop{transport: &http.Transport{MaxIdleConns: connections, MaxIdleConnsPerHost: connections, DisableCompression: true}}
	proxy := &httputil.ReverseProxy{
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0), // clients leave
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host
			// It isn't there: the homeserver sees what was sent to the hop.
			r.Out.Header["X-Forwarded-For"] = r.In.Header["X-Forwarded-For"]
		},
		Transport: h.transport,
	}
	h.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.counterOf(r).Add(1)
		if before != nil {
			before(r)
		}
		proxy.ServeHTTP(w, r)
	}))
	h.URL, h.Address = h.server.URL, h.server.Listener.Addr().String()
	return h, nil
}

func (h *Hop) counterOf(r *http.Request) *atomic.Int64 {
	switch {
	case r.Method == http.MethodOptions:
		return &h.preflights
	case strings.HasSuffix(r.URL.Path, "/account/whoami"):
		return &h.whoami
	case strings.HasSuffix(r.URL.Path, "/sync"):
		return &h.syncs
	case !strings.Contains(r.URL.Path, "/presence/"):
		return &h.other
	case r.Method == http.MethodPut:
		return &h.writes
	}
	return &h.reads
}

// Counts tells what has come by.
func (h *Hop) Counts() Counts {
	return Counts{
		Reads: h.reads.Load(), Writes: h.writes.Load(), Whoami: h.whoami.Load(),
		Syncs: h.syncs.Load(), Preflights: h.preflights.Load(), Other: h.other.Load(),
	}
}

// Stop ends the hop.
func (h *Hop) Stop() {
	h.server.CloseClientConnections()
	h.server.Close()
	h.transport.CloseIdleConnections()
}
