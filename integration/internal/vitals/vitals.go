// Package vitals reads from Caddy's admin endpoint what a running sidecar holds:
// memory, goroutines, file descriptors and the entries of its tables. Nothing of it
// needs more than the endpoint, so an admin can read the same.
package vitals

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/equations"
)

// Vitals is what a sidecar holds at a moment.
type Vitals struct {
	// Goroutines is how many there are.
	Goroutines int
	// Heap is how many bytes are in use or not yet collected.
	Heap int64
	// Resident is the memory of the process in bytes, and Descriptors how many files
	// it has open. They are 0 where the system doesn't tell, see [Vitals.OfProcess].
	Resident    int64
	Descriptors int
	// Tables is how many entries each table of the memories has.
	Tables map[string]int
	// Counters are those of the module.
	Counters equations.Counters
	// Pending is how many writes wait, in all memories.
	Pending int
	// InFlight is how many requests are being served under the newest configuration,
	// if that has Caddy's metrics on.
	InFlight int
}

// OfProcess tells whether the system says what the process as a whole holds. Linux
// does.
func (v Vitals) OfProcess() bool { return v.Resident > 0 && v.Descriptors > 0 }

// client keeps no connection: one that idles would be counted.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// get tries again if there is no answer: a reload replaces the admin endpoint too, and
// what the old one hasn't read to the end by then is dropped.
func get(ctx context.Context, url string) (body io.ReadCloser, err error) {
	for range 5 {
		var req *http.Request
		if req, err = http.NewRequestWithContext(ctx, http.MethodGet, url, nil); err != nil {
			return nil, err
		}
		var resp *http.Response
		if resp, err = client.Do(req); err != nil {
			continue
		}
		if resp.StatusCode != http.StatusOK {
			resp.Body.Close()
			return nil, fmt.Errorf("GET %s: %s", url, resp.Status)
		}
		return resp.Body, nil
	}
	return nil, err
}

// Read asks the admin endpoint at an address.
func Read(ctx context.Context, admin string) (Vitals, error) {
	body, err := get(ctx, "http://"+admin+"/metrics")
	if err != nil {
		return Vitals{}, fmt.Errorf("reading the metrics: %w", err)
	}
	defer body.Close()
	return Parse(body)
}

// Parse reads the metrics as Caddy tells them.
func Parse(metrics io.Reader) (Vitals, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(metrics)
	if err != nil {
		return Vitals{}, fmt.Errorf("reading the metrics: %w", err)
	}
	v := Vitals{
		Goroutines:  int(sum(families["go_goroutines"])),
		Heap:        int64(sum(families["go_memstats_heap_alloc_bytes"])),
		Resident:    int64(sum(families["process_resident_memory_bytes"])),
		Descriptors: int(sum(families["process_open_fds"])),
		Tables:      make(map[string]int),
		Counters:    equations.Read(slices.Collect(maps.Values(families))),
		Pending:     int(sum(families[ours+"pending"])),
		InFlight:    int(sum(families["caddy_http_requests_in_flight"])),
	}
	for _, m := range families[ours+"entries"].GetMetric() {
		for _, label := range m.GetLabel() {
			if label.GetName() == "table" {
				v.Tables[label.GetValue()] += int(value(m))
			}
		}
	}
	if v.Goroutines == 0 || len(v.Tables) == 0 {
		return Vitals{}, errors.New("reading the metrics: no goroutines or no tables among them")
	}
	return v, nil
}

// ours begins the names of the module's metrics.
const ours = "caddy_matrix_presence_"

func value(m *dto.Metric) float64 {
	return m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetUntyped().GetValue()
}

func sum(family *dto.MetricFamily) (total float64) {
	for _, m := range family.GetMetric() {
		total += value(m)
	}
	return total
}

// LiveHeap collects the sidecar's garbage and returns how many bytes are left.
func LiveHeap(ctx context.Context, admin string) (int64, error) {
	body, err := get(ctx, "http://"+admin+"/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		return 0, fmt.Errorf("reading the heap: %w", err)
	}
	defer body.Close()
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "# HeapAlloc = "); ok {
			return strconv.ParseInt(text, 10, 64)
		}
	}
	return 0, fmt.Errorf("reading the heap: no HeapAlloc in the profile: %w", errors.Join(lines.Err(), io.ErrUnexpectedEOF))
}
