// Package traffic is the work that contenders are given: who asks what, in which
// order, and the bytes of each request.
//
// Users are numbers until a request is written. Targets are counted from 0, and
// viewers from [Viewer](0), so that nobody reads or writes by accident what is her
// own. A [Workload] draws requests from a seeded source: every contender gets the
// same ones in the same order, from wrk, from our own generator and from the
// client that checks answers.
//
// Requests are as matrix-js-sdk sends them to Synapse: HTTP/1.1 with keep-alive,
// the user ID escaped, and the token of 61 bytes in the Authorization header. A client
// may send the same over HTTP/2 and HTTP/3, see [Multiplexed].
package traffic
