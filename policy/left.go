package policy

import (
	"math"
	"time"
)

// Left is what is left of a user's budget.
type Left struct {
	Events int // that may come at once

	// Wait is until there is another event, 0 if there is one now. Full is until all are there.
	Wait, Full time.Duration
}

// Left returns what is left of a user's budget under a limit, and changes nothing.
func (l *Limiter) Left(userID string, limit Limit, now time.Time) Left {
	shard, hash, t := l.locate(userID, now)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	b, known := shard.budgets[hash]
	if !known {
		return Left{Events: int(limit.burst)}
	}
	if from := shard.limits[b.limit]; from != limit {
		b = b.move(from, limit, shard.fastest, max(shard.latest, t))
	}
	used := math.Ceil(float64(max(0, b.tat-t)) / float64(limit.interval))
	return Left{
		Events: int(max(0, limit.burst-int64(used))),
		Wait:   b.wait(limit, t),
		Full:   time.Duration(max(0, b.tat-t)),
	}
}

// Forget forgets what a user has used: their budget is full again. It reports whether it wasn't
// before. Who has no place of their own shares a budget that isn't touched.
func (l *Limiter) Forget(userID string, now time.Time) (forgotten bool) {
	shard, hash, t := l.locate(userID, now)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	b, known := shard.budgets[hash]
	delete(shard.budgets, hash)
	return known && b.tat > t
}
