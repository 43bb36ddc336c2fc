package replication

import (
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

// source is a stream of an instance: each process numbers what it writes.
type source struct{ stream, instance string }

// maxSources bounds the positions, and maxInstance the name of an instance. A large server has some 20 instances of
// six streams, with short names. Whoever can publish can name any.
const maxSources, maxInstance = 4096, 255

// reached notes how far a source has come. Numbers grow, but not by one: rows are left out.
func (r *Reader) reached(s source, at int64) {
	if _, ok := r.positions[s]; !ok && (len(r.positions) >= maxSources || len(s.instance) > maxInstance) {
		r.news.Missed(gateway.FeedUnreadable)
		return
	}
	r.positions[source{strings.Clone(s.stream), strings.Clone(s.instance)}] = at
}

// position reads "<stream> <instance> <previous> <new>": the instance has written nothing between
// the two. If it has come to the first without our hearing of it, something was missed:
//
//	1 Synapse: writes row 7, which we read
//	1 Synapse: loses its connection to Redis, writes row 8, connects again
//	1 Synapse: says POSITION 8 8, and we have read 7 only
//
// If it says less than it has said before, it counts anew, as after a database was restored.
func (r *Reader) position(rest string) {
	fields := strings.Split(rest, " ")
	if len(fields) < 4 {
		r.news.Missed(gateway.FeedUnreadable)
		return
	}
	if kind, ok := kinds[fields[0]]; !ok || kind == gateway.LineOther {
		return
	}
	previous, ok := number(fields[2])
	next, alsoOK := number(fields[3])
	if !ok || !alsoOK {
		r.news.Missed(gateway.FeedUnreadable)
		return
	}
	s := source{fields[0], fields[1]}
	if last, known := r.positions[s]; known {
		switch {
		case next < last:
			r.news.Missed(gateway.FeedReset)
		case previous > last:
			r.news.Missed(gateway.FeedGap)
		}
	}
	r.reached(s, next)
}
