package snapshot

import "errors"

// Fault is why a file can't be used, for the log.
type Fault struct {
	Reason string
	Remedy string // what an admin can do
}

func (f *Fault) Error() string { return f.Reason + ": " + f.Remedy }

const (
	nothingToDo  = "there is nothing to do, the next one is written anew"
	checkFolder  = "check the folder, its owner and the space on the disk"
	ownFiles     = "name a file that no other site and no other process uses"
	readableByUs = "give it to the user that this process runs as, with mode 0600, or delete it"
)

var (
	errLink      = &Fault{"it is a symbolic link", "name the file that it leads to"}
	errNoFile    = &Fault{"it is no regular file", "name another one"}
	errMode      = &Fault{"others than its owner may read or write it", "delete it, or give it mode 0600 if nobody else has changed it"}
	errOwner     = &Fault{"it belongs to another user", readableByUs}
	errSize      = &Fault{"it is larger than the tables are", "raise identity { tokens }, or let it be: the next one is written anew"}
	errCut       = &Fault{"it has been cut off or changed", nothingToDo}
	errVersion   = &Fault{"it is of another version of this program", nothingToDo}
	errKind      = &Fault{"it is no snapshot of this kind", ownFiles}
	errNoKey     = &Fault{"its key is missing", nothingToDo}
	errKeyFile   = &Fault{"its key file is none", "delete both"}
	errKey       = &Fault{"it was made with another key", nothingToDo}
	errHome      = &Fault{"it is of another site, cache name or homeserver", ownFiles + "; after a change of these there is nothing to do"}
	errCluster   = &Fault{"in a cluster it can't be known what has ended at the other nodes", nothingToDo}
	errFuture    = &Fault{"it is from the future: the clock has been set back", "check the clock"}
	errBoot      = &Fault{"the machine has been started anew since", nothingToDo}
	errStays     = &Fault{"it can't be deleted, which it must be before it is used", checkFolder}
	errEntries   = &Fault{"it has something that can't be", nothingToDo}
	errUnwritten = errors.New("a token has ended meanwhile")
)

// faultOf returns why a file can't be used that can't be read or written.
func faultOf(err error) *Fault {
	if fault, ok := errors.AsType[*Fault](err); ok {
		return fault
	}
	return &Fault{err.Error(), checkFolder}
}
