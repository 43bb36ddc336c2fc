package snapshot

import (
	"os"
	"sync"
)

// seal sees to it that no file of identities is there that has a token which has ended:
//
//	1 write:  begins, and takes what is remembered
//	2 logout: T ends, which breaks the seal
//	1 write:  is about to replace the file, and doesn't, because the seal is broken
//
// and if 2 comes after that, it deletes the file, before its client is told that T has ended. That takes as long
// as to delete a name: no more of it waits for the disk.
type seal struct {
	path string

	mu      sync.Mutex // guards all below
	broken  bool       // since the write began
	written bool
}

// begin begins a write.
func (s *seal) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = false
}

// rename replaces the file, unless the seal is broken.
func (s *seal) rename(from, to string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken {
		return errUnwritten
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	s.written = true
	return nil
}

// breakIt deletes the file: something has ended.
func (s *seal) breakIt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = true
	if s.written && os.Remove(s.path) == nil {
		s.written = false
	}
}
