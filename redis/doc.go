// Package redis is what a Redis, or a Valkey, is of use for to matrix_presence. It is a Go module of
// its own: who has no Redis builds Caddy without its client.
//
//   - feed.go: the module http.handlers.matrix_presence.feeds.redis, Synapse's own replication,
//     and its options in a Caddyfile;
//   - cluster.go: the module http.handlers.matrix_presence.cluster.redis, by which several nodes are
//     one, and its options in a Caddyfile; log.go: the log that they share, and their users' budgets;
//     line.go: the connection by which a read asks whether the log has gained anything;
//   - server.go: how to reach a server, whatever it is used for;
//   - subscription.go: the connection of a feed, made again and again;
//   - internal/replication: what the lines say.
package redis
