package plan

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// logLine is one of Caddy's access log.
func logLine(at time.Duration, client, method, uri string, status int, lasted time.Duration) string {
	return fmt.Sprintf(`{"level":"info","ts":%.3f,"logger":"http.log.access","msg":"handled request","request":{"remote_ip":"127.0.0.1","client_ip":%q,`+
		`"proto":"HTTP/1.1","method":%q,"host":"hs","uri":%q,"headers":{"User-Agent":["a client"]}},"duration":%.3f,"status":%d}`+"\n",
		1_700_000_000+(at+lasted).Seconds(), client, method, uri, lasted.Seconds(), status)
}

func presencePath(user string) string { return "/_matrix/client/v3/presence/" + user + "/status" }

// fromLog answers about a log.
func fromLog(t *testing.T, log string) (*Answer, error) {
	t.Helper()
	q := about(t, 0, "default")
	return q.FromLog(strings.NewReader(log), nil)
}

// Two clients look at one user each ten seconds, for five minutes: each of them has two hits of three.
func TestALogIsPlayed(t *testing.T) {
	var log strings.Builder
	log.WriteString(`{"level":"info","ts":1700000000.1,"msg":"serving initial configuration"}` + "\nnonsense\n")
	for at := time.Duration(0); at < 5*time.Minute; at += 10 * time.Second {
		for _, client := range []string{"192.0.2.1", "192.0.2.2"} {
			log.WriteString(logLine(at+time.Second, client, "GET", presencePath("@alice:hs"), 200, time.Millisecond))
			log.WriteString(logLine(at+2*time.Second, client, "POST", "/_matrix/client/v3/rooms/!a:hs/read_markers", 200, time.Millisecond))
		}
	}
	a, err := fromLog(t, log.String())
	if err != nil {
		t.Fatal(err)
	}
	if want := (LogCounts{Lines: 122, Used: 60, Other: 61, Bad: 1}); *a.Log != want {
		t.Errorf("lines: %+v, want %+v", *a.Log, want)
	}
	if a.HitRatio.Low > 0.67 || a.HitRatio.High < 0.63 || a.Clients["read"].Low > 0.2 || a.Clients["read"].High < 0.2 {
		t.Errorf("%v hits, %v reads a second", a.HitRatio, a.Clients["read"])
	}
	if a.Source != "access log" || a.Load != nil || !strings.Contains(strings.Join(a.Assumptions, "\n"), "1 line") {
		t.Errorf("%+v", a)
	}
}

// A log has requests in the order in which they end. They are played in the order in which they began: a sync that
// waited for long began before a read that is over.
func TestALogIsPutInOrder(t *testing.T) {
	lines := newLogReader(strings.NewReader(
		logLine(40*time.Second, "a", "GET", presencePath("@alice:hs"), 200, time.Millisecond) +
			logLine(15*time.Second, "b", "GET", "/_matrix/client/v3/sync?since=s1&timeout=30000", 200, 30*time.Second)))
	p := &replay{step: firstStep}
	for {
		e, ok, err := lines.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		if err := p.wait(e); err != nil {
			t.Fatal(err)
		}
	}
	if len(p.waiting) != 2 || p.waiting[0].method != "GET" || !strings.HasSuffix(p.waiting[0].path, "/sync") || p.waiting[0].lasted != 30*time.Second {
		t.Errorf("%+v", p.waiting)
	}
}

func TestLinesOfOtherFormatsAreRead(t *testing.T) {
	for _, line := range []string{
		`192.0.2.1 - - [28/Nov/2026:08:00:00 +0100] "GET /_matrix/client/v3/presence/@alice:hs/status HTTP/1.1" 200 90 "-" "Element \"X\""`,
		`192.0.2.1 - - [28/Nov/2026:08:00:00 +0100] "GET /_matrix/client/v3/presence/@alice:hs/status HTTP/1.1" 200 90`,
		`{"ts":"2026-11-28T07:00:00.000Z","request":{"method":"GET","uri":"/_matrix/client/v3/presence/@alice:hs/status"},"duration":"1.5ms","status":200}`,
		`{"ts":1795849200000,"request":{"method":"GET","uri":"/_matrix/client/v3/presence/@alice:hs/status"},"status":200}`,
	} {
		e, ok, err := newLogReader(strings.NewReader(line)).next()
		if err != nil || !ok || !isPresence(&e) || e.status != 200 || e.ended.Unix() != 1795849200 {
			t.Errorf("%s: %+v, %v, %v", line, e, ok, err)
		}
	}
}

