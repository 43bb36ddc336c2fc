// Package devices remembers what each device of a user last asked its presence to be, by syncs
// and by writes, and decides what becomes of the presence that the next sync sets: what a
// homeserver makes of it is its [matrix.Dialect].
//
// Time is a parameter, and the table is bounded by its constructor.
package devices
