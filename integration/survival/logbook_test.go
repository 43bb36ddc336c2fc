package survival_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"strings"
	"sync"
)

// logbook is where Caddy sends its access log: nothing is written to disk, and no line
// is lost, because Caddy writes each before it goes on.
type logbook struct {
	listener net.Listener
	readers  sync.WaitGroup

	mu      sync.Mutex // guards what is below
	entries map[entry]int
	err     error
}

// entry is what a line says.
type entry struct {
	Kind     kind   `json:"kind"`
	Status   int    `json:"status"`
	Cache    string `json:"cache"`
	Decision string `json:"decision"`
	// CacheStatus is the field of the answer, shortened to one of the ways.
	CacheStatus string `json:"cache_status"`
}

// The ways by which an answer came, as Cache-Status tells. Each of the first three is one
// request that the homeserver has answered.
const (
	wayMiss      = "fwd=miss"
	wayBypass    = "fwd=bypass"
	wayWrite     = "fwd=method"
	wayCollapsed = "collapsed"
	wayHit       = "hit"
	wayCoalesced = "detail=coalesced"
)

// way shortens a Cache-Status, such as "matrix_presence; fwd=miss; stored".
func way(cacheStatus string) string {
	parts := strings.Split(cacheStatus, "; ")
	switch {
	case len(parts) < 2:
		return ""
	case parts[1] == wayMiss && parts[len(parts)-1] == wayCollapsed:
		return wayCollapsed
	}
	return parts[1]
}

func openLogbook() (*logbook, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for the access log: %w", err)
	}
	b := &logbook{listener: l, entries: make(map[entry]int)}
	b.readers.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			b.readers.Go(func() {
				defer conn.Close()
				b.read(conn)
			})
		}
	})
	return b, nil
}

func (b *logbook) address() string { return b.listener.Addr().String() }

func (b *logbook) read(conn net.Conn) {
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		var e entry
		err := json.Unmarshal(lines.Bytes(), &e)
		e.CacheStatus = way(e.CacheStatus)
		b.mu.Lock()
		if err != nil {
			b.err = fmt.Errorf("reading the access log: %w: %.200s", err, lines.Bytes())
		}
		b.entries[e]++
		b.mu.Unlock()
	}
	if err := lines.Err(); err != nil {
		b.mu.Lock()
		b.err = fmt.Errorf("reading the access log: %w", err)
		b.mu.Unlock()
	}
}

// close returns all entries, when Caddy has closed its connection.
func (b *logbook) close() (map[entry]int, error) {
	b.listener.Close()
	b.readers.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	entries := maps.Clone(b.entries)
	// The probe at the start has no kind.
	maps.DeleteFunc(entries, func(e entry, _ int) bool { return e.Kind == "" })
	return entries, b.err
}
