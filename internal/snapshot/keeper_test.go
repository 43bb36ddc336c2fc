package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/wallclock"
)

// memory remembers two texts.
type memory struct {
	mu                  sync.Mutex
	key                 Key
	budgets, identities string
	away, awayMost      time.Duration
	alone               bool // no other nodes
	forgotten           bool
	onEnding            func()
	saving              func() // is called while identities are saved
}

var errStrange = errors.New("strange")

func (m *memory) Key() Key                 { return m.key }
func (m *memory) MaxSizes() (int64, int64) { return 1000, 1000 }
func (m *memory) KeepsIdentities() bool    { return m.alone }
func (m *memory) OnEnding(f func())        { m.onEnding = f }
func (m *memory) ForgetEndings()           { m.locked(func() { m.forgotten = true }) }
func (m *memory) locked(f func())          { m.mu.Lock(); defer m.mu.Unlock(); f() }
func (m *memory) remembers() (text [2]string) {
	m.locked(func() { text = [2]string{m.budgets, m.identities} })
	return text
}

func (m *memory) SaveBudgets() [][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return [][]byte{[]byte(m.budgets)}
}

func (m *memory) SaveIdentities() []byte {
	if m.saving != nil {
		m.saving()
	}
	return []byte(m.identities)
}

func (m *memory) RestoreBudgets(sections [][]byte, elapsed time.Duration) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch string(sections[0]) {
	case "strange":
		return 0, errStrange
	case "stumble":
		panic("while restoring")
	}
	m.budgets, m.away = string(sections[0]), elapsed
	return len(sections[0]), nil
}

func (m *memory) RestoreIdentities(saved []byte, elapsed func() time.Duration) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if string(saved) == "strange" {
		return 0, errStrange
	}
	m.identities, m.awayMost = string(saved), elapsed()
	return len(saved), nil
}

// lines is a log.
type lines struct {
	mu   sync.Mutex
	text []string
}

func (l *lines) Info(message string, fields ...any) { l.add("INFO", message, fields) }
func (l *lines) Warn(message string, fields ...any) { l.add("WARN", message, fields) }

func (l *lines) add(level, message string, fields []any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, strings.TrimSpace(fmt.Sprintln(append([]any{level, message}, fields...)...)))
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text
}

// process is one that keeps a memory in a file.
type process struct {
	*Keeper
	memory *memory
	log    *lines
	counts *Counts
}

// start starts a process, and returns when it has read what there is.
func start(t *testing.T, path string, of memoryOf) *process {
	t.Helper()
	p := &process{memory: &memory{key: Key{9}, alone: !of.cluster}, log: new(lines), counts: new(Counts)}
	home := NewHome("cache", "example.com")
	if of.home != "" {
		home = NewHome("cache", of.home)
	}
	keeper, key, ok := NewKeeper(path, home, p.memory, p.log, p.counts)
	if p.Keeper = keeper; ok {
		p.memory.key = key
	} else {
		p.memory.key = Key{byte(len(t.Name()))}
	}
	p.Begin(true)
	p.locked(func() {}) // waits for the load
	return p
}

// memoryOf says what a process's memory is of.
type memoryOf struct {
	home    string
	cluster bool
}

// end ends it by a signal.
func (p *process) end() {
	p.End()
	p.Close(false)
}

// kill ends it without.
func (p *process) kill() { p.Close(false) }

