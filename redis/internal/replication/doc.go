// Package replication reads what Synapse tells its workers over Redis, as far as it concerns
// presence: lines of commands (line.go), their rows (row.go), and the positions by which it
// shows that something was missed (position.go). It is pure: a [Reader] is given lines and tells
// a [gateway.News] what they say.
//
// It isn't a documented interface of Synapse's. The shapes are those of Synapse 1.98 (2023) to
// 1.163 (2026), read from its sources and seen on a live server. What has more fields than
// expected is read; what has fewer, or others, is counted and is a loss, so that a version of
// another shape costs freshness and never a wrong answer. Words and streams that aren't known are
// ignored, as Synapse's own workers do.
//
// Lines have access tokens and status texts in them. None is kept, logged or part of an error.
package replication