func TestABadLogIsRefused(t *testing.T) {
	other := logLine(0, "a", "GET", "/", 200, 0)
	for name, tt := range map[string]struct{ log, says string }{
		"empty":                     {"", "the log is empty"},
		"of something else":         {strings.Repeat("Nov 28 host sshd[1]: hello\n", 10), "Caddy's in JSON"},
		"without presence":          {other + other, "none of 2 lines is about presence"},
		"of a moment":               {logLine(0, "a", "GET", presencePath("@alice:hs"), 200, 0), "covers 0s"},
		"with a line of a megabyte": {strings.Repeat("x", maxLine+10) + "\n" + other, "none of 2 lines"},
	} {
		if _, err := fromLog(t, tt.log); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want something about %q", name, err, tt.says)
		}
	}
}

// A log of years, with pauses, is no more work than its lines.
func TestPausesAreLeftOut(t *testing.T) {
	var log strings.Builder
	for year := range 10 {
		for i := range 60 {
			at := time.Duration(year)*365*24*time.Hour + time.Duration(i)*5*time.Second
			log.WriteString(logLine(at, "a", "GET", presencePath("@alice:hs"), 200, 0))
		}
	}
	a, err := fromLog(t, log.String())
	if err != nil {
		t.Fatal(err)
	}
	if a.Simulated.Seconds > 3600 {
		t.Errorf("%v seconds were played", a.Simulated.Seconds)
	}
}

// Whoever gives all files that match access.log* gives the latest first. Clocks that are set back a bit do no harm.
func TestALogIsInTheOrderOfTime(t *testing.T) {
	look := func(at time.Duration) string { return logLine(at, "a", "GET", presencePath("@alice:hs"), 200, 0) }
	var today, yesterday strings.Builder
	for i := range 200 {
		today.WriteString(look(24*time.Hour + time.Duration(i)*time.Second))
		yesterday.WriteString(look(time.Duration(i) * time.Second))
	}
	if _, err := fromLog(t, today.String()+yesterday.String()); err == nil || !strings.Contains(err.Error(), "200 of 400 lines about presence are older") {
		t.Errorf("the latest first: %v", err)
	}
	if _, err := fromLog(t, yesterday.String()+today.String()+look(0)); err != nil {
		t.Errorf("in order, but for a line: %v", err)
	}
}

func FuzzLog(f *testing.F) {
	f.Add(logLine(0, "192.0.2.1", "GET", presencePath("@alice:hs"), 200, time.Second))
	f.Add(logLine(0, "192.0.2.1", "PUT", presencePath("@alice:hs"), 200, 0) + logLine(time.Minute, "192.0.2.1", "PUT", presencePath("@bob:hs"), 401, 0))
	f.Add(`192.0.2.1 - alice [28/Nov/2026:08:00:00 +0100] "OPTIONS /_matrix/client/r0/presence/%40a:b/status HTTP/1.1" 204 0 "-" "x"`)
	f.Add(`{"ts":1e300,"request":{"uri":"/_matrix/client/v3/sync?set_presence=offline"},"duration":-1}`)
	f.Add("{\n\"\x00")
	f.Fuzz(func(t *testing.T, log string) {
		q := about(t, 0, "busy")
		a, err := q.FromLog(strings.NewReader(log), nil)
		if err == nil && (a.Log.Used+a.Log.Other+a.Log.Bad != a.Log.Lines || a.Simulated.Requests > a.Log.Used) {
			t.Errorf("%+v of %d requests", *a.Log, a.Simulated.Requests)
		}
	})
}
