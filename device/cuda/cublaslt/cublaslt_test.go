package cublaslt

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// open skips where the library is absent; descriptions need no GPU.
func open(t *testing.T) *Library {
	t.Helper()
	l, err := Open(13000, 90)
	if err != nil {
		t.Skip(err)
	}
	return l
}

// A library of a newer CUDA than the driver's is not opened: its code does not load.
func TestFileNames(t *testing.T) {
	for _, c := range []struct {
		driver, capability int
		names              []string
	}{
		{13000, 90, []string{"libcublasLt.so.13", "libcublasLt.so.12"}},
		{14010, 120, []string{"libcublasLt.so.13", "libcublasLt.so.12"}},
		{12080, 90, []string{"libcublasLt.so.12"}},
		{13000, 70, []string{"libcublasLt.so.12"}},
	} {
		unix, windows := fileNames(c.driver, c.capability)
		require.Equal(t, c.names, unix)
		require.Len(t, windows, len(unix))
	}
}

// The library checks the size of every attribute and the values of layouts when they are set.
func TestDescriptionsAreAccepted(t *testing.T) {
	h := &Handle{lib: open(t)}
	require.GreaterOrEqual(t, h.Library().Version(), 120000)
	require.NotEmpty(t, h.Library().Path())
	for _, p := range []Problem{
		{M: 3, N: 5, K: 7, A: Matrix{Type: R32F, LD: 7}, B: Matrix{Type: R32F, LD: 5}, C: Matrix{Type: R32F, LD: 5}, Compute: Compute32F},
		{M: 64, N: 32, K: 16, Batch: 4, A: Matrix{Type: R16BF, LD: 64, Trans: true, Stride: 1024}, B: Matrix{Type: R16BF, LD: 16, Trans: true, Stride: 512},
			C: Matrix{Type: R16BF, LD: 32, Stride: 2048}, Compute: Compute32F, Align: 16},
		{M: 8, N: 8, K: 32, A: Matrix{Type: R8I, LD: 32}, B: Matrix{Type: R8I, LD: 32, Trans: true}, C: Matrix{Type: R32I, LD: 8}, Compute: Compute32I},
		{M: 8, N: 8, K: 32, A: Matrix{Type: R64F, LD: 32}, B: Matrix{Type: R64F, LD: 32, Trans: true}, C: Matrix{Type: R64F, LD: 8}, Compute: Compute64F},
	} {
		x, err := h.New(p)
		require.NoError(t, err)
		x.Set(Algorithm{}, 1, 0)
		x.Close()
		x.Close() // nothing is left to free
	}
	p := Problem{M: 3, N: 5, K: 7}
	x, err := h.New(p)
	require.NoError(t, err)
	defer x.Close()
	one := int32(1)
	require.EqualError(t, status("set", h.lib.fn.LayoutSet.Call(x.a, layoutStride, uintptr(unsafe.Pointer(&one)), unsafe.Sizeof(one))),
		"cuBLASLt: set failed: INVALID_VALUE (7)", "a stride has 8 bytes")
}

// Without a device there is no handle, and the error names the call.
func TestErrorsName(t *testing.T) {
	require.EqualError(t, status("cublasLtMatmul", 14), "cuBLASLt: cublasLtMatmul failed: INTERNAL_ERROR (14)")
	require.EqualError(t, status("cublasLtMatmul", 99), "cuBLASLt: cublasLtMatmul failed: unknown status (99)")
	require.NoError(t, status("cublasLtMatmul", 0))
}

// Scalars have the type of the sums.
func TestScalars(t *testing.T) {
	var b [8]byte
	putFloat32(&b, -0.75)
	require.Equal(t, []byte{0, 0, 0x40, 0xbf}, b[:4])
	putFloat64(&b, 1)
	require.Equal(t, []byte{0, 0, 0, 0, 0, 0, 0xf0, 0x3f}, b[:])
	putInt32(&b, 1)
	require.Equal(t, []byte{1, 0, 0, 0}, b[:4])
}
