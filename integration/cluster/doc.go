// Package cluster tests several nodes as admins run them: finished programs, a real Redis with the ACL that
// docs/cluster.md tells, and what happens to both. Whatever happens to Redis, no client gets an error of ours.
//
// That what clients see is right is for the scenarios of nodes in the package history.
//
//	go test ./cluster -v
package cluster
