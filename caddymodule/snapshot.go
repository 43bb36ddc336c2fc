package caddymodule

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/snapshot"
)

// keeping is what keeps a store in a file, for so many handlers.
type keeping struct {
	handlers int
	keeper   *snapshot.Keeper
}

// snapshotPath returns where a handler's store is kept, as an absolute path, or "" if it isn't. A relative one
// begins in the working directory, as that of Caddy's own storage does.
func (h *Handler) snapshotPath() (string, error) {
	if h.Snapshot == "" {
		return "", nil
	}
	path, err := caddy.NewReplacer().ReplaceOrErr(h.Snapshot, true, true)
	if err != nil {
		return "", blame("snapshot", "checking snapshot: %w", err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", blame("snapshot", "checking snapshot: %w", err)
	}
	return path, nil
}

// checkSnapshot refuses a path that can be no file's.
func checkSnapshot(h *Handler) error {
	if h.Snapshot != "" && os.IsPathSeparator(h.Snapshot[len(h.Snapshot)-1]) {
		return blame("snapshot", "checking snapshot: '%s' is a folder: name a file in it", h.Snapshot)
	}
	return nil
}

// checkTwoSnapshots refuses a file that two caches name. Where it stands is known now, and which sites share a
// cache that has no name only later, see [plan.checkSnapshot].
func (h *Handler) checkTwoSnapshots(state map[string]any) error {
	if h.Snapshot == "" || state == nil {
		return nil
	}
	type named struct {
		cache string
		at    caddyfile.Token
	}
	const key = "matrix_presence.snapshots"
	others, ok := state[key].(map[string]named)
	if !ok {
		others = make(map[string]named)
		state[key] = others
	}
	cache, at := "", h.snapshotAt
	if h.Cache != nil {
		cache = h.Cache.Name
	}
	path := filepath.Clean(h.Snapshot)
	if other, ok := others[path]; ok && other.cache != cache {
		return fmt.Errorf("checking snapshot: the cache %s at %s:%d has %s too: each needs a file of its own, at %s:%d",
			quoteCache(other.cache), other.at.File, other.at.Line, path, at.File, at.Line)
	}
	others[path] = named{cache, at}
	return nil
}

// quoteCache says which cache a name is of.
func quoteCache(name string) string {
	if name == "" {
		return "without a name"
	}
	return "'" + name + "'"
}

// checkSnapshot refuses that two stores of a configuration have one file, or one has two. It needs the lock.
func (p *plan) checkSnapshot(store, path string) (err error) {
	if path == "" {
		return nil
	}
	paths := snapshot.NewFiles(path).Paths()
	eachStore(func(name string, m *pooled) {
		for other := range m.tenants {
			switch shared := slices.ContainsFunc(snapshot.NewFiles(other.snapshot).Paths(), func(one string) bool { return slices.Contains(paths, one) }); {
			case other.plan != p || other.snapshot == "" || other.snapshot == path && name == store:
			case name == store:
				err = fmt.Errorf("checking snapshot: the handlers of the cache %s share a store, which can't have both %s and %s: name one of them", store, other.snapshot, path)
			case shared:
				err = fmt.Errorf("checking snapshot: the caches %s and %s would have the same file, %s: each needs one of its own", name, store, path)
			}
		}
	})
	return err
}

// keep has the handler's store kept in its file once the configuration has started. It needs the plans' lock.
func (p *pooled) keep(h *Handler, s *site) *snapshot.Keeper {
	k := p.keepers[h.snapshot]
	if k == nil {
		home := snapshot.NewHome("site", s.store, s.homeserver)
		if s.name != "" {
			home = snapshot.NewHome("cache", s.name)
		}
		k = &keeping{keeper: p.store.Keep(h.snapshot, home, guestLog("snapshot"), p.since == h.plan.id)}
		p.keepers[h.snapshot] = k
	}
	k.handlers++
	return k.keeper
}

// unkeep undoes a keep, and returns what is to be called without the lock: it may wait for a disk. It needs the
// plans' lock, and gone tells whether the store has ended.
func (p *pooled) unkeep(h *Handler, gone bool) (end func()) {
	k := p.keepers[h.snapshot]
	if k.handlers--; k.handlers > 0 {
		return func() {}
	}
	delete(p.keepers, h.snapshot)
	eachStore(func(_ string, m *pooled) {
		if m.keepers[h.snapshot] != nil {
			gone = false // after a reload, the file is another's
		}
	})
	return func() {
		if caddy.Exiting() {
			k.keeper.End()
		}
		k.keeper.Close(gone && !caddy.Exiting())
	}
}

// parseSnapshot reads a path.
func (h *Handler) parseSnapshot(d *caddyfile.Dispenser) (err error) {
	h.snapshotAt = d.Token()
	_, h.Snapshot, err = parseArg(d, "one file")
	return err
}
