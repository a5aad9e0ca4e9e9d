//go:build linux && (amd64 || arm64)

package quant

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/require"
)

// sparse is zeroed address space of n bytes, of which only the pages that are written take memory.
func sparse(t testing.TB, n int) []byte {
	t.Helper()
	if n == 0 {
		return []byte{}
	}
	b, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE|syscall.MAP_NORESERVE)
	if err != nil {
		t.Skipf("no address space of %d bytes: %v", n, err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Munmap(b)) })
	return b
}

// generated is a tensor of any size whose elements are made when they are read.
type generated struct{ shape tensor.Shape }

func (g generated) Type() tensor.Type { return tensor.Type{DType: tensor.F32, Shape: g.shape} }

func (g generated) Read(dst []float32, lo int) error {
	for i := range dst {
		dst[i] = float32(uniform(1, uint64(lo+i))) - 0.5
	}
	return nil
}

// hugeState is what f.New returns, in sparse memory.
func hugeState(t testing.TB, shape tensor.Shape, header func(s *State) error) *State {
	t.Helper()
	s := &State{Shape: shape, DType: tensor.F32}
	require.NoError(t, header(s))
	require.NoError(t, s.checkHeader())
	s.Codes = sparse(t, s.codesSize())
	s.Absmax = tensor.View[float32](sparse(t, 4*s.Blocks()))
	if s.Zeros != nil {
		s.Zeros = sparse(t, s.Blocks())
	}
	return s
}

// Around elements 2^31 and 2^32 of a tensor, codes, scales and values are those that the same elements have in a small tensor.
func TestBeyondTwoToThe31(t *testing.T) {
	const even, odd = 1 << 12, 4099
	formats := map[string]func(s *State) error{}
	for _, f := range []Config{{Blocksize: 4096}, {Scheme: FP4, Blocksize: 2048}, {Scheme: Int8}} {
		formats[f.Name()] = f.header
	}
	for _, f := range []AffineFormat{{Bits: 2, Per: PerChannel}, {Bits: 3, Per: 1024, Asymmetric: true}, {Bits: 5, Per: 4096}, {Bits: 8, Per: PerChannel, Asymmetric: true}} {
		formats[f.Name()] = f.header
	}
	kbit, fp8, blockwise := KBitFormat{Bits: 6, Blocksize: 4096}, FP8Format{Per: 2000}, BlockwiseFormat{Blocksize: 4096}
	formats[kbit.Name()], formats[fp8.Name()], formats[blockwise.Name()] = kbit.header, fp8.header, blockwise.header
	for name, header := range formats {
		for _, cols := range []int{even, odd} {
			if cols == odd && !strings.Contains(name, "channel") && !strings.Contains(name, "group") && name != "int8" {
				continue // flat blocks: the window would not begin with one
			}
			t.Run(fmt.Sprintf("%s/%d", name, cols), func(t *testing.T) {
				f, err := ParseFormat(name)
				require.NoError(t, err)
				shape := tensor.S(1<<32/cols+16, cols)
				s := hugeState(t, shape, header)
				for _, border := range []int{1 << 31, 1 << 32} {
					compareWindow(t, s, f, (border/cols-4)/8*8, cols)
				}
			})
		}
	}
}

// compareWindow quantizes 16 rows of the huge tensor and of a small one that holds just them.
func compareWindow(t *testing.T, s *State, f Format, row, cols int) {
	const rows = 16
	lo, n := row*cols, min(rows, s.Size()/cols-row)*cols
	e, err := s.Encoder()
	require.NoError(t, err)
	src := generated{s.Shape}
	require.NoError(t, e.fill(src, Options{Parallel: halves}, lo, lo+n))
	x := make([]float32, n)
	require.NoError(t, src.Read(x, lo))
	w, err := tensor.Of(x, n/cols, cols)
	require.NoError(t, err)
	want, err := QuantizeTensor(w, f, Options{})
	require.NoError(t, err)
	wantCodes, codes := make([]uint8, n), make([]uint8, n)
	require.NoError(t, want.Unpack(wantCodes, 0, n))
	require.NoError(t, s.Unpack(codes, lo, lo+n))
	require.Equal(t, wantCodes, codes)
	first := s.Block(lo)
	require.Equal(t, want.Absmax, s.Absmax[first:first+want.Blocks()])
	wide, err := want.Dequantize(tensor.F32)
	require.NoError(t, err)
	for _, cut := range []int{0, 1, 777} {
		require.NoError(t, s.Read(x[cut:], lo+cut))
		require.Equal(t, tensor.Data[float32](wide)[cut:], x[cut:])
	}
}

