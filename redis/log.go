package redis

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	_ "embed" // the scripts
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/cluster"
)

var (
	//go:embed scripts/log.lua
	logSource string
	//go:embed scripts/turns.lua
	turnsSource string
	//go:embed scripts/append.lua
	appendSource string
	//go:embed scripts/pull.lua
	pullSource string

	// They are sent by their hash, and whole if the server doesn't know that: after a restart, or
	// when another has taken over.
	appendScript, pullScript = redis.NewScript(logSource + turnsSource + appendSource), redis.NewScript(logSource + pullSource)
)

// logFormat is that of the log. A node that reads another one must not take part.
const logFormat = "1"

// log is a [cluster.Log] in a Redis. Its keys have one hash tag, so that a cluster of Redis keeps
// them together:
//
//	{mp:NAME}:id     the format, a proof of the secret, and a random number, set once
//	{mp:NAME}:seq    the number of the last entry; that of the first is random
//	{mp:NAME}:log    the entries, a stream; some 100,000 are kept
//	{mp:NAME}:nodes  who has pulled of late, by when
//	{mp:NAME}:p:…    the turns of a user's writes that wait, by an HMAC of the user; and with a node and a number,
//	                 one that waits no more, of which nothing was known
//	{mp:NAME}:w:…    budgets of writes, r: of reads, s: of syncs, by an HMAC of the user
type log struct {
	client redis.UniversalClient
	secret []byte
	prefix string // of all keys
	keys   []string

	// What all scripts begin with: what the log's id begins with, what it is to be if there is none, and
	// the number before that of the first entry then.
	begin []any

	mu     sync.Mutex       // guards all below, and is held during a call on the line
	line   *line            // or nil
	of     cluster.Position // the log and the server of the line, since the last pull; only these
	looked string           // at which server's memory was looked
}

