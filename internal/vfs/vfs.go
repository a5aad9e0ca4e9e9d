// Package vfs puts the file operations that durable writes need behind an interface, so that tests can enumerate a crash, a full
// disk or a short write at every one of them. OS is the real file system; package faultfs is the one that fails on demand.
//
// Names are paths of the host (package path/filepath). Errors are those of package os: they match fs.ErrNotExist, fs.ErrExist
// and the system's error numbers with errors.Is.
package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
)

// Reader is an open file that is only read. ReadAt may be called from several goroutines.
type Reader interface {
	io.ReaderAt
	io.Closer
	// Size is the length in bytes when the file was opened.
	Size() int64
}

// File is a new file that is being written.
type File interface {
	io.Writer
	io.ReaderAt
	io.Closer
	// Sync returns once the contents are on the disk. After an error the contents must be taken as lost: a second Sync may
	// succeed without having written them.
	Sync() error
}

// FS is a file system.
type FS interface {
	// Open opens a regular file for reading; a folder, a device or a pipe is an error.
	Open(name string) (Reader, error)
	// Create makes a new empty file; one that exists is an error (fs.ErrExist), so that nothing is ever truncated in place.
	Create(name string) (File, error)
	// Rename moves a file or folder, replacing a file of the new name. It is durable after SyncDir of the folder.
	Rename(from, to string) error
	// Remove removes a file or an empty folder.
	Remove(name string) error
	// RemoveAll removes a file or a folder with all it holds; a name that does not exist is no error.
	RemoveAll(name string) error
	// MkdirAll makes a folder and those above it.
	MkdirAll(name string) error
	// ReadDir lists a folder in name order.
	ReadDir(name string) ([]fs.DirEntry, error)
	// Stat follows symbolic links.
	Stat(name string) (fs.FileInfo, error)
	// SyncDir makes the creations, removals and renames inside a folder durable.
	SyncDir(name string) error
}

// Or returns fsys, or the operating system's file system for nil: callers outside the module cannot name one.
func Or(fsys FS) FS {
	if fsys == nil {
		return OS{}
	}
	return fsys
}

// FreeSpacer is implemented by file systems that know how much can still be written.
type FreeSpacer interface {
	// Free returns the bytes left to this user on the volume that holds name.
	Free(name string) (int64, error)
}

// Resolver is implemented by file systems that have symbolic links.
type Resolver interface {
	// Resolve returns the absolute path of name with every symbolic link followed.
	Resolve(name string) (string, error)
}

// ReadFile reads a whole file of at most limit bytes.
func ReadFile(fsys FS, name string, limit int64) (data []byte, err error) {
	r, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if r.Size() > limit {
		return nil, fmt.Errorf("%s: %d bytes, more than the %d that are read at once", name, r.Size(), limit)
	}
	data = make([]byte, r.Size())
	if n, err := r.ReadAt(data, 0); n < len(data) {
		return nil, fmt.Errorf("%s: %w", name, noEOF(err))
	}
	return data, nil
}

// WriteFile writes a new file and syncs it. The folder is not synced.
func WriteFile(fsys FS, name string, data []byte) error {
	f, err := fsys.Create(name)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

// WriteAtomic replaces name by data: a reader, and a reader after a crash, finds the old contents or the new ones. It writes a
// sibling ".NAME.tmp", so one writer at a time may work on a name.
func WriteAtomic(fsys FS, name string, data []byte) error {
	tmp := TempName(name)
	if err := fsys.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := WriteFile(fsys, tmp, data)
	if err == nil {
		err = fsys.Rename(tmp, name)
	}
	if err != nil {
		_ = fsys.Remove(tmp) // the first error is the one to report
		return err
	}
	return fsys.SyncDir(filepath.Dir(name))
}

// TempName is the sibling that WriteAtomic writes before it renames.
func TempName(name string) string {
	return filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+".tmp")
}

// MkdirDurable makes a folder and those above it, and syncs the parent of each one that it made.
func MkdirDurable(fsys FS, name string) error {
	var made []string
	for dir := filepath.Clean(name); ; dir = filepath.Dir(dir) {
		info, err := fsys.Stat(dir)
		if err == nil {
			if !info.IsDir() {
				return &fs.PathError{Op: "mkdir", Path: dir, Err: errors.New("a file of this name exists")}
			}
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		made = append(made, dir)
		if dir == filepath.Dir(dir) {
			break
		}
	}
	if len(made) == 0 {
		return nil
	}
	if err := fsys.MkdirAll(name); err != nil {
		return err
	}
	for _, dir := range made {
		if err := fsys.SyncDir(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	return nil
}

func noEOF(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
