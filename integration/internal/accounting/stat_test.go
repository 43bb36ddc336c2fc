package accounting

import (
	"os"
	"slices"
	"testing"
	"time"
)

func TestStatLines(t *testing.T) {
	for _, c := range []struct {
		name, line string
		pid        int
		want       stat
		wrong      bool
	}{
		{
			name: "plain",
			line: "4242 (nginx) S 4200 4242 4200 0 -1 4194560 301 12 0 0 17 39 5 6 20 0 1 0 99 1 2\n",
			pid:  4242, want: stat{parent: 4200, user: 17, system: 39},
		},
		{
			name: "a command with spaces and parentheses",
			line: "7 (a) (b c) R 1 7 7 0 -1 0 0 0 0 0 100 200 0 0 20 0 1 0 99\n",
			pid:  7, want: stat{parent: 1, user: 100, system: 200},
		},
		{name: "cut short", line: "7 (x) R 1 7", wrong: true},
		{name: "no command", line: "7 x R 1", wrong: true},
		{name: "no number", line: "7 (x) R one 7 7 0 -1 0 0 0 0 0 100 200 0", wrong: true},
		{name: "empty", wrong: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			pid, got, err := parseStat([]byte(c.line))
			if (err != nil) != c.wrong {
				t.Fatalf("error %v", err)
			}
			if err == nil && (pid != c.pid || got != c.want) {
				t.Errorf("got %d %+v, want %d %+v", pid, got, c.pid, c.want)
			}
		})
	}
}

func TestFamily(t *testing.T) {
	processes := map[int]stat{
		1: {parent: 0}, 10: {parent: 1}, 11: {parent: 10}, 12: {parent: 11}, 20: {parent: 1},
	}
	got := family(processes, 10)
	slices.Sort(got)
	if want := []int{10, 11, 12}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := family(processes, 99); got != nil {
		t.Errorf("a process that is not there has a family: %v", got)
	}
}

func TestSizes(t *testing.T) {
	status := []byte("Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t   512 kB\n")
	if got := sizeIn(status, "VmRSS:"); got != 512<<10 {
		t.Errorf("got %d", got)
	}
	if got := sizeIn(status, "VmSwap:"); got != 0 {
		t.Errorf("got %d for a line that is not there", got)
	}
}

func TestOwnUsage(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip(err)
	}
	before, err := Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	after := before
	for end := time.Now().Add(time.Minute); after.Since(before).CPU() <= 0 && time.Now().Before(end); { // it is counted in hundredths of a second
		if after, err = Of(os.Getpid()); err != nil {
			t.Fatal(err)
		}
	}
	if after.Since(before).CPU() <= 0 || after.Resident <= 0 || after.PeakResident < after.Resident {
		t.Errorf("before %+v, after %+v", before, after)
	}
}
