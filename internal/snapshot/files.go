package snapshot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Files are those of one store, by the path of the first.
//
// Whoever reads the first two knows who has been using presence. They can't find out whether a token that they
// have is good, or whose it was, without the third: users' budgets and tokens are in it by keyed hashes. So a backup
// that leaves the key out gives nothing away.
type Files struct {
	budgets    string
	identities string
	key        string
}

// NewFiles returns those at a path, which must be absolute.
func NewFiles(path string) Files {
	return Files{path, path + ".identities", path + ".key"}
}

// Paths are those of all of them.
func (f Files) Paths() []string { return []string{f.budgets, f.identities, f.key} }

// ReadKey returns the key that was kept. There may be none: then err is [fs.ErrNotExist].
func (f Files) ReadKey() (key Key, err error) {
	b, err := read(f.key, int64(len(key)))
	if err != nil {
		return Key{}, err
	}
	if len(b) != len(key) {
		return Key{}, errKeyFile
	}
	return Key(b), nil
}

// keepKey keeps a key, unless it is the one that is kept.
func (f Files) keepKey(key Key) error {
	kept, err := f.ReadKey()
	if err == nil && kept == key {
		return nil
	}
	if err = write(f.key, key[:], os.Rename); err != nil {
		fault := faultOf(err)
		return &Fault{"its key file can't be written: " + fault.Reason, fault.Remedy}
	}
	return nil
}

// read reads a file of at most so many bytes that nobody else can have written.
func read(path string, most int64) ([]byte, error) {
	found, err := check(path)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path) //nolint:gosec // G304: the admin names it
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	opened, err := file.Stat()
	switch {
	case err != nil:
		return nil, err
	case !os.SameFile(found, opened):
		return nil, errCut // it was replaced just now
	case !isOurs(opened):
		return nil, errOwner
	case opened.Mode().Perm()&0o077 != 0:
		return nil, errMode
	case opened.Size() > most:
		return nil, errSize
	}
	b := make([]byte, opened.Size())
	if _, err := io.ReadFull(file, b); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return b, nil
}

// check looks whether there is a regular file. No other is opened: that might wait, or be elsewhere.
func check(path string) (fs.FileInfo, error) {
	info, err := os.Lstat(path)
	switch {
	case err != nil:
		return nil, err
	case info.Mode()&fs.ModeSymlink != 0:
		return nil, errLink
	case !info.Mode().IsRegular():
		return nil, errNoFile
	}
	return info, nil
}

// write replaces a file at one moment: after a crash there is the old one or the new one, whole. Replace is called
// when all is on the disk.
func write(path string, b []byte, replace func(from, to string) error) error {
	if _, err := check(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return writeBeside(path, b, replace)
}

// writeBeside writes a temporary file beside another, and calls replace with both. It has one name, so that those of
// processes that were killed don't pile up.
func writeBeside(path string, b []byte, replace func(from, to string) error) error {
	temporary := path + ".tmp"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := fill(temporary, b); err != nil {
		_ = os.Remove(temporary)
		return err
	}
	if err := replace(temporary, path); err != nil {
		_ = os.Remove(temporary)
		return err
	}
	return syncFolder(path)
}

// try finds out whether files can be written, and leaves none.
func (f Files) try() error {
	return writeBeside(f.budgets, nil, func(from, _ string) error { return os.Remove(from) })
}

// fill writes a new file to the disk.
func fill(path string, b []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // G304: the admin names it
	if err != nil {
		return err
	}
	_, err = file.Write(b)
	return errors.Join(err, file.Sync(), file.Close())
}

// remove deletes a file, for good.
func remove(path string) error {
	if err := os.Remove(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return syncFolder(path)
}

// syncFolder has the names in a file's folder on the disk.
func syncFolder(path string) error {
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
