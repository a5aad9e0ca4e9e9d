//go:build !nogpu && (linux || darwin) && (amd64 || arm64)

package ffi

import (
	"github.com/ebitengine/purego"
)

// Supported tells whether this build can open libraries.
const Supported = true

// open opens a file, or a bare name by the system's own search. A global library's symbols serve those opened later.
func open(name string, global bool) (uintptr, error) {
	mode := purego.RTLD_NOW | purego.RTLD_LOCAL
	if global {
		mode = purego.RTLD_NOW | purego.RTLD_GLOBAL
	}
	return purego.Dlopen(name, mode)
}

func lookup(handle uintptr, symbol string) (uintptr, error) { return purego.Dlsym(handle, symbol) }

func call(fn uintptr, args []uintptr) uintptr {
	r, _, _ := purego.SyscallN(fn, args...)
	return r
}
