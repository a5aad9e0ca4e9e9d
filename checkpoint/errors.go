package checkpoint

import (
	"errors"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
)

// Sentinels for errors.Is.
var (
	// ErrFormat is matched by errors of a file's contents.
	ErrFormat = errors.New("bad file")
	// ErrDisk is matched by errors of the disk while writing: full, failing or not permitted.
	ErrDisk = errors.New("disk error")
	// ErrNone means that a run has no checkpoint at all.
	ErrNone = errors.New("no checkpoint")
	// ErrNoneIntact means that a run has checkpoints and none of them is intact.
	ErrNoneIntact = errors.New("no intact checkpoint")
)

// FormatError says what is wrong in a file. It matches ErrFormat.
type FormatError struct {
	File   string
	Tensor string // "" when the error is not of one tensor
	Reason string
	Remedy string // what the user can do; "" when nothing better than another copy
}

// Error prints `FILE: tensor "NAME": REASON; REMEDY`.
func (e *FormatError) Error() string {
	var b strings.Builder
	b.WriteString(e.File + ": ")
	if e.Tensor != "" {
		b.WriteString("tensor " + quoted(e.Tensor) + ": ")
	}
	b.WriteString(e.Reason + "; ")
	if e.Remedy == "" {
		b.WriteString("the file is damaged or was not written by a safetensors library: fetch or write it again")
	} else {
		b.WriteString(e.Remedy)
	}
	return b.String()
}

// Is matches ErrFormat.
func (e *FormatError) Is(target error) bool { return target == ErrFormat }

// DiskError is trouble with the disk while writing. It matches ErrDisk and the error of the system.
type DiskError struct {
	Path string
	Err  error
}

// Error names the path where the system's error does not.
func (e *DiskError) Error() string {
	msg := e.Err.Error()
	if !strings.Contains(msg, e.Path) {
		msg = e.Path + ": " + msg
	}
	return "writing failed: " + msg + "; free or repair the disk, or choose another folder"
}

// Is matches ErrDisk.
func (e *DiskError) Is(target error) bool { return target == ErrDisk }

// Unwrap returns the system's error.
func (e *DiskError) Unwrap() error { return e.Err }

// diskError wraps an error of a file operation; nil stays nil.
func diskError(path string, err error) error {
	if err == nil {
		return nil
	}
	var de *DiskError
	if errors.As(err, &de) {
		return err
	}
	return &DiskError{path, err}
}

// readSmall reads a whole small file; one beyond the limit is a FormatError.
func readSmall(fsys vfs.FS, path string, limit int64) ([]byte, error) {
	info, err := fsys.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().IsRegular() && info.Size() > limit {
		return nil, &FormatError{File: path, Reason: tooLarge(info.Size(), limit), Remedy: "it cannot be what its name says: fetch it again"}
	}
	return vfs.ReadFile(fsys, path, limit)
}
