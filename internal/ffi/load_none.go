//go:build nogpu || !(linux || darwin || windows) || !(amd64 || arm64)

package ffi

// Supported tells whether this build can open libraries.
const Supported = false

func open(string, bool) (uintptr, error)      { return 0, errBuild }
func lookup(uintptr, string) (uintptr, error) { return 0, errBuild }
func call(uintptr, []uintptr) uintptr         { return Absent }
