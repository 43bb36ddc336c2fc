package flight

import "sync"

// Once makes a call once for each key, as long as it is there itself. The zero value has no calls.
type Once[K comparable, V any] struct {
	mu    sync.Mutex // guards calls
	calls map[K]*Call[V]
}

// Join returns the call of a key. If run is not nil it is the caller's to begin, at once, by
// calling run. fn must not panic, see [Group.Alone].
func (o *Once[K, V]) Join(key K, fn func() V) (c *Call[V], run func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c = o.calls[key]; c != nil {
		return c, nil
	}
	if o.calls == nil {
		o.calls = make(map[K]*Call[V])
	}
	c = newCall(fn)
	o.calls[key] = c
	return c, func() {
		c.result = c.fn()
		close(c.done)
	}
}
