package snapshot

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Under a limit of the size of files (LimitFSIZE of systemd) a snapshot can't be written. The one before stays, whole,
// and one line says why.
func TestALimitOfTheSizeOfFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshot")
	p := start(t, path, memoryOf{})
	p.memory.budgets, p.memory.identities = "budgets", "identities"
	p.end()

	p = start(t, path, memoryOf{})
	p.memory.budgets = strings.Repeat("more budgets ", 50)
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	few := before
	few.Cur = 300
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &few); err != nil {
		t.Fatal(err)
	}
	p.locked(p.writeBudgets)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	p.kill()
	if log := p.log.all(); len(log) != 2 || !strings.HasPrefix(log[1], "WARN "+cannotWrite) || !strings.Contains(log[1], "file too large") {
		t.Errorf("it says %q", log)
	}
	if exists(path + ".tmp") {
		t.Error("a part of a file is left")
	}
	p = start(t, path, memoryOf{})
	defer p.kill()
	if got := p.memory.remembers()[0]; got != "budgets" {
		t.Errorf("it remembers %q", got)
	}
}
