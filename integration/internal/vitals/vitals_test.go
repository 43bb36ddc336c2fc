package vitals_test

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/vitals"
)

const metrics = `# TYPE caddy_http_requests_in_flight gauge
caddy_http_requests_in_flight{handler="subroute",server="srv0"} 3
# TYPE caddy_matrix_presence_entries gauge
caddy_matrix_presence_entries{cache="a",table="states"} 5
caddy_matrix_presence_entries{cache="b",table="states"} 2
caddy_matrix_presence_entries{cache="a",table="writers"} 1
# TYPE caddy_matrix_presence_limiter_overflow_total counter
caddy_matrix_presence_limiter_overflow_total{cache="a",limit="read"} 4
caddy_matrix_presence_limiter_overflow_total{cache="a",limit="write"} 1
# TYPE caddy_matrix_presence_outcomes_total counter
caddy_matrix_presence_outcomes_total{cache="a",route="read",outcome="hit"} 6
caddy_matrix_presence_outcomes_total{cache="b",route="read",outcome="hit"} 3
# TYPE caddy_matrix_presence_saved_total counter
caddy_matrix_presence_saved_total{cache="a"} 8
# TYPE go_goroutines gauge
go_goroutines 17
# TYPE go_memstats_heap_alloc_bytes gauge
go_memstats_heap_alloc_bytes 5.5e+06
`

const process = `# TYPE process_open_fds gauge
process_open_fds 14
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 6e+07
`

// admin answers every request with one text, and returns its address.
func admin(t *testing.T, text string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, text) }))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func TestRead(t *testing.T) {
	v, err := vitals.Read(t.Context(), admin(t, metrics+process))
	if err != nil {
		t.Fatal(err)
	}
	tables := map[string]int{"states": 7, "writers": 1}
	counters := map[string]int{
		"limiter_overflow_total{limit=read}": 4, "limiter_overflow_total{limit=write}": 1,
		"outcomes_total{outcome=hit,route=read}": 9, "saved_total": 8,
	}
	if v.Goroutines != 17 || v.Heap != 5_500_000 || v.Resident != 60_000_000 || v.Descriptors != 14 ||
		v.InFlight != 3 || !maps.Equal(v.Tables, tables) || !maps.Equal(v.Counters, counters) || !v.OfProcess() {
		t.Errorf("got %+v", v)
	}
	// A system that doesn't tell of processes.
	if v, err = vitals.Read(t.Context(), admin(t, metrics)); err != nil || v.OfProcess() {
		t.Errorf("got %+v, %v", v, err)
	}
	for name, text := range map[string]string{"nothing": "", "no metrics": "<html>", "nothing of ours": process} {
		if v, err := vitals.Read(t.Context(), admin(t, text)); err == nil {
			t.Errorf("%s: got %+v and no error", name, v)
		}
	}
}

func TestLiveHeap(t *testing.T) {
	got, err := vitals.LiveHeap(t.Context(), admin(t, "heap profile: 1\n\n# runtime.MemStats\n# Alloc = 7\n# HeapAlloc = 123456\n"))
	if err != nil || got != 123456 {
		t.Errorf("got %d, %v", got, err)
	}
	if got, err := vitals.LiveHeap(t.Context(), admin(t, "no profile")); err == nil {
		t.Errorf("got %d and no error", got)
	}
}
