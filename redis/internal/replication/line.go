package replication

import (
	"strconv"
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

// Reader reads the lines of one server's channel, since it was subscribed to. It is not safe for
// use by several goroutines.
type Reader struct {
	news   gateway.News
	suffix string // of the user IDs of the server

	positions map[source]int64

	// saidCaches tells that Synapse has invalidated a cache by a row. On PostgreSQL it does, on
	// SQLite never, and then what devices do is all that tells of a logout.
	saidCaches bool
}

// NewReader returns a reader that has read nothing.
func NewReader(serverName string, news gateway.News) *Reader {
	return &Reader{news: news, suffix: ":" + serverName, positions: make(map[source]int64)}
}

// others are the commands that say nothing about presence, rooms or tokens.
var others = map[string]bool{
	"REPLICATE": true, "USER_SYNC": true, "CLEAR_USER_SYNC": true, "FEDERATION_ACK": true, "REMOTE_SERVER_UP": true,
	"LOCK_RELEASED": true, "NEW_ACTIVE_TASK": true, "CANCEL_TASK": true, "USER_IP": true,
	"SERVER": true, "ERROR": true, "PING": true, "NAME": true,
}

// Line reads a line, and tells what it says.
func (r *Reader) Line(line string) {
	word, rest, _ := strings.Cut(line, " ")
	switch {
	case word == "RDATA":
		r.data(rest)
	case word == "POSITION":
		r.news.Heard(gateway.LineOther)
		r.position(rest)
	case others[word]:
		r.news.Heard(gateway.LineOther)
	default:
		r.news.Heard(gateway.LineUnknown)
	}
}

// data reads "<stream> <instance> <token>|batch <row>".
func (r *Reader) data(rest string) {
	stream, rest, _ := strings.Cut(rest, " ")
	kind, ok := kinds[stream]
	if !ok {
		r.news.Heard(gateway.LineUnknown)
		return
	}
	r.news.Heard(kind)
	if kind == gateway.LineOther {
		return
	}
	instance, rest, _ := strings.Cut(rest, " ")
	token, row, ok := strings.Cut(rest, " ")
	if ok && token != "batch" {
		var at int64
		if at, ok = number(token); ok {
			r.reached(source{stream, instance}, at)
		}
	}
	if !ok || !r.row(stream, row) {
		r.news.Missed(gateway.FeedUnreadable)
	}
}

func number(text string) (n int64, ok bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil && n >= 0
}