func (p *process) wantCounts(t *testing.T, want map[Result]uint64) {
	t.Helper()
	for result := range Results {
		if got := p.counts.Count(result); got != want[result] {
			t.Errorf("%s: %d, want %d", ResultNames[result], got, want[result])
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestWhatIsRememberedSurvivesAProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshot")
	p := start(t, path, memoryOf{})
	if log := p.log.all(); len(log) > 0 {
		t.Errorf("at the first start it says %q", log)
	}
	p.memory.budgets, p.memory.identities = "budgets", "identities"
	p.end()
	for _, file := range NewFiles(path).Paths() {
		if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", file, info, err)
		}
	}

	p = start(t, path, memoryOf{})
	defer p.kill()
	if got := p.memory.remembers(); got != [2]string{"budgets", "identities"} {
		t.Errorf("it remembers %q", got)
	}
	p.wantCounts(t, map[Result]uint64{Loaded: 2})
	if log := p.log.all(); len(log) != 1 || !strings.HasPrefix(log[0], "INFO the snapshot was loaded file "+path+" budgets 7 identities 10 away ") {
		t.Errorf("it says %q", log)
	}
	if !p.memory.forgotten {
		t.Error("what ends is noted for ever")
	}
	if exists(path + ".identities") {
		t.Error("identities are there that are in use: nobody tells them what ends")
	}
}

// A process that is killed leaves the budgets that were written last. It leaves no identities: a logout after that
// would be forgotten.
func TestAProcessThatIsKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "snapshot")
		p := start(t, path, memoryOf{})
		p.memory.budgets, p.memory.identities = "first", "identities"
		p.end()
		p = start(t, path, memoryOf{})
		if age, ok := p.counts.Age(); ok {
			t.Errorf("before it is written the snapshot is %v old", age)
		}
		p.memory.locked(func() { p.memory.budgets = "second" })
		time.Sleep(interval + time.Second)
		synctest.Wait()
		if age, ok := p.counts.Age(); age != time.Second || !ok {
			t.Errorf("the snapshot is %v old (%v), want 1s", age, ok)
		}
		p.memory.locked(func() { p.memory.budgets = "third" })
		p.kill()
		if age, ok := p.counts.Age(); ok {
			t.Errorf("nobody keeps it any more, and it is %v old", age)
		}

		p = start(t, path, memoryOf{})
		defer p.kill()
		if got := p.memory.remembers(); got != [2]string{"second", ""} {
			t.Errorf("it remembers %q", got)
		}
	})
}

// Requests are answered while a process ends, and some of them end tokens.
func TestWhatEndsWhileAProcessEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshot")
	for name, tc := range map[string]struct {
		during func(p *process)
		want   string
	}{
		"nothing": {func(p *process) { p.End() }, "identities"},
		"after it was written": {func(p *process) {
			p.End()
			p.memory.onEnding()
		}, ""},
		"while it is being written": {func(p *process) {
			n := 0
			p.memory.saving = func() {
				if n++; n == 1 {
					p.memory.onEnding()
					p.memory.identities = "fewer identities"
				}
			}
			p.End()
		}, "fewer identities"},
		"each time that it is": {func(p *process) {
			p.memory.saving = func() { p.memory.onEnding() }
			p.End()
		}, ""},
		"before it is written again": {func(p *process) {
			p.End()
			p.memory.onEnding()
			p.memory.identities = "fewer identities"
			p.End()
		}, "fewer identities"},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, path, memoryOf{})
			p.memory.budgets, p.memory.identities = "budgets", "identities"
			tc.during(p)
			p.kill()
			p = start(t, path, memoryOf{})
			defer p.kill()
			if got := p.memory.remembers(); got != [2]string{"budgets", tc.want} {
				t.Errorf("it remembers %q, want the identities %q", got, tc.want)
			}
		})
	}
}

