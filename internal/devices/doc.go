// Package devices remembers what each device of a user last asked its presence to be, by syncs
// and by writes, and decides what becomes of the presence that the next sync sets: what a
// homeserver makes of it is its [matrix.Dialect].
//
//   - devices.go: [Devices], the table, and what a device wants;
//   - reported.go: what the homeserver was told of it;
//   - sync.go: a sync, and what becomes of it; write.go: a write;
//   - activity.go: what else may have changed what the homeserver holds, or shows it;
//   - inspect.go: what an admin sees of a user's devices.
//
// Time is a parameter, and the table is bounded by its constructor.
package devices
