package accounting

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// tick is USER_HZ, the unit of times in /proc: 100 a second on every
// architecture that Go supports, whatever the kernel's own.
const tick = 10 * time.Millisecond

func ticks(n int64) time.Duration { return time.Duration(n) * tick }

// stat is what is of use in /proc/PID/stat (proc(5)).
type stat struct {
	parent       int
	user, system int64 // in ticks
}

// parseStat reads a line of /proc/PID/stat. The second field is the command in
// parentheses, and may hold spaces and parentheses itself: the last one ends it.
func parseStat(line []byte) (pid int, s stat, err error) {
	open, end := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return 0, stat{}, errors.New("no command in parentheses")
	}
	fields := bytes.Fields(line[end+1:])
	const parent, user, system = 4, 14, 15 // as numbered in proc(5), the command being 2
	if len(fields) <= system-3 {
		return 0, stat{}, fmt.Errorf("only %d fields after the command", len(fields))
	}
	number := func(text []byte) (n int64) {
		if err == nil {
			n, err = strconv.ParseInt(string(text), 10, 64)
		}
		return n
	}
	pid = int(number(bytes.TrimSpace(line[:open])))
	s = stat{
		parent: int(number(fields[parent-3])),
		user:   number(fields[user-3]),
		system: number(fields[system-3]),
	}
	return pid, s, err
}
