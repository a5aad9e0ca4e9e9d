//go:build !amd64 || noasm

package pool

// pause does nothing for some ten nanoseconds.
//
//go:noinline
func pause() {
	for range 30 {
		_ = 0
	}
}
