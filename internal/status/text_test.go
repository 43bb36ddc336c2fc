package status

import (
	"strings"
	"testing"
	"time"
)

func TestTextLeavesOutWhatHasNotHappened(t *testing.T) {
	var h History
	h.Add(at(0, cache("a", 0, 0)))
	h.Add(at(10*time.Second, cache("a", 100, 60)))
	text := h.View(nil).Text()
	for _, want := range []string{
		"test, up 10 s, 2026-07-01 12:00:10 UTC\n",
		"  Key figures                     Now  Average  Total\n",
		"  Reads                        10.0/s   10.0/s    100  requests_total{route=\"read\"}\n",
		"  hit      6.00/s  60      0\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	for _, not := range []string{"Writes", "failed", "Tables", "M0 "} {
		if strings.Contains(text, not) {
			t.Errorf("%q in\n%s", not, text)
		}
	}
	if text := new(History).View(nil).Text(); !strings.Contains(text, "No site has") {
		t.Errorf("%q", text)
	}
}
