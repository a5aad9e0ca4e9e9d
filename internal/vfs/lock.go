package vfs

import "errors"

// ErrLocked says that another process has a folder.
var ErrLocked = errors.New("another process has it")

// Lock takes a folder of the operating system's file system for this caller, until unlock or the end of the process, however it comes. It writes
// nothing. The error matches ErrLocked where another caller, of this process or any other, has the folder. Where the system or the file system
// has no such locks (Windows, some network shares), it takes nothing and succeeds.
func Lock(dir string) (unlock func() error, err error) { return lock(dir) }
