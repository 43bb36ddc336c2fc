package attack_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
)

// sizesOfTables are those of a site's configuration.
type sizesOfTables struct{ states, permissions, tokens int }

// options say how a site is configured.
type options struct {
	bare     bool          // without matrix_presence, to compare with
	tables   sizesOfTables // zero: those of the scale
	module   []string      // further lines of matrix_presence
	identity []string      // further lines of its identity block
	servers  []string      // further lines of Caddy's servers option
}

// rejectedBurst and rejectedEvery are the budget of unknown tokens of a client, which
// all sites here have unless they say otherwise: so many at once, and one more every
// so many seconds.
const (
	rejectedBurst = 20
	rejectedEvery = 6.0
	rejectedLimit = "rejected_limit 10/1m burst 20"

	lookupsEach = 8  // at a time, of one client
	lookupsAll  = 64 // at a time
	networkHas  = 8  // times the budget of a client
)

// site is a running binary in front of a homeserver. It believes from which address
// we say that a request comes.
type site struct {
	*sidecar.Sidecar
	address string
	hs      *homeserver
	tables  sizesOfTables
	pid     int
}

func newSite(t *testing.T, hs *homeserver, o options) *site {
	t.Helper()
	if o.tables == (sizesOfTables{}) {
		o.tables = scale.tables
	}
	if o.identity == nil {
		o.identity = []string{rejectedLimit}
	}
	module := fmt.Sprintf(`matrix_presence {
		%s
		cache {
			states %d
			permissions %d
		}
		identity {
			tokens %d
			%s
		}
	}`, strings.Join(o.module, "\n"), o.tables.states, o.tables.permissions, o.tables.tokens, strings.Join(o.identity, "\n"))
	if o.bare {
		module = ""
	}
	caddyfile := fmt.Sprintf(`{
	admin {$ADMIN}
	log {
		output discard
	}
	servers {
		trusted_proxies static 127.0.0.1
		%s
	}
}
http://{$LISTEN} {
	bind 127.0.0.1
	%s
	reverse_proxy %s {
		transport http {
			keepalive_idle_conns_per_host 256
		}
	}
}
`, strings.Join(o.servers, "\n"), module, hs.URL)
	s, err := sidecar.StartCaddyfile(t.Context(), caddyfile)
	if err != nil {
		t.Fatal(err)
	}
	running := &site{Sidecar: s, address: strings.TrimPrefix(s.URL, "http://"), hs: hs, tables: o.tables}
	t.Cleanup(func() { stop(t, s) })
	running.pid = findProcess(t, running.address)
	running.warmUp(t)
	return running
}

// warmUp makes the site load and allocate what any traffic makes it.
func (s *site) warmUp(t *testing.T) {
	t.Helper()
	warm := flood{connections: 16, requests: 1000, request: func(i int) []byte {
		return request("GET", presencePath(bob), bearer(tokenOf(fmt.Sprint("warm", i%100), 0)), from("203.0.113.1"))
	}}.run(s.address)
	if warm.status[http.StatusOK] != warm.sent {
		t.Fatalf("warming up: %+v", warm)
	}
	s.hs.take()
}

// findProcess returns the process that listens on address, by the environment that it
// was started with. It is 0 where the kernel doesn't tell.
func findProcess(t *testing.T, address string) int {
	t.Helper()
	names, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, name := range names {
		environ, err := os.ReadFile(name)
		if err != nil || !bytes.Contains(append([]byte{0}, environ...), []byte("\x00LISTEN="+address+"\x00")) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil {
			t.Fatal(err)
		}
		return pid
	}
	t.Log("the sidecar's resident memory can't be measured here")
	return 0
}

// memory is what a site's process takes, in bytes.
type memory struct {
	heap     int64 // that is in use after a garbage collection
	resident int64 // now, and at its highest; 0: not known
	peak     int64
}

func (s *site) memory(t *testing.T) memory {
	t.Helper()
	resp, err := http.Get("http://" + s.Admin + "/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	profile, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	match := heapAlloc.FindSubmatch(profile)
	if match == nil {
		t.Fatalf("no HeapAlloc in the heap profile: %.200s", profile)
	}
	m := memory{}
	m.heap, _ = strconv.ParseInt(string(match[1]), 10, 64)
	if s.pid != 0 {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid))
		if err != nil {
			t.Fatal(err)
		}
		m.resident, m.peak = sizeIn(status, "VmRSS:"), sizeIn(status, "VmHWM:")
	}
	return m
}

var heapAlloc = regexp.MustCompile(`(?m)^# HeapAlloc = ([0-9]+)$`)

// sizeIn finds a line such as "VmRSS:	  1234 kB", in bytes.
func sizeIn(status []byte, name string) int64 {
	for line := range bytes.Lines(status) {
		if fields := bytes.Fields(line); len(fields) >= 2 && string(fields[0]) == name {
			n, _ := strconv.ParseInt(string(fields[1]), 10, 64)
			return n << 10
		}
	}
	return 0
}

// goroutines returns how many the site has.
func (s *site) goroutines(t *testing.T) int {
	t.Helper()
	resp, err := http.Get("http://" + s.Admin + "/debug/pprof/goroutine?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var n int
	if _, err := fmt.Fscanf(resp.Body, "goroutine profile: total %d", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// entries returns how many entries a table has, from the site's metrics.
func (s *site) entries(t *testing.T, table string) int {
	t.Helper()
	resp, err := http.Get("http://" + s.Admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "caddy_matrix_presence_entries{") && strings.Contains(line, fmt.Sprintf("table=%q", table)) {
			n, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
	}
	t.Fatalf("no table %q in the metrics", table)
	return 0
}

// newProxy runs the presence-proxy command, which serves any host. It believes nobody
// about addresses unless args say so.
func newProxy(t *testing.T, hs *homeserver, args ...string) *site {
	t.Helper()
	s, err := sidecar.StartProxy(t.Context(), hs.URL, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, s) })
	return &site{Sidecar: s, address: strings.TrimPrefix(s.URL, "http://"), hs: hs}
}

// stop ends a sidecar, and shows the end of its log if the test has failed.
func stop(t *testing.T, s *sidecar.Sidecar) {
	if log := s.Log(); t.Failed() && log != "" {
		t.Logf("the end of the sidecar's log:\n%s", log[max(0, len(log)-2_000):])
	}
	s.Stop()
}
