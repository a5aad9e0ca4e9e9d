// Package faultfs is a file system in memory that fails at a chosen operation, for tests of durable writes.
//
// It keeps two states of every file and folder: what a running program sees, and what is on the disk. Sync of a file and SyncDir
// of a folder carry the first over to the second. After a crash the machine is restarted with one of three disks: everything
// that was written (Kept), only what was synced (Dropped), or an arbitrary part of what was not synced (Torn), because a real
// disk writes back in any order.
package faultfs

import (
	"errors"
	"io/fs"
	"sync"
	"syscall"
)

// Kind is what happens at the chosen operation.
type Kind uint8

// The kinds of fault. At a write, Crash and ShortWrite let half of the bytes through; ShortWrite does nothing at other operations.
const (
	None Kind = iota
	Crash
	NoSpace
	IOError
	ShortWrite
)

// String names the kind.
func (k Kind) String() string {
	return [...]string{"none", "crash", "ENOSPC", "EIO", "short write"}[min(k, ShortWrite)]
}

// Disk is which state survives a crash.
type Disk uint8

// The states of the disk after a crash.
const (
	Kept Disk = iota
	Dropped
	Torn
)

// String names the state.
func (d Disk) String() string { return [...]string{"kept", "dropped", "torn"}[min(d, Torn)] }

// Fault says what fails and when: at mutating operation At, counted from 1. With Sticky every later operation fails as well
// (always so for Crash).
type Fault struct {
	At     int
	Kind   Kind
	Sticky bool
}

// ErrCrashed is returned by every operation after a crash, until Restart.
var ErrCrashed = errors.New("faultfs: the machine has crashed")

// FS is the file system; make one with New. It implements vfs.FS.
type FS struct {
	mu      sync.Mutex
	root    *node
	fault   Fault
	ops     int
	crashed bool
	log     []string
	space   int64
}

// New returns an empty file system with no fault armed and free space unknown.
func New() *FS { return &FS{root: newDir(), space: -1} }

// Arm sets the next fault and counts operations from zero again.
func (f *FS) Arm(fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault, f.ops, f.log = fault, 0, nil
}

// Ops is the number of mutating operations (create, write, sync, close of a written file, rename, each single removal, mkdir,
// sync of a folder) since Arm.
func (f *FS) Ops() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ops
}

// Log names the operations since Arm, one line each.
func (f *FS) Log() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.log...)
}

// Crashed reports whether the armed crash has happened.
func (f *FS) Crashed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.crashed
}

// SetFree sets what Free reports; a negative number means unknown. Writes are not limited by it.
func (f *FS) SetFree(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.space = n
}

// Free implements vfs.FreeSpacer.
func (f *FS) Free(string) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.space < 0 {
		return 0, errors.ErrUnsupported
	}
	return f.space, nil
}

// Restart starts the machine again with the given disk and no fault. The seed chooses what a Torn disk keeps.
func (f *FS) Restart(d Disk, seed uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.root = f.root.survive(d, &chooser{seed}, map[*node]*node{})
	f.fault, f.ops, f.log, f.crashed = Fault{}, 0, nil, false
}

// Clone returns a copy with the same files, both seen and durable, and no fault.
func (f *FS) Clone() *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &FS{root: f.root.clone(map[*node]*node{}), space: f.space}
}

// begin counts an operation and returns the fault that meets it.
func (f *FS) begin(op, name string) (Kind, error) {
	if f.crashed {
		return Crash, ErrCrashed
	}
	f.ops++
	f.log = append(f.log, op+" "+name)
	if f.ops != f.fault.At && (!f.fault.Sticky || f.fault.At == 0 || f.ops < f.fault.At) {
		return None, nil
	}
	switch f.fault.Kind {
	case Crash:
		f.crashed = true
		return Crash, ErrCrashed
	case NoSpace:
		return NoSpace, &fs.PathError{Op: op, Path: name, Err: syscall.ENOSPC}
	case IOError:
		return IOError, &fs.PathError{Op: op, Path: name, Err: syscall.EIO}
	}
	return f.fault.Kind, nil
}
