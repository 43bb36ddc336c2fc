package snapshot

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/flight"
)

// Memory is what a snapshot is made of.
type Memory interface {
	// Key is under which it keeps users and tokens.
	Key() Key
	// MaxSizes are the sizes in bytes of what there may be of budgets and of identities.
	MaxSizes() (budgets, identities int64)

	// SaveBudgets returns what is left of budgets, in some sections.
	SaveBudgets() (sections [][]byte)
	// RestoreBudgets takes budgets over that were saved at least so long ago.
	RestoreBudgets(sections [][]byte, elapsed time.Duration) (users int, err error)

	// KeepsIdentities tells that nobody else may end tokens.
	KeepsIdentities() bool
	// SaveIdentities returns whose tokens are whose.
	SaveIdentities() []byte
	// RestoreIdentities takes them over. Elapsed says how long ago at most they were saved; it is called
	// after the time was looked at. What has ended since the store began isn't taken over.
	RestoreIdentities(saved []byte, elapsed func() time.Duration) (tokens int, err error)
	// ForgetEndings says that there is nothing more to restore.
	ForgetEndings()
	// OnEnding has f called before a client is told that a token has ended.
	OnEnding(f func())
}

// Log is for people, such as a [log/slog.Logger].
type Log interface {
	Info(message string, fields ...any)
	Warn(message string, fields ...any)
}

// Result is what became of a file.
type Result int

const (
	Loaded  Result = iota
	Refused        // it can't be used
	Written
	Failed // it can't be written
	Results
)

// ResultNames are what they are called in metrics.
var ResultNames = [Results]string{"loaded", "refused", "written", "failed"}

// Counts are how often each has been.
type Counts struct {
	results [Results]atomic.Uint64
	written atomic.Pointer[time.Time] // when budgets were last
	keepers atomic.Int64              // that have begun and haven't ended
}

// Count returns how often there was a result.
func (c *Counts) Count(result Result) uint64 { return c.results[result].Load() }

// Age returns how long ago budgets were last written. It is not ok if they haven't been, or if nobody keeps them any more.
func (c *Counts) Age() (age time.Duration, ok bool) {
	written := c.written.Load()
	if written == nil || c.keepers.Load() == 0 {
		return 0, false
	}
	return time.Since(*written), true
}

const (
	// interval is how often budgets are written. Somebody gains by a crash what they have used since.
	interval = 5 * time.Minute

	// patience is for how long the end of a process waits for the disk.
	patience = 5 * time.Second

	// attempts is how often identities are written anew because something has ended meanwhile.
	attempts = 3
)

// Keeper keeps a store in files while a process runs.
type Keeper struct {
	files  Files
	home   Home
	memory Memory
	log    Log
	counts *Counts
	noKey  *Fault // why there is no key that was kept, or nil
	seal   seal

	mu      sync.Mutex  // one of them is read or written at a time
	last    fs.FileInfo // of the budgets, when they were last read or written here, or nil
	warned  bool        // that they aren't ours alone
	begins  sync.Once
	ending  sync.Once
	begun   atomic.Bool
	stop    chan struct{}
	running sync.WaitGroup
}

// NewKeeper returns a keeper of files at an absolute path. It reads the key that was kept; if there is one,
// a store that has not been used yet should take it over.
func NewKeeper(path string, home Home, memory Memory, log Log, counts *Counts) (k *Keeper, kept Key, ok bool) {
	k = &Keeper{files: NewFiles(path), home: home, memory: memory, log: log, counts: counts, stop: make(chan struct{})}
	k.seal.path = k.files.identities
	kept, err := k.files.ReadKey()
	switch {
	case err == nil:
		return k, kept, true
	case errors.Is(err, fs.ErrNotExist):
		k.noKey = errNoKey
	default:
		fault := faultOf(err)
		k.noKey = &Fault{"its key file can't be used: " + fault.Reason, fault.Remedy}
	}
	return k, Key{}, false
}