// The functions over slices of bitsandbytes' formats, far behind element 2^31.
func TestSlicesBeyondTwoToThe31(t *testing.T) {
	const n, lo, count = 1<<31 + 1<<13, 1<<31 - 1<<12, 1 << 13
	src := tensor.View[float32](sparse(t, 4*n))
	require.NoError(t, generated{}.Read(src[lo:lo+count], lo))
	codes, absmax := sparse(t, PackedSize(n)), tensor.View[float32](sparse(t, 4*Blocks(n, 64)))
	quantizeBlocks4(codes, absmax, src, 64, NF4, lo/64, (lo+count)/64, nil)
	want, scales := make([]byte, count/2), make([]float32, count/64)
	require.NoError(t, Quantize4(want, scales, src[lo:lo+count], 64, NF4))
	require.Equal(t, want, append([]byte{}, codes[lo/2:(lo+count)/2]...))
	require.Equal(t, scales, absmax[lo/64:(lo+count)/64])
	a, b := make([]float32, count-1), make([]float32, count)
	require.NoError(t, Dequantize4Range(a, codes, absmax, lo+1, lo+count, 64, NF4))
	require.NoError(t, Dequantize4(b, want, scales, 64, NF4))
	require.Equal(t, b[1:], a)
	bytes := sparse(t, n)
	copy(bytes[lo:], want)
	require.NoError(t, Dequantize8Range(a, bytes, absmax, lo+1, lo+count, 64, DynamicSigned()))
	require.NoError(t, Dequantize8(b, bytes[lo:lo+count], scales, 64, DynamicSigned()))
	require.Equal(t, b[1:], a)
	u8, nested := sparse(t, n), tensor.View[float32](sparse(t, 4*Blocks(n, StateBlocksize)))
	copy(u8[lo:], want)
	nested[lo/StateBlocksize] = 0.25
	require.NoError(t, RestoreScales(a, u8, nested, 1, lo, lo+9, StateBlocksize, &DynamicSigned().values))
	require.Equal(t, float32(DynamicSigned().values[want[0]]*0.25)+1, a[0])
}

// available is the memory that can be had, in bytes.
func available(t testing.TB) int {
	t.Helper()
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var kib int
		if n, _ := fmt.Sscanf(lines.Text(), "MemAvailable: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return 0
}

// BenchmarkHuge quantizes a tensor of more than 2^31 elements, made as it is read, and compares all of it with its values.
func BenchmarkHuge(b *testing.B) {
	const n = 1<<31 + 1<<20
	if testing.Short() {
		b.Skip("takes half a minute")
	}
	if have := available(b); have < 3<<30 {
		b.Skipf("needs 3 GiB of memory, %d MiB are free", have>>20)
	}
	src := generated{tensor.S(n>>12, 1<<12)}
	b.SetBytes(4 * n)
	for b.Loop() {
		s, err := Config{Double: true}.Quantize(src, Options{Parallel: halves})
		require.NoError(b, err)
		require.Equal(b, n, s.Size())
		got, want := make([]float32, 1<<16), make([]float32, 1<<16)
		for lo := 0; lo < n; lo += len(got) {
			require.NoError(b, s.Read(got, lo))
			require.NoError(b, src.Read(want, lo))
			for i := range got {
				if d := got[i] - want[i]; d > 0.09 || d < -0.09 {
					b.Fatalf("element %d: %v became %v", lo+i, want[i], got[i])
				}
			}
		}
	}
}
