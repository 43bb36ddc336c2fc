package status

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// unknown is what stands where there is no number.
const unknown = "–"

// amount writes a number that need not be whole, to three digits or so.
func amount(x float64) string {
	switch {
	case math.IsNaN(x), math.IsInf(x, 0):
		return unknown
	case x == 0:
		return "0"
	case x < .01:
		return "<0.01"
	case x < 10:
		return strconv.FormatFloat(x, 'f', 2, 64)
	case x < 100:
		return strconv.FormatFloat(x, 'f', 1, 64)
	}
	return count(x)
}

// rate writes how many a second.
func rate(x float64) string {
	if text := amount(x); text != unknown {
		return text + "/s"
	}
	return unknown
}

// count writes a whole number, in groups of three digits.
func count(x float64) string {
	if math.IsNaN(x) {
		return unknown
	}
	digits := strconv.FormatFloat(math.Round(x), 'f', 0, 64)
	for at := len(digits) - 3; at > 0 && digits[at-1] != '-'; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return digits
}

// percent writes a part of one.
func percent(x float64) string {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return unknown
	}
	return strconv.FormatFloat(100*x, 'f', 1, 64) + " %"
}

// seconds writes a time that is given in seconds.
func seconds(x float64) string {
	switch {
	case math.IsNaN(x), math.IsInf(x, 0):
		return unknown
	case x < 1:
		return amount(1000*x) + " ms"
	}
	return amount(x) + " s"
}

// span writes a time by its two largest units: 3 days 4 h, 12 min 5 s.
func span(d time.Duration) string {
	units := []struct {
		name string
		long time.Duration
	}{{"days", 24 * time.Hour}, {"h", time.Hour}, {"min", time.Minute}, {"s", time.Second}}
	d = max(0, d) // the wall clock may have been set back
	var parts []string
	for _, unit := range units {
		n := d / unit.long
		d -= n * unit.long
		if n > 0 || len(parts) > 0 || unit.name == "s" {
			parts = append(parts, fmt.Sprintf("%d %s", n, unit.name))
		}
	}
	return strings.Join(parts[:min(2, len(parts))], " ")
}
