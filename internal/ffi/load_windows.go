//go:build !nogpu && windows && (amd64 || arm64)

package ffi

import (
	"path/filepath"
	"syscall"

	"golang.org/x/sys/windows"
)

// Supported tells whether this build can open libraries.
const Supported = true

// open opens a file, whose own libraries are then looked for in its folder, or a bare name from the system's folders only: not from the
// working folder, where anybody may have put one.
func open(name string, _ bool) (uintptr, error) {
	flags := uintptr(windows.LOAD_LIBRARY_SEARCH_DEFAULT_DIRS)
	if filepath.IsAbs(name) {
		flags |= windows.LOAD_LIBRARY_SEARCH_DLL_LOAD_DIR
	}
	h, err := windows.LoadLibraryEx(name, 0, flags)
	return uintptr(h), err
}

func lookup(handle uintptr, symbol string) (uintptr, error) {
	return windows.GetProcAddress(windows.Handle(handle), symbol)
}

func call(fn uintptr, args []uintptr) uintptr {
	r, _, _ := syscall.SyscallN(fn, args...)
	return r
}