// Begin begins to keep the store, in the background. First it loads what is there, if the store is new. It
// does nothing when it is called again.
func (k *Keeper) Begin(isNew bool) {
	k.begins.Do(func() {
		k.begun.Store(true)
		k.counts.keepers.Add(1)
		k.mu.Lock() // so that nothing is written before it was read
		k.running.Go(func() {
			k.first(isNew)
			ticker := time.NewTicker(interval)
			defer ticker.Stop()
			for {
				select {
				case <-k.stop:
					return
				case <-ticker.C:
					k.locked(k.writeBudgets)
				}
			}
		})
	})
}

// first is what comes before all writing. It has the lock, and gives it back.
func (k *Keeper) first(isNew bool) {
	defer k.mu.Unlock()
	if isNew {
		k.guard(k.load)
	}
	k.last, _ = os.Lstat(k.files.budgets)
	k.try()
}

func (k *Keeper) locked(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.guard(f)
}

// guard calls f. What is kept in files is not worth the process: a panic counts as a file that can't be written.
func (k *Keeper) guard(f func()) {
	if err := flight.Guard(nil, f); err != nil {
		k.counts.results[Failed].Add(1)
		k.log.Warn("the snapshot failed by a fault of this module, so budgets or identities may start empty after a restart",
			"file", k.files.budgets, "error", err)
	}
}

// End writes all that can be kept, because the process ends. It may be called again, and requests may
// still be answered.
func (k *Keeper) End() { k.write(true) }

// Ending is End, once: each of a thousand sites may be told that the process is about to end.
func (k *Keeper) Ending() { k.ending.Do(k.End) }

// Close ends the keeper. If the store ends with it, budgets are written once more.
func (k *Keeper) Close(memoryEnds bool) {
	if !k.begun.Load() {
		return
	}
	close(k.stop)
	defer func() {
		if k.counts.keepers.Add(-1) == 0 {
			k.counts.written.Store(nil)
		}
	}()
	if memoryEnds {
		k.write(false)
	}
	wait(k.running.Wait)
}

// write writes what there is, unless nothing was ever begun.
func (k *Keeper) write(identities bool) {
	if !k.begun.Load() {
		return
	}
	wait(func() {
		k.locked(func() {
			k.writeBudgets()
			if identities && k.memory.KeepsIdentities() {
				k.writeIdentities()
			}
		})
	})
}

// wait waits for something that the disk may hold up, but not for long: others want to end as well.
func wait(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// load takes over what is there, and says what there was.
func (k *Keeper) load() {
	defer k.memory.ForgetEndings()
	users, away, fault := k.loadBudgets()
	tokens, other := k.loadIdentities()
	if users >= 0 || tokens >= 0 {
		k.log.Info("the snapshot was loaded", "file", k.files.budgets, "budgets", max(0, users), "identities", max(0, tokens), "away", away)
	}
	if fault != nil && tokens < 0 && (other == nil || other == fault) {
		k.refuse(k.files.budgets, "the snapshot can't be used, so budgets and identities start empty", fault)
		return
	}
	if fault != nil {
		k.refuse(k.files.budgets, "the snapshot can't be used, so budgets start empty", fault)
	}
	if other != nil {
		k.refuse(k.files.identities, "the snapshot can't be used, so identities start empty", other)
	}
}

func (k *Keeper) refuse(path, message string, why *Fault) {
	k.counts.results[Refused].Add(1)
	k.log.Warn(message, "file", path, "reason", why.Reason, "remedy", why.Remedy)
}

// loadBudgets returns of how many users budgets were taken over, or -1 if there are none.
func (k *Keeper) loadBudgets() (users int, away time.Duration, fault *Fault) {
	most, _ := k.memory.MaxSizes()
	b, err := read(k.files.budgets, most)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return -1, 0, nil
	case err != nil:
		return -1, 0, faultOf(err)
	}
	at, sections, fault := k.decode(Budgets, b)
	if fault != nil {
		return -1, 0, fault
	}
	least, _, ok := Now().Since(at)
	if !ok {
		return -1, 0, errFuture
	}
	users, err = k.memory.RestoreBudgets(sections, least)
	if err != nil {
		return -1, 0, errEntries
	}
	k.counts.results[Loaded].Add(1)
	return users, least, nil
}

