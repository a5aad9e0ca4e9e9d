package vfs

import (
	"bufio"
	"errors"
	"io/fs"
	"path/filepath"
)

// Atomic is a new file that gets its name when it is complete: after a crash the old file of that name is there, or the new one, whole.
// Until Commit it is the sibling TempName. One writer at a time may work on a name; not for concurrent use.
type Atomic struct {
	fsys      FS
	path, tmp string
	f         File
	buf       *bufio.Writer
	done      bool
}

const atomicBuffer = 1 << 16

// NewAtomic makes the temporary file, replacing one that a crash left.
func NewAtomic(fsys FS, path string) (*Atomic, error) {
	a := &Atomic{fsys: fsys, path: path, tmp: TempName(path)}
	err := fsys.Remove(a.tmp)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if a.f, err = fsys.Create(a.tmp); err != nil {
		return nil, err
	}
	a.buf = bufio.NewWriterSize(a.f, atomicBuffer)
	return a, nil
}

// Write appends; an error stays and is returned by Commit too.
func (a *Atomic) Write(p []byte) (int, error) { return a.buf.Write(p) }

// Commit syncs the file, gives it its name and syncs the folder. After an error the temporary file is gone, and what had the name before
// is there unless the error was of the last step.
func (a *Atomic) Commit() error {
	if a.done {
		return errors.New(a.path + ": already committed or aborted")
	}
	err := a.buf.Flush()
	if err == nil {
		err = a.f.Sync()
	}
	if err != nil {
		a.Abort()
		return err
	}
	a.done = true
	err = a.f.Close()
	if err == nil {
		err = a.fsys.Rename(a.tmp, a.path)
	}
	if err != nil {
		_ = a.fsys.Remove(a.tmp) // the first error is the one to report
		return err
	}
	return a.fsys.SyncDir(filepath.Dir(a.path))
}

// Abort drops the file; after Commit it does nothing.
func (a *Atomic) Abort() {
	if !a.done {
		a.done = true
		_ = a.f.Close() // nothing of the file is kept, so its errors do not matter
		_ = a.fsys.Remove(a.tmp)
	}
}
