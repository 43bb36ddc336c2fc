// Package fairqueue lets only so many in at a time, and of one client fewer.
//
//   - fairqueue.go: [Queue], in which who finds no place waits, by turns of the clients;
//   - seats.go: [Seats], for work that nobody waits for: who finds no place goes without.
package fairqueue
