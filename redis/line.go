package redis

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// line is a connection of its own to the server that keeps the log: whoever has it still has the same server
// as before, as the same process. A server that was started anew, or another that has taken over, is on another
// line. A barrier is asked for on it without the library, which takes as long as the rest of it.
type line struct {
	*redis.Client        // with no other connection
	name          string // no other line has it
	conn          net.Conn
	request       []byte
	answer        [256]byte
}

// openLine returns a connection to the server that has a key, of whatever kind of client.
func openLine(ctx context.Context, client redis.UniversalClient, key string) (*line, error) {
	server, ok := client.(*redis.Client)
	if servers, is := client.(*redis.ClusterClient); is {
		var err error
		if server, err = servers.MasterForKey(ctx, key); err != nil {
			return nil, err
		}
	} else if !ok {
		return nil, fmt.Errorf("a %T has no connections", client)
	}
	o := *server.Options()
	conn, err := o.Dialer(ctx, o.Network, o.Addr)
	if err != nil {
		return nil, err
	}
	l := &line{name: rand.Text(), conn: conn, request: fmt.Appendf(nil, "*3\r\n$6\r\nINCRBY\r\n$%d\r\n%s\r\n$1\r\n0\r\n", len(key), key)}
	o.PoolSize, o.MinIdleConns = 1, 0
	// As they were given: the library has made of these what it would take for not given. It would try again, over a
	// connection that there isn't, and nobody would learn what the server has said.
	o.MaxRetries, o.ReadTimeout, o.WriteTimeout = -1, -1, -1
	o.Dialer = func(context.Context, string, string) (net.Conn, error) {
		if conn == nil {
			return nil, errLineEnded
		}
		defer func() { conn = nil }()
		return conn, nil
	}
	l.Client = redis.NewClient(&o)
	if err := l.Ping(ctx).Err(); err != nil { // it says who we are
		l.close()
		return nil, err
	}
	return l, nil
}

var errLineEnded = errors.New("the connection to the cluster's log has ended")

// last returns the number at the key. The command adds nothing to it, but is one that writes, and so is
// refused by a server that takes no writes.
func (l *line) last(by time.Time) (uint64, error) {
	if err := l.conn.SetDeadline(by); err != nil {
		return 0, err
	}
	if _, err := l.conn.Write(l.request); err != nil {
		return 0, err
	}
	for n := 0; n < len(l.answer); {
		read, err := l.conn.Read(l.answer[n:])
		if err != nil {
			return 0, err
		}
		n += read
		if text, whole := bytes.CutSuffix(l.answer[:n], []byte("\r\n")); whole {
			return readNumber(text)
		}
	}
	return 0, errUnreadable
}

// readNumber reads a number, or an error.
func readNumber(answer []byte) (uint64, error) {
	number, is := bytes.CutPrefix(answer, []byte(":"))
	if !is {
		return 0, errors.New(strings.TrimPrefix(string(answer), "-"))
	}
	n, err := strconv.ParseUint(string(number), 10, 64)
	if err != nil {
		return 0, errUnreadable
	}
	return n, nil
}

func (l *line) close() {
	_ = l.Client.Close()
	_ = l.conn.Close()
}
