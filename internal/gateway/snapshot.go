package gateway

import (
	"errors"
	"slices"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/identity"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/snapshot"
	"github.com/caddy-matrix/caddy-matrix-presence/policy"
)

// kept is a store as a snapshot sees it: budgets and identities. All else is asked for again after a
// restart, or has been acknowledged, or waits with a token in clear.
type kept struct{ store *Store }

// Keep returns a keeper of the store in files at an absolute path, which says home of itself. A new
// store has not been used yet, and takes the key over that was kept; what the files have is loaded
// when the keeper begins.
func (m *Store) Keep(path string, home snapshot.Home, log snapshot.Log, isNew bool) *snapshot.Keeper {
	keeper, key, ok := snapshot.NewKeeper(path, home, kept{m}, log, &m.snapshots)
	if isNew && ok {
		m.rekey(key)
	}
	if isNew {
		m.identities.NoteEndings(m.sizes.Tokens / 8)
	}
	return keeper
}

// rekey has users and tokens kept under a key, or under what follows from it. A cluster's secret comes
// before it.
func (m *Store) rekey(key snapshot.Key) {
	m.key = key
	if m.clusters.current.Load() == nil {
		m.identities.Rekey(key.Sub("tokens"))
	}
	users := key.Sub("users")
	for _, limiter := range m.saved() {
		limiter.Rekey([policy.LimiterKeySize]byte(users[:]))
	}
}

// saved are the limiters whose budgets are saved, in their order in a snapshot.
func (m *Store) saved() []*policy.Limiter {
	limiters := m.limiters()
	return append(slices.Clone(limiters[:]), m.rejected)
}

// Key implements [snapshot.Memory].
func (k kept) Key() snapshot.Key { return k.store.key }

// MaxSizes implements [snapshot.Memory].
func (k kept) MaxSizes() (budgets, identities int64) {
	k.store.mu.Lock()
	tokens := k.store.sizes.Tokens
	k.store.mu.Unlock()
	const frame = 1 << 10
	return int64(frame + len(k.store.saved())*policy.MaxSaved(tokens)), int64(frame + identity.MaxSaved(tokens))
}

// SaveBudgets implements [snapshot.Memory].
func (k kept) SaveBudgets() (sections [][]byte) {
	for _, limiter := range k.store.saved() {
		sections = append(sections, limiter.Save(nil, k.store.now()))
	}
	return sections
}

// RestoreBudgets implements [snapshot.Memory].
func (k kept) RestoreBudgets(sections [][]byte, elapsed time.Duration) (users int, err error) {
	limiters := k.store.saved()
	if len(sections) != len(limiters) {
		return 0, errors.New("another number of limits than there are")
	}
	var read []policy.Budgets
	for _, section := range sections {
		budgets, err := policy.ReadBudgets(section)
		if err != nil {
			return 0, err
		}
		read = append(read, budgets)
	}
	for i, limiter := range limiters {
		users += limiter.Restore(read[i], elapsed, k.store.now())
	}
	return users, nil
}

// KeepsIdentities implements [snapshot.Memory].
func (k kept) KeepsIdentities() bool { return k.store.clusters.current.Load() == nil }

// SaveIdentities implements [snapshot.Memory].
func (k kept) SaveIdentities() []byte { return k.store.identities.Save(nil, k.store.now()) }

// RestoreIdentities implements [snapshot.Memory].
func (k kept) RestoreIdentities(saved []byte, elapsed func() time.Duration) (tokens int, err error) {
	read, err := identity.ReadTokens(saved)
	if err != nil {
		return 0, err
	}
	now := k.store.now()
	return k.store.identities.Restore(read, elapsed(), now), nil
}

// ForgetEndings implements [snapshot.Memory].
func (k kept) ForgetEndings() { k.store.identities.ForgetEndings() }

// OnEnding implements [snapshot.Memory].
func (k kept) OnEnding(f func()) { k.store.identities.OnEnding(f) }

// sampleSnapshots yields what there is about snapshots.
func (m *Store) sampleSnapshots(yield func(metric *Metric, value float64, labels ...string)) {
	for result := range snapshot.Results {
		yield(snapshotsMetric, float64(m.snapshots.Count(result)), snapshot.ResultNames[result])
	}
	if age, ok := m.snapshots.Age(); ok {
		yield(snapshotAgeMetric, age.Seconds())
	}
}

// Interface guard
var _ snapshot.Memory = kept{}