// loadIdentities returns how many tokens were taken over, or -1 if there are none. Whatever is in it, the
// file is deleted before: this process won't tell it which tokens end.
func (k *Keeper) loadIdentities() (tokens int, fault *Fault) {
	_, most := k.memory.MaxSizes()
	if _, err := check(k.files.identities); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return -1, nil
		}
		return -1, faultOf(err)
	}
	b, err := read(k.files.identities, most)
	if remove(k.files.identities) != nil {
		return -1, errStays
	}
	if err != nil {
		return -1, faultOf(err)
	}
	at, sections, fault := k.decode(Identities, b)
	switch now := Now(); {
	case fault != nil:
		return -1, fault
	case !k.memory.KeepsIdentities():
		return -1, errCluster
	case !now.sameBoot(at):
		return -1, errBoot
	case len(sections) != 1:
		return -1, errEntries
	}
	if _, _, ok := Now().Since(at); !ok {
		return -1, errFuture
	}
	tokens, err = k.memory.RestoreIdentities(sections[0], func() time.Duration {
		if _, most, ok := Now().Since(at); ok {
			return most
		}
		return math.MaxInt64
	})
	if err != nil {
		return -1, errEntries
	}
	k.counts.results[Loaded].Add(1)
	return tokens, nil
}

// decode reads a file of the store.
func (k *Keeper) decode(kind Kind, b []byte) (at Moment, sections [][]byte, fault *Fault) {
	if k.noKey != nil {
		return at, nil, k.noKey
	}
	return decode(k.memory.Key(), kind, k.home, b)
}

// cannotWrite is what is logged of budgets.
const cannotWrite = "the snapshot can't be written, so budgets would start empty or older after a restart"

// try says at once if nothing can be written: else nobody would hear of it before the process has something to lose.
func (k *Keeper) try() {
	if err := k.files.try(); err != nil {
		k.noted(k.files.budgets, cannotWrite, err)
	}
}

// lookForOthers says once if another process has written the budgets: each loses what the other has written, and
// what has ended in one of them may not have in the other.
func (k *Keeper) lookForOthers() {
	now, err := os.Lstat(k.files.budgets)
	if err != nil || k.warned || k.last != nil && os.SameFile(now, k.last) && now.ModTime().Equal(k.last.ModTime()) {
		return
	}
	k.warned = true
	k.log.Warn("something else writes the snapshot, such as another process", "file", k.files.budgets, "remedy", ownFiles)
}

// writeBudgets writes the budgets, and the key. The moment is looked at after them: they are none the fuller for
// that.
func (k *Keeper) writeBudgets() {
	k.lookForOthers()
	key := k.memory.Key()
	err := k.files.keepKey(key)
	if err == nil {
		sections := k.memory.SaveBudgets()
		err = write(k.files.budgets, encode(key, Budgets, k.home, Now(), sections...), os.Rename)
	}
	if k.noted(k.files.budgets, cannotWrite, err) {
		k.last, _ = os.Lstat(k.files.budgets)
		now := time.Now()
		k.counts.written.Store(&now)
	}
}

// writeIdentities writes whose tokens are whose. The moment is looked at before them: they are none the younger for
// that.
func (k *Keeper) writeIdentities() {
	k.memory.OnEnding(k.seal.breakIt)
	err := errUnwritten
	for n := 0; n < attempts && errors.Is(err, errUnwritten); n++ {
		k.seal.begin()
		at, saved := Now(), k.memory.SaveIdentities()
		err = write(k.files.identities, encode(k.memory.Key(), Identities, k.home, at, saved), k.seal.rename)
	}
	k.noted(k.files.identities, "the snapshot can't be written, so identities would start empty after a restart", err)
}

// noted counts a file that was written, or couldn't be.
func (k *Keeper) noted(path, message string, err error) (ok bool) {
	if err == nil {
		k.counts.results[Written].Add(1)
		return true
	}
	k.counts.results[Failed].Add(1)
	fault := faultOf(err)
	k.log.Warn(message, "file", path, "reason", fault.Reason, "remedy", fault.Remedy)
	return false
}