// Whatever is wrong with a file, the process starts without it, and one line says why and what to do.
func TestFilesThatCannotBeUsed(t *testing.T) {
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	all := [2]string{}
	for name, tc := range map[string]struct {
		change func(path string)
		next   memoryOf
		reason *Fault // of the only line
		want   [2]string
	}{
		"all is well":         {func(string) {}, memoryOf{}, nil, [2]string{"budgets", "identities"}},
		"no key":              {func(path string) { must(os.Remove(path + ".key")) }, memoryOf{}, errNoKey, all},
		"another key":         {func(path string) { must(os.WriteFile(path+".key", make([]byte, 32), 0o600)) }, memoryOf{}, errKey, all},
		"another cache":       {func(string) {}, memoryOf{home: "other.example.com"}, errHome, all},
		"a cluster":           {func(string) {}, memoryOf{cluster: true}, errCluster, [2]string{"budgets", ""}},
		"cut off":             {func(path string) { must(os.Truncate(path, 100)) }, memoryOf{}, errCut, [2]string{"", "identities"}},
		"empty":               {func(path string) { must(os.Truncate(path, 0)) }, memoryOf{}, errCut, [2]string{"", "identities"}},
		"too large":           {func(path string) { must(os.Truncate(path, 2000)) }, memoryOf{}, errSize, [2]string{"", "identities"}},
		"no budgets":          {func(path string) { must(os.Remove(path)) }, memoryOf{}, nil, [2]string{"", "identities"}},
		"no identities":       {func(path string) { must(os.Remove(path + ".identities")) }, memoryOf{}, nil, [2]string{"budgets", ""}},
		"readable":            {func(path string) { must(os.Chmod(path, 0o644)) }, memoryOf{}, errMode, [2]string{"", "identities"}},
		"readable by a group": {func(path string) { must(os.Chmod(path+".identities", 0o640)) }, memoryOf{}, errMode, [2]string{"budgets", ""}},
		"a link": {func(path string) {
			must(os.Rename(path, path+".other"))
			must(os.Symlink(path+".other", path))
		}, memoryOf{}, errLink, [2]string{"", "identities"}},
		"a folder": {func(path string) {
			must(os.Remove(path))
			must(os.Mkdir(path, 0o700))
		}, memoryOf{}, errNoFile, [2]string{"", "identities"}},
		"identities in the place of budgets": {func(path string) {
			must(os.Link(path+".identities", path+".other"))
			must(os.Rename(path+".other", path))
		}, memoryOf{}, errKind, [2]string{"", "identities"}},
		"something that can't be": {func(path string) { rewrite(t, path, "strange", 0) }, memoryOf{}, errEntries, [2]string{"", "identities"}},
		"the clock was set back": {func(path string) {
			rewrite(t, path, "budgets", time.Hour)
		}, memoryOf{}, errFuture, [2]string{"", "identities"}},
		"the clock was set back, and all is of then": {func(path string) {
			rewrite(t, path, "budgets", time.Hour)
			rewrite(t, path+".identities", "identities", time.Hour)
		}, memoryOf{}, errFuture, all},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "snapshot")
			p := start(t, path, memoryOf{})
			p.memory.budgets, p.memory.identities = "budgets", "identities"
			p.end()
			tc.change(path)
			p = start(t, path, tc.next)
			defer p.kill()
			if got := p.memory.remembers(); got != tc.want {
				t.Errorf("it remembers %q, want %q", got, tc.want)
			}
			if exists(path + ".identities") {
				t.Error("the identities are still there")
			}
			var warnings []string
			for _, line := range p.log.all() {
				if strings.HasPrefix(line, "WARN") {
					warnings = append(warnings, line)
				}
			}
			switch {
			case tc.reason == nil && len(warnings) > 0:
				t.Errorf("it says %q", warnings)
			case tc.reason != nil && (len(warnings) != 1 || !strings.Contains(warnings[0], startsEmpty(tc.want)) || !strings.HasSuffix(warnings[0], "reason "+tc.reason.Reason+" remedy "+tc.reason.Remedy)):
				t.Errorf("it says %q, want one line with the reason %q", warnings, tc.reason.Reason)
			}
		})
	}
}

// startsEmpty says what isn't remembered.
func startsEmpty(remembers [2]string) string {
	var empty []string
	for i, what := range []string{"budgets", "identities"} {
		if remembers[i] == "" {
			empty = append(empty, what)
		}
	}
	return "so " + strings.Join(empty, " and ") + " start empty"
}

// A folder in the place of the key is told of as the key.
func TestAKeyThatCannotBeWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshot")
	if err := os.Mkdir(path+".key", 0o700); err != nil {
		t.Fatal(err)
	}
	p := start(t, path, memoryOf{})
	p.end()
	if log := strings.Join(p.log.all(), "\n"); !strings.Contains(log, "its key file can't be written: it is no regular file") {
		t.Errorf("it says %q", log)
	}
}

