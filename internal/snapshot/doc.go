// Package snapshot keeps what is remembered in files, so that it survives a restart of the process.
//
// There are three of them, see [Files]. Budgets are written each five minutes and when the process
// ends. Identities are written only when it ends, and are deleted before they are used:
//
//	1 the process ends: writes that T is alice's
//	2 the next one starts: deletes the file, and takes it over
//	3 logout of T: T is refused
//	4 it is killed, and starts again: nothing says that T is alice's
//
// So no file ever says of a token that has ended through this process whose it is: what ends after the
// last one was written, while the process still answers requests, deletes it (see [seal]).
//
//   - files.go: the files, and how they are read and replaced; owner_unix.go, owner_other.go: whose a file is;
//   - frame.go: what a file looks like; fault.go: why one can't be used, and what to do;
//   - moment.go: how long ago a snapshot was made;
//   - keeper.go: [Keeper], which reads and writes them while a process runs; seal.go: that identities
//     which are out of date are deleted.
//
// It knows what is remembered only as a [Memory].
package snapshot
