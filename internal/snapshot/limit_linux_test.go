package snapshot

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Under a limit of the size of files (LimitFSIZE of systemd) a snapshot can't be written. The one before stays, whole,
// and one line says why. The test is its own process: the go command's log of this one is a file, too.
func TestALimitOfTheSizeOfFiles(t *testing.T) {
	const limited = "SNAPSHOT_TEST_LIMITED"
	if os.Getenv(limited) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), limited+"=yes")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
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
