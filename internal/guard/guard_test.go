//go:build unix

package guard

import (
	"runtime/debug"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

func TestNeighboursCannotBeTouched(t *testing.T) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	m := New(t, 5000)
	for _, n := range []int{1, 7, 1024} {
		end, start := End[float32](m, n), Start[float32](m, n)
		end[n-1], start[0] = 1, 2
		require.Panics(t, func() { *(*byte)(unsafe.Add(unsafe.Pointer(&end[n-1]), 4)) = 1 })
		require.Panics(t, func() { *(*byte)(unsafe.Add(unsafe.Pointer(&start[0]), -1)) = 1 })
	}
	require.Empty(t, End[byte](m, 0))
	require.PanicsWithValue(t, "guard: 9000 elements do not fit memory of 8192 bytes: ask New for more", func() { Start[byte](m, 9000) })
}
