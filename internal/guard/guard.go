// Package guard gives tests memory whose neighbours cannot be touched, so that a loop which reads or writes beside its operands faults.
package guard

import (
	"fmt"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Memory lies between two pages that cannot be touched, where the system can do that (Unix).
type Memory struct{ b []byte }

// New returns memory of at least size bytes, which is given back when the test ends.
func New(t testing.TB, size int) Memory {
	t.Helper()
	b, free, err := guarded(size)
	if err != nil {
		t.Fatalf("guard: %d bytes: %v", size, err)
	}
	t.Cleanup(free)
	return Memory{b}
}

// End returns the last n elements of the memory: behind them is a page that cannot be touched.
func End[E tensor.Element](m Memory, n int) []E {
	b := bytes[E](m, n)
	return tensor.View[E](m.b[len(m.b)-len(b):])
}

// Start returns the first n elements of the memory: before them is a page that cannot be touched.
func Start[E tensor.Element](m Memory, n int) []E { return tensor.View[E](bytes[E](m, n)) }

func bytes[E tensor.Element](m Memory, n int) []byte {
	size := n * len(tensor.AsBytes(make([]E, 1)))
	if n < 0 || size > len(m.b) {
		panic(fmt.Sprintf("guard: %d elements do not fit memory of %d bytes: ask New for more", n, len(m.b)))
	}
	return m.b[:size]
}
