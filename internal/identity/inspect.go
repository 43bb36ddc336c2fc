package identity

import "time"

// Users returns how many tokens of each user are known and good, for an admin who looks a user up.
// A token that acts for several users counts for each.
func (t *Table) Users(now time.Time, good Lifetimes) map[string]int {
	since, revocations := t.before(now, good.Identity), t.revocations.Load()
	users := make(map[string]int)
	for i := range t.shards {
		shard := &t.shards[i]
		shard.mu.Lock()
		for _, e := range shard.identities.All() {
			isGood := e.userID != "" && e.asked > since && (e.asOf >= revocations || e.asOf >= t.revokedAt(e.userID))
			if isGood {
				users[e.userID]++
			}
		}
		shard.mu.Unlock()
	}
	return users
}
