package vfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// OS is the host's file system.
type OS struct{}

var (
	_ FS         = OS{}
	_ FreeSpacer = OS{}
	_ Resolver   = OS{}
)

type osReader struct {
	*os.File
	size int64
}

func (r osReader) Size() int64 { return r.size }

// Open opens a regular file. The kind is looked at before opening, because opening a pipe would wait for its other end.
func (OS) Open(name string) (Reader, error) {
	if err := regular(os.Stat(name)); err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err := regular(info, err); err != nil {
		return nil, errors.Join(&fs.PathError{Op: "open", Path: name, Err: err}, f.Close())
	}
	return osReader{f, info.Size()}, nil
}

// Create makes a new file with permissions 0666 before umask.
func (OS) Create(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, err // not f: a nil *os.File in the interface would not be nil
	}
	return f, nil
}

// Rename is os.Rename.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Remove is os.Remove.
func (OS) Remove(name string) error { return os.Remove(name) }

// RemoveAll is os.RemoveAll.
func (OS) RemoveAll(name string) error { return os.RemoveAll(name) }

// MkdirAll makes folders with permissions 0777 before umask.
func (OS) MkdirAll(name string) error { return os.MkdirAll(name, 0o777) }

// ReadDir is os.ReadDir.
func (OS) ReadDir(name string) ([]fs.DirEntry, error) { return os.ReadDir(name) }

// Stat is os.Stat.
func (OS) Stat(name string) (fs.FileInfo, error) { return os.Stat(name) }

// SyncDir syncs a folder. Systems and network volumes that cannot sync one say so with EINVAL or ENOTSUP; they order such
// changes themselves, so that is no error. Windows has no such call.
func (OS) SyncDir(name string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return errors.Join(err, d.Close())
}

// Resolve follows symbolic links.
func (OS) Resolve(name string) (string, error) {
	p, err := filepath.EvalSymlinks(name)
	if err != nil {
		return "", err
	}
	return filepath.Abs(p)
}

// Free is the space left on the volume; errors.ErrUnsupported where the system is not known.
func (OS) Free(name string) (int64, error) { return freeSpace(name) }

func regular(info fs.FileInfo, err error) error {
	var pe *fs.PathError
	switch {
	case errors.As(err, &pe):
		return pe.Err
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return errors.New("not a regular file")
	}
	return nil
}