// newLog returns the log of a cluster's name.
func newLog(client redis.UniversalClient, secret, keyPrefix, name string) *log {
	prefix := "{" + keyPrefix + name + "}:"
	l := &log{
		client: client, secret: []byte(secret), prefix: prefix,
		keys: []string{prefix + "id", prefix + "seq", prefix + "log"},
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	token := logFormat + " " + l.hash("log", keyPrefix+name) + " "
	l.begin = []any{token, token + hex.EncodeToString(random[:]), binary.BigEndian.Uint64(random[:]) >> 24}
	return l
}

// hash returns what a text is called outside of this process. It tells nobody who hasn't the secret
// what the text is.
func (l *log) hash(what, text string) string {
	mac := hmac.New(sha256.New, l.secret)
	_, _ = mac.Write([]byte(what + "\x00" + text)) // never fails
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// Take implements [cluster.Log].
func (l *log) Take(ctx context.Context, charge cluster.Charge, entries ...cluster.Entry) (cluster.Grant, error) {
	user := l.hash("user", charge.UserID)
	keys := append(l.keys[:3:3], l.prefix+"nodes", l.turns(user))
	args := append(l.begin[:len(l.begin):len(l.begin)], "", "", "", "")
	if charge.Budget != 0 {
		keys = append(keys, l.prefix+string(rune(charge.Budget))+":"+user)
		interval := max(1, (charge.Interval+time.Microsecond-1)/time.Microsecond)
		args = append(l.begin[:len(l.begin):len(l.begin)], int64(interval), charge.Burst, charge.Most, charge.Debt)
	}
	turn := []any{"", "", "", "", ""}
	if t := charge.Turn; t != nil {
		turn = []any{t.Node, t.Device, flag(t.Merges), "", flag(t.Last)}
		if t.Waited != 0 {
			turn[3] = t.Waited
		}
	}
	return l.append(ctx, keys, append(args, turn...), entries)
}

// turns is the key of those of a user.
func (l *log) turns(user string) string { return l.prefix + "p:" + user }

func flag(b bool) string {
	if b {
		return "1"
	}
	return ""
}

// Append implements [cluster.Log].
func (l *log) Append(ctx context.Context, entries ...cluster.Entry) error {
	args := append(l.begin[:len(l.begin):len(l.begin)], "", "", "", "", "", "", "", "", "")
	_, err := l.append(ctx, append(l.keys[:3:3], l.prefix+"nodes"), args, entries)
	return err
}

func (l *log) append(ctx context.Context, keys []string, args []any, entries []cluster.Entry) (cluster.Grant, error) {
	for _, e := range entries {
		key := ""
		switch e.Kind {
		case cluster.Waits, cluster.Done:
			key = l.turns(l.hash("user", e.Subject))
		case cluster.Refilled:
			key = l.hash("user", e.Subject)
		}
		args = append(args, string(rune(e.Kind)), e.Node, e.Write, e.Subject, e.Device+flag(e.Merges), key)
	}
	answer, err := appendScript.Run(ctx, l.client, keys, args...).Slice()
	if err != nil {
		return cluster.Grant{}, l.explain(err)
	}
	var granted cluster.Grant
	if len(answer) == 2 {
		wait, parseErr := strconv.ParseInt(fmt.Sprint(answer[1]), 10, 64)
		events, ok := answer[0].(int64)
		if ok && parseErr == nil {
			granted = cluster.Grant{Events: max(0, events), Wait: time.Duration(wait) * time.Microsecond}
			switch events {
			case -1:
				granted.Turn = cluster.Behind
			case -2:
				granted.Turn = cluster.TakenOver
			case -3:
				granted.Turn = cluster.Late
			}
			return granted, nil
		}
	}
	return granted, errUnreadable
}

// errUnreadable says that a script has answered something else than it does.
var errUnreadable = errors.New("reading the cluster's log: an answer has another shape")

// Ends implements [cluster.Log].
func (l *log) Ends(by time.Time, at cluster.Position) (ends bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.line == nil || at.Log != l.of.Log || at.Server != l.of.Server {
		return false, nil
	}
	last, err := l.line.last(by)
	if err != nil {
		l.hangUp(context.Background(), err)
		return false, err
	}
	return last == at.Seq, nil
}

// Pull implements [cluster.Log].
func (l *log) Pull(ctx context.Context, node string, after cluster.Position) (cluster.Pulled, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	pulled, err := l.pull(ctx, node, after)
	if err != nil {
		l.hangUp(ctx, err)
		return cluster.Pulled{}, l.explain(err)
	}
	l.of = cluster.Position{Log: pulled.At.Log, Server: pulled.At.Server}
	if looked := l.looked; looked != pulled.At.Server || looked == "" {
		l.looked = pulled.At.Server
		pulled.Warning = warningOf(l.client.Info(ctx, "memory").Val())
	}
	return pulled, nil
}

// pull pulls on the line, which it opens if there is none. It needs the lock.
func (l *log) pull(ctx context.Context, node string, after cluster.Position) (pulled cluster.Pulled, err error) {
	if l.line == nil {
		if l.line, err = openLine(ctx, l.client, l.keys[1]); err != nil {
			return pulled, err
		}
	}
	args := append(l.begin[:len(l.begin):len(l.begin)], node, after.ID)
	answer, err := pullScript.Run(ctx, l.line, append(l.keys[:3:3], l.prefix+"nodes"), args...).Slice()
	if err != nil {
		return pulled, err
	}
	pulled, ok := readPulled(answer, after)
	if !ok {
		return pulled, errUnreadable
	}
	if pulled.At.Server == "" { // our user may not ask, or it doesn't know: then each connection may lead to another
		pulled.At.Server = l.line.name
	}
	return pulled, nil
}

// hangUp ends the line, on which something has failed. The servers of a cluster may have changed. It needs the lock.
func (l *log) hangUp(ctx context.Context, why error) {
	if l.line != nil {
		l.line.close()
	}
	l.line, l.of = nil, cluster.Position{}
	if servers, ok := l.client.(*redis.ClusterClient); ok && strings.HasPrefix(why.Error(), "MOVED ") {
		servers.ReloadState(ctx)
	}
}

// warningOf returns what is wrong with how a server uses its memory, or "".
func warningOf(info string) string {
	values := make(map[string]string)
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		values[name] = value
	}
	policy := values["maxmemory_policy"]
	switch {
	case values["maxmemory"] == "0", policy == "", policy == "noeviction", policy == "volatile-ttl":
		return ""
	}
	return "the Redis of the cluster may drop budgets before they are full again, as its maxmemory-policy is " + policy +
		", and whoever has none has a full one: set maxmemory-policy to noeviction or volatile-ttl"
}

// readPulled reads the answer to a pull. It reports false if that is none.
func readPulled(answer []any, after cluster.Position) (pulled cluster.Pulled, ok bool) {
	if len(answer) != 6 {
		return pulled, false
	}
	seq, err := strconv.ParseUint(text(answer[2]), 10, 64)
	nodes, isNumber := answer[3].(int64)
	entries, isList := answer[5].([]any)
	if err != nil || !isNumber || !isList {
		return pulled, false
	}
	pulled = cluster.Pulled{
		At:   cluster.Position{Log: text(answer[0]), Server: text(answer[1]), ID: text(answer[4]), Seq: after.Seq},
		Head: seq, Nodes: int(nodes),
	}
	if after.ID == "" {
		pulled.At.Seq = seq
	}
	for _, raw := range entries {
		e, ok := readEntry(raw)
		if !ok {
			return pulled, false
		}
		pulled.Entries = append(pulled.Entries, e)
		pulled.At.Seq = e.Seq
	}
	return pulled, true
}

// readEntry reads an entry of a stream: its ID, and names and values.
func readEntry(raw any) (e cluster.Entry, ok bool) {
	parts, isList := raw.([]any)
	if !isList || len(parts) != 2 {
		return e, false
	}
	fields, _ := parts[1].([]any)
	for i := 0; i+1 < len(fields); i += 2 {
		value := text(fields[i+1])
		var err error
		switch text(fields[i]) {
		case "s":
			e.Seq, err = strconv.ParseUint(value, 10, 64)
		case "k":
			if value == "" {
				return e, false
			}
			e.Kind = cluster.Kind(value[0])
		case "n":
			e.Node = value
		case "w":
			e.Write, err = strconv.ParseUint(value, 10, 64)
		case "u":
			e.Subject = value
		}
		if err != nil {
			return e, false
		}
	}
	return e, e.Seq > 0 && e.Kind != 0
}

func text(value any) string {
	s, _ := value.(string)
	return s
}

// Close implements [cluster.Log].
func (l *log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hangUp(context.Background(), redis.ErrClosed)
	return l.client.Close()
}

// explain says what an error means, without the secret or the password.
func (l *log) explain(err error) error {
	message := err.Error()
	format, foreign := strings.CutPrefix(message, "FOREIGN ")
	switch {
	case !foreign:
		return err
	case strings.HasPrefix(format, logFormat):
		return fmt.Errorf("%w: it has another secret: give all nodes the same, or another key_prefix", cluster.ErrForeign)
	}
	return fmt.Errorf("%w: its log has format %.20s and not %s: upgrade all nodes, or give this one another key_prefix", cluster.ErrForeign, format, logFormat)
}

// Interface guard
var _ cluster.Log = (*log)(nil)
