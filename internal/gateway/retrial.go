package gateway

import (
	"fmt"
	"net/http"
	"slices"
	"time"
)

// isOfOneClient tells that a fetch brought what may be due to the client that it was made
// for: a failure, or a refusal on the way to the homeserver.
func (f *fetched) isOfOneClient() bool {
	return f.found == nil && !f.crashed && (f.err != nil || f.site || f.status >= http.StatusInternalServerError || slices.Contains(aboutRequest, f.status))
}

// retrial is what is found out after a fetch that several readers shared has failed: whether
// it was due to the client that it was made for. The others ask for themselves, one at a
// time, until one of them gets an answer; then the rest do at once. If a few users have
// failed as well, the others believe them: a homeserver that is down for all isn't asked by
// all.
type retrial struct {
	turn chan struct{} // has room for one, who may use all below

	tried []party // whose requests failed
	up    bool    // somebody got an answer
}

const (
	// maxTried is how many users' requests must fail for all others to believe that
	// theirs would, too.
	maxTried = 3

	// maxTries is how many requests may: one user may have many addresses.
	maxTries = 8
)

// party is whose request it was.
type party struct {
	viewer     string
	credential [16]byte
	address    string
}

func (g *Gateway) newParty(who reader, request *subrequest) party {
	return party{who.viewer, g.store.identities.Fingerprint(who.credential), request.route.ClientIP()}
}

func newRetrial(first party) *retrial {
	return &retrial{turn: make(chan struct{}, 1), tried: []party{first}}
}

// convinces reports whether what has failed so far is answer enough for another reader.
func (t *retrial) convinces(p party) bool {
	var viewers []string
	for _, other := range t.tried {
		if other.credential == p.credential && other.address == p.address {
			return true // it was theirs
		}
		if !slices.Contains(viewers, other.viewer) {
			viewers = append(viewers, other.viewer)
		}
	}
	return len(viewers) >= maxTried || len(t.tried) >= maxTries
}

// retry asks for a reader who has shared a fetch that failed, by a request that has nothing
// of the client's but its credential, or tells that it is of no use, or that the reader's
// own time is over. It reports whether the result is the reader's own.
func (g *Gateway) retry(r *http.Request, request subrequest, who reader, failed *fetched, end time.Time) (result *fetched, own bool, err error) {
	if time.Until(end) <= 0 {
		return failed, false, nil
	}
	fetch := func(request subrequest) *fetched {
		return g.store.fetches.Alone(func() *fetched { return g.sendFetch(request, who, time.Until(end)) })
	}
	t := failed.retrial
	if t == nil {
		return fetch(request), true, nil // a refusal on the way: the next one may get through
	}
	patience := time.NewTimer(time.Until(end))
	defer patience.Stop()
	select {
	case t.turn <- struct{}{}:
	case <-patience.C:
		return failed, false, nil
	case <-r.Context().Done():
		return nil, false, fail(statusClientClosed, fmt.Errorf("waiting for the homeserver: %w", r.Context().Err()))
	}
	request = request.plain()
	p := g.newParty(who, &request)
	switch {
	case t.up:
		<-t.turn
		return fetch(request), true, nil
	case t.convinces(p):
		<-t.turn
		return failed, false, nil
	}
	defer func() { <-t.turn }()
	if result = fetch(request); result.found == nil && result.failed() {
		t.tried = append(t.tried, p)
	} else {
		t.up = true
	}
	return result, true, nil
}
