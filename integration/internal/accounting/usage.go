package accounting

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// Usage is what a process and its descendants have used.
type Usage struct {
	// User and System are CPU time since they started.
	User, System time.Duration
	// Resident is the memory that they hold, and PeakResident the sum of the most
	// that each has held, in bytes. Pages that they share count for each.
	Resident, PeakResident int64
}

// CPU is user and system time together.
func (u Usage) CPU() time.Duration { return u.User + u.System }

// Since returns what was used after earlier was taken. Memory is that of now.
func (u Usage) Since(earlier Usage) Usage {
	u.User -= earlier.User
	u.System -= earlier.System
	return u
}

// Of returns what a process and its descendants have used.
func Of(pid int) (Usage, error) {
	processes, err := list()
	if err != nil {
		return Usage{}, err
	}
	var sum Usage
	for _, p := range family(processes, pid) {
		s := processes[p]
		sum.User += ticks(s.user)
		sum.System += ticks(s.system)
		// One that has left meanwhile has no memory any more.
		status, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p), "status"))
		sum.Resident += sizeIn(status, "VmRSS:")
		sum.PeakResident += sizeIn(status, "VmHWM:")
	}
	return sum, nil
}

// list reads all processes there are.
func list() (map[int]stat, error) {
	names, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	processes := make(map[int]stat, len(names))
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has left meanwhile
		}
		pid, s, err := parseStat(text)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		processes[pid] = s
	}
	if len(processes) == 0 {
		return nil, fmt.Errorf("reading /proc: no process there")
	}
	return processes, nil
}

// family returns pid and all its descendants.
func family(processes map[int]stat, pid int) []int {
	if _, ok := processes[pid]; !ok {
		return nil
	}
	members := []int{pid}
	for i := 0; i < len(members); i++ {
		for p, s := range processes {
			if s.parent == members[i] && p != s.parent {
				members = append(members, p)
			}
		}
	}
	return members
}

// sizeIn finds a line of /proc/PID/status such as "VmRSS:	  1234 kB", in bytes.
func sizeIn(status []byte, name string) int64 {
	for line := range bytes.Lines(status) {
		fields := bytes.Fields(line)
		if len(fields) >= 2 && string(fields[0]) == name {
			n, _ := strconv.ParseInt(string(fields[1]), 10, 64)
			return n << 10
		}
	}
	return 0
}
