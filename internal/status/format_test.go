package status

import (
	"math"
	"testing"
	"time"
)

func TestFormat(t *testing.T) {
	for _, test := range []struct{ got, want string }{
		{rate(math.NaN()), "–"}, {rate(0), "0/s"}, {rate(.001), "<0.01/s"}, {rate(1.234), "1.23/s"}, {rate(12.34), "12.3/s"}, {rate(1234.4), "1,234/s"},
		{count(0), "0"}, {count(999), "999"}, {count(1000), "1,000"}, {count(1234567), "1,234,567"}, {count(-1234), "-1,234"}, {count(math.NaN()), "–"},
		{percent(.973), "97.3 %"}, {percent(math.NaN()), "–"}, {percent(math.Inf(1)), "–"},
		{seconds(.0012), "1.20 ms"}, {seconds(.25), "250 ms"}, {seconds(2.5), "2.50 s"}, {seconds(math.NaN()), "–"},
		{span(0), "0 s"}, {span(61 * time.Second), "1 min 1 s"}, {span(3 * time.Hour), "3 h 0 min"}, {span(50*time.Hour + time.Second), "2 days 2 h"},
	} {
		if test.got != test.want {
			t.Errorf("%q, want %q", test.got, test.want)
		}
	}
}
