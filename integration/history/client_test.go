package history

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// headerTimeout is when the sidecar gives up a request that the homeserver doesn't
// answer.
const headerTimeout = 600 * time.Millisecond

// load is what the clients of a round have in common.
type load struct {
	hs      *homeserver
	url     string
	http    *http.Client
	targets []string
	think   time.Duration // between a client's operations, on average
	tally   *tally
	problem func(format string, args ...any)
	done    atomic.Int64 // operations
	half    chan struct{}
	total   int64
	trouble atomic.Bool // is under way
}

// values numbers the writes.
var values atomic.Int64

// client is one device of a user.
type client struct {
	*load
	number int
	token  string
	own    string // the user that it writes and reads, or "" for one that reads all targets

	mu  sync.Mutex // guards ops
	ops []operation
}

// run makes so many operations, with some time in between, and then goes on, more slowly, while there is trouble.
func (c *client) run(n int) {
	for i := 0; i < n || c.trouble.Load(); i++ {
		think := c.think
		if i >= n {
			think *= 10
		}
		time.Sleep(rand.N(2 * think))
		switch {
		case c.own == "" || rand.IntN(3) > 0:
			c.read(c.target())
		case c.hs.past && rand.IntN(2) == 0:
			c.writePast()
		case rand.IntN(3) > 0:
			c.write()
		default:
			c.writeTwice()
		}
		if c.own != "" && c.hs.absorbs {
			for range rand.IntN(6) {
				c.repeat()
				time.Sleep(rand.N(10 * time.Millisecond))
			}
		}
		if c.done.Add(1) == c.total/2 {
			close(c.half)
		}
	}
}

// target is whom to look at next, some more often than others.
func (c *client) target() string {
	if c.own != "" {
		return c.own
	}
	return c.targets[min(rand.IntN(len(c.targets)), rand.IntN(len(c.targets)))]
}

// read reads a target's presence. Without an answer it is no operation.
func (c *client) read(target string) (op operation, ok bool) {
	ctx := context.Background()
	if !c.hs.calm.Load() && rand.IntN(15) == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, rand.N(10*time.Millisecond))
		defer cancel()
	}
	op = operation{client: c.number, target: target, call: clock()}
	status, header, body, err := c.do(ctx, http.MethodGet, c.path(target), "")
	op.end = clock()
	if err != nil || status >= http.StatusInternalServerError {
		c.tally.read(ctx.Err(), "")
		return op, false
	}
	op.how = header.Get("Cache-Status")
	switch {
	case status == http.StatusOK:
		op.value, err = valueOf(body)
	case status == http.StatusNotFound && strings.Contains(string(body), "M_NOT_FOUND"):
	default:
		err = fmt.Errorf("status %d", status)
	}
	if err != nil || !strings.HasPrefix(op.how, "matrix_presence; ") || strings.Contains(op.how, "stale") {
		c.problem("a read was answered with %d %s (Cache-Status: %s)", status, body, op.how)
		return op, false
	}
	c.tally.read(nil, op.how)
	c.note(op)
	return op, true
}

// write writes the client's own presence. Whoever doesn't get 200 doesn't know whether
// it was applied.
func (c *client) write() {
	w := &write{value: values.Add(1), fate: c.hs.fate(), decided: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	op := operation{client: c.number, target: c.own, isWrite: true, value: w.value, how: w.fate.String(), call: clock()}
	w.deadline = op.call + headerTimeout + c.hs.settle
	switch {
	case w.fate != abandoned:
	case c.hs.settle > 0:
		ctx, cancel = context.WithTimeout(ctx, rand.N(20*time.Millisecond))
		defer cancel()
		w.deadline = op.call + c.hs.settle
	default:
		// A homeserver that applies a write when the sidecar has given it up, and nothing
		// has to settle, breaks its word. So here it has decided before.
		go func() {
			select {
			case <-w.decided:
			case <-ctx.Done():
			}
			cancel()
		}()
	}
	c.hs.expect(w)
	c.hs.register(c.own).beginWrite()
	status, _, body, err := c.do(ctx, http.MethodPut, c.path(c.own), bodyOf(w.value))
	op.end = clock()
	c.hs.register(c.own).endWrite()
	op.acknowledged = err == nil && status == http.StatusOK
	if err == nil && status != http.StatusOK && status < http.StatusInternalServerError {
		c.problem("a write was answered with %d %s", status, body)
	}
	c.note(op)
}

// repeat says again what the client has last been told to be written. If that is absorbed,
// it is as good as having read the value: it changes nothing, and is right only where
// that is what there is. If it isn't, the homeserver refuses it, as it is the
// same value.
func (c *client) repeat() {
	value, ok := c.lastWritten()
	if !ok {
		return
	}
	op := operation{client: c.number, target: c.own, value: value, call: clock()}
	status, header, body, err := c.do(context.Background(), http.MethodPut, c.path(c.own), bodyOf(value))
	op.end, op.how = clock(), header.Get("Cache-Status")
	switch {
	case err != nil || status >= http.StatusInternalServerError:
		return
	case status != http.StatusOK || op.how != "matrix_presence; detail=absorbed":
		c.problem("a repeated write was answered with %d %s (Cache-Status: %s)", status, body, op.how)
		return
	}
	c.tally.read(nil, op.how)
	c.note(op)
}

// lastWritten returns the value of the client's last acknowledged write.
func (c *client) lastWritten() (value int64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, op := range slices.Backward(c.ops) {
		if op.isWrite && op.acknowledged {
			return op.value, true
		}
	}
	return 0, false
}

// bodyOf is the body of a write.
func bodyOf(value int64) string { return fmt.Sprintf(`{"presence":"online","status_msg":"%d"}`, value) }

// writeTwice makes two writes at a time, as a client does whose user is in a hurry.
func (c *client) writeTwice() {
	var both sync.WaitGroup
	both.Go(c.write)
	both.Go(c.write)
	both.Wait()
}

func (c *client) note(op operation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ops = append(c.ops, op)
}

// path returns one of the paths of a user's presence. Synapse's own two lead around the
// cache, so that some see at any time what the homeserver has.
func (c *client) path(user string) string {
	version := "v3"
	switch rand.IntN(16) {
	case 0, 1:
		version = "unstable"
	case 2:
		version = "api/v1"
	case 3, 4, 5:
		version = "r0"
	}
	if rand.IntN(4) == 0 {
		user = url.QueryEscape(user)
	}
	return "/_matrix/client/" + version + "/presence/" + user + "/status"
}

func (c *client) do(ctx context.Context, method, path, content string) (status int, header http.Header, body []byte, err error) {
	return c.send(ctx, c.url, method, path, content)
}

// send sends a request to the sidecar, or past it.
func (c *client) send(ctx context.Context, url, method, path, content string) (status int, header http.Header, body []byte, err error) {
	var reader io.Reader
	if content != "" {
		reader = strings.NewReader(content)
	}
	r, err := http.NewRequestWithContext(ctx, method, url+path, reader)
	if err != nil {
		return 0, nil, nil, err
	}
	r.Header.Set("Authorization", "Bearer "+c.token)
	if c.hs.nodes > 0 {
		r.Header.Set("X-Node", fmt.Sprint(rand.IntN(c.hs.nodes)))
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	if err == nil && !json.Valid(body) && resp.StatusCode == http.StatusOK {
		err = fmt.Errorf("the answer is no JSON: %s", body)
	}
	return resp.StatusCode, resp.Header, body, err
}
