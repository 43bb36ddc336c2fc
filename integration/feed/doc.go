// Package feed tests the feed from Synapse's replication on a Synapse as admins of many users run it:
// with PostgreSQL, Redis, a presence writer and a sync worker. What changes elsewhere, past the
// module, must be seen through it long before ttl is over, and whatever becomes of Redis,
// everything else must go on.
//
//	go test ./feed -v
package feed