// rewrite writes a file again, as it might have been written so much later.
func rewrite(t *testing.T, path, section string, later time.Duration) {
	t.Helper()
	key, err := NewFiles(strings.TrimSuffix(path, ".identities")).ReadKey()
	if err != nil {
		t.Fatal(err)
	}
	kind := Budgets
	if strings.HasSuffix(path, ".identities") {
		kind = Identities
	}
	at := Now()
	at.Wall += int64(later)
	if err := os.WriteFile(path, encode(key, kind, NewHome("cache", "example.com"), at, []byte(section)), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestIdentitiesEndWithTheMachine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshot")
	p := start(t, path, memoryOf{})
	p.memory.identities = "identities"
	p.end()
	key, err := NewFiles(path).ReadKey()
	if err != nil {
		t.Fatal(err)
	}
	at := Now()
	at.Boot[0]++
	file := encode(key, Identities, NewHome("cache", "example.com"), at, []byte("identities"))
	if err := os.WriteFile(path+".identities", file, 0o600); err != nil {
		t.Fatal(err)
	}
	p = start(t, path, memoryOf{})
	defer p.kill()
	if got := p.memory.remembers()[1]; got != "" {
		t.Errorf("it remembers %q", got)
	}
}

func TestTimeGoesOnWhileNoProcessRuns(t *testing.T) {
	defer wallclock.Shift(0)
	path := filepath.Join(t.TempDir(), "snapshot")
	p := start(t, path, memoryOf{})
	p.memory.budgets, p.memory.identities = "budgets", "identities"
	p.end()
	wallclock.Shift(time.Hour)
	p = start(t, path, memoryOf{})
	defer p.kill()
	if p.memory.away > time.Minute || p.memory.awayMost < time.Hour {
		t.Errorf("budgets are %v older, and identities %v; the machine has hardly run, and the wall clock went on for an hour", p.memory.away, p.memory.awayMost)
	}
}

// What can't be written leaves what was there.
func TestAFileThatCannotBeWritten(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "snapshot")
	p := start(t, path, memoryOf{})
	p.memory.budgets = "budgets"
	p.End()
	if err := os.Mkdir(path+".tmp", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path+".tmp", "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.memory.budgets = "later"
	p.end()
	p.wantCounts(t, map[Result]uint64{Written: 3, Failed: 1})
	if log := p.log.all(); len(log) != 1 || !strings.HasPrefix(log[0], "WARN the snapshot can't be written") {
		t.Errorf("it says %q", log)
	}
	p = start(t, path, memoryOf{})
	defer p.kill()
	if got := p.memory.remembers()[0]; got != "budgets" {
		t.Errorf("it remembers %q", got)
	}
}

// A temporary file that a killed process has left is in nobody's way.
func TestWhatAKilledProcessLeaves(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshot")
	for _, file := range NewFiles(path).Paths() {
		if err := os.WriteFile(file+".tmp", []byte("half of"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := start(t, path, memoryOf{})
	p.memory.budgets, p.memory.identities = "budgets", "identities"
	p.end()
	left, err := filepath.Glob(path + "*.tmp")
	if err != nil || len(left) > 0 {
		t.Errorf("%v are left, %v", left, err)
	}
}

// A configuration that is only checked, or that fails, has a keeper that never begins.
// What is in a file, or in the tables, may be what the module's own code stumbles over. That must not end the
// process, which is about all requests, nor keep what isn't in that file from being kept.
func TestAKeeperThatPanics(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshot")
	p := start(t, path, memoryOf{})
	p.memory.locked(func() { p.memory.budgets, p.memory.identities = "stumble", "whose" })
	p.end()

	p = start(t, path, memoryOf{})
	p.wantCounts(t, map[Result]uint64{Failed: 1})
	if !p.memory.forgotten {
		t.Error("what ends is noted for ever")
	}
	p.memory.locked(func() { p.memory.budgets = "used up" })
	p.memory.saving = func() { panic("while saving") }
	p.end()
	p.wantCounts(t, map[Result]uint64{Failed: 2, Written: 1})
	if lines := p.log.all(); len(lines) != 2 || !strings.Contains(lines[1], "while saving") {
		t.Errorf("logged %q", lines)
	}

	p = start(t, path, memoryOf{})
	defer p.end()
	if got := p.memory.remembers()[0]; got != "used up" {
		t.Errorf("what was written before is %q", got)
	}
}

func TestAKeeperThatNeverBeginsChangesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshot")
	p := start(t, path, memoryOf{})
	p.memory.budgets, p.memory.identities = "budgets", "identities"
	p.end()
	keeper, _, _ := NewKeeper(path, NewHome("other"), new(memory), new(lines), new(Counts))
	keeper.End()
	keeper.Close(true)
	p = start(t, path, memoryOf{})
	defer p.kill()
	if got := p.memory.remembers(); got != [2]string{"budgets", "identities"} {
		t.Errorf("it remembers %q", got)
	}
}

// A memory that ends while the process goes on, by a reload, leaves budgets. Its tokens may end elsewhere from then on.
func TestAMemoryThatEndsByAReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshot")
	p := start(t, path, memoryOf{})
	p.memory.budgets, p.memory.identities = "budgets", "identities"
	p.Close(true)
	p = start(t, path, memoryOf{})
	defer p.kill()
	if got := p.memory.remembers(); got != [2]string{"budgets", ""} {
		t.Errorf("it remembers %q", got)
	}
}

// An old memory that is kept from a reload on replaces what is there, and its key.
func TestAMemoryThatIsNotNewLoadsNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshot")
	p := start(t, path, memoryOf{})
	p.memory.budgets = "old"
	p.end()
	m := &memory{key: Key{77}, alone: true, budgets: "new"}
	keeper, _, _ := NewKeeper(path, NewHome("cache", "example.com"), m, new(lines), new(Counts))
	keeper.Begin(false)
	keeper.End()
	keeper.Close(false)
	if m.budgets != "new" {
		t.Errorf("it remembers %q", m.budgets)
	}
	p = start(t, path, memoryOf{})
	defer p.kill()
	if got := p.memory.remembers()[0]; got != "new" || p.memory.key != (Key{77}) {
		t.Errorf("it remembers %q under the key %v", got, p.memory.key)
	}
}

func TestAFileThatIsNotThere(t *testing.T) {
	if _, err := NewFiles(filepath.Join(t.TempDir(), "x")).ReadKey(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// A folder that isn't there, or isn't ours, was told of after five minutes, when there was something to lose.
func TestAFolderThatCannotBeWrittenIsToldOfAtOnce(t *testing.T) {
	folder := t.TempDir()
	inTheWay := filepath.Join(folder, "taken")
	if err := os.MkdirAll(inTheWay+".tmp/in the way", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(folder, "missing", "snapshot"), inTheWay} {
		p := start(t, path, memoryOf{})
		if log := p.log.all(); len(log) != 1 || !strings.HasPrefix(log[0], "WARN "+cannotWrite+" file "+path) {
			t.Errorf("%s: it says %q", path, log)
		}
		p.wantCounts(t, map[Result]uint64{Failed: 1})
		p.kill()
	}
	p := start(t, filepath.Join(folder, "snapshot"), memoryOf{})
	p.kill()
	if log := p.log.all(); len(log) > 0 {
		t.Errorf("where it can write, it says %q", log)
	}
	if files, _ := os.ReadDir(folder); len(files) != 1 {
		t.Errorf("it has left %v", files)
	}
}

// Two processes with one file do no harm but to each other's budgets, and each says so, once.
func TestTwoProcessesWithOneFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "snapshot")
		start(t, path, memoryOf{}).end()
		one := start(t, path, memoryOf{})
		time.Sleep(time.Second)
		other := start(t, path, memoryOf{})
		for range 3 {
			time.Sleep(interval)
			synctest.Wait()
		}
		one.kill()
		other.end()
		const want = "WARN something else writes the snapshot, such as another process file "
		for name, p := range map[string]*process{"the first": one, "the second": other} {
			n := 0
			for _, line := range p.log.all() {
				if strings.HasPrefix(line, want+path) {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%s says %q, want once that it isn't alone", name, p.log.all())
			}
		}
		p := start(t, path, memoryOf{})
		p.end()
		for _, line := range p.log.all() {
			if strings.HasPrefix(line, "WARN") {
				t.Errorf("the next one says %q", line)
			}
		}
	})
}
