package gemm

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// tileOf is the micro-kernel of any size, in Go.
func tileOf(rows, kc int, a *float32, rs, ks int, b *float32, bs int, c *float32, ldc, cols int, alpha float32, add bool, _ uintptr, _ int) {
	as, bv, cs := unsafe.Slice(a, (rows-1)*rs+(kc-1)*ks+1), unsafe.Slice(b, (kc-1)*bs+cols), unsafe.Slice(c, (rows-1)*ldc+cols)
	for i := range rows {
		for j := range cols {
			var s float32
			for k := range kc {
				s += as[i*rs+k*ks] * bv[k*bs+j]
			}
			if add {
				cs[i*ldc+j] += alpha * s
			} else {
				cs[i*ldc+j] = alpha * s
			}
		}
	}
}

// TestWideStrips drives packing and blocking with the strips of the AVX-512 kernel on processors without it, and with those of
// the AVX2 kernel where there is no assembly.
func TestWideStrips(t *testing.T) {
	r := rand.New(rand.NewPCG(21, 22))
	saved := kernels[AVX512]
	defer func() { kernels[AVX512] = saved }()
	for _, size := range [][2]int{{14, 32}, {6, 16}} {
		wide := *kernels[Best()]
		wide.mr, wide.nr, wide.tile, wide.packers = size[0], size[1], tileOf, packers{}
		wide.dotsF32, wide.tilePack, wide.tileTurn[0] = nil, nil, nil
		kernels[AVX512] = &wide
		for c := range 8 {
			for _, d := range [][3]int{{14, 32, 9}, {61, 67, 71}, {1930, 9, 17}, {20, 1030, 17}, {130, 70, 401}} {
				out := []tensor.DType{tensor.F32, tensor.BF16}[c>>2]
				t.Run(fmt.Sprint(size, d, c), func(t *testing.T) {
					product{a: newMat(r, tensor.F32, c&1 != 0, d[0], d[2], 1), b: newMat(r, tensor.F32, c&2 != 0, d[2], d[1], 1),
						out: out, accumulate: c&1 != 0, alpha: 1, kernel: AVX512, threads: 2}.check(t)
				})
			}
		}
	}
}

// TestTilesAgree compares each micro-kernel with a naive one for every number of rows and columns, for packed strips and for operands
// where they lie, and checks that it writes its tile only.
func TestTilesAgree(t *testing.T) {
	r := rand.New(rand.NewPCG(31, 32))
	random := func(n int) []float32 {
		s := make([]float32, n)
		for i := range s {
			s[i] = r.Float32() - 0.5
		}
		return s
	}
	for _, kern := range available() {
		k := kernels[kern]
		for rows := 1; rows <= k.mr; rows++ {
			for _, kc := range []int{1, 2, 3, 8, 37, 64, 67, 130, 199} {
				cols := 1 + r.IntN(k.nr)
				if kc&1 == 0 {
					cols = k.nr
				}
				for _, s := range [][3]int{{1, rows, k.nr}, {kc + 2, 1, k.nr + 3}, {1, rows + 5, k.nr}} { // rs, ks, bs
					ldc, add := cols+kc%3, rows%2 == 0
					a, b, c := random(s[0]*rows+s[1]*kc), random(kc*s[2]), random(rows*ldc+40)
					want := append([]float32(nil), c...)
					k.tile(rows, kc, &a[0], s[0], s[1], &b[0], s[2], &c[0], ldc, cols, 1.5, add, uintptr(unsafe.Pointer(&a[0])), 64)
					tileOf(rows, kc, &a[0], s[0], s[1], &b[0], s[2], &want[0], ldc, cols, 1.5, add, uintptr(unsafe.Pointer(&a[0])), 64)
					require.InDeltaSlice(t, want, c, 1e-5, "%v rows %d cols %d kc %d strides %v", kern, rows, cols, kc, s)
					for i := range c {
						if i%ldc >= cols || i >= rows*ldc {
							require.Equal(t, want[i], c[i], "%v rows %d cols %d: element %d", kern, rows, cols, i)
						}
					}
				}
			}
		}
	}
}

// TestStrips compares the packers with plain indexing for every width and type, with odd strides and starts.
func TestStrips(t *testing.T) {
	r := rand.New(rand.NewPCG(41, 42))
	for _, kern := range available() {
		k := kernels[kern]
		for _, dt := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
			for _, laneRows := range bools {
				for w := 1; w <= k.nr; w++ {
					for _, kb := range []int{1, 15, 16, 17, 31, 32, 33, 47, 64, 67} {
						have := w
						if w == k.nr {
							have = 1 + r.IntN(w)
						}
						x := newMat(r, dt, laneRows, kb+3, have+2, 1)
						dst, temp := make([]float32, w*kb+1), make([]float32, w*kb)
						dst[w*kb] = 77
						k.strip(dst, w, &x.Mat, laneRows, 1, have, 2, kb, temp)
						require.EqualValues(t, 77, dst[w*kb])
						for i := range kb {
							for l := range have {
								require.EqualValues(t, x.vals[(i+2)*(have+2)+l+1], dst[i*w+l], "%v %v %v w %d kb %d [%d,%d]", kern, dt, laneRows, w, kb, i, l)
							}
						}
					}
				}
			}
		}
	}
}

// TestScratchBounds plans products of many shapes: each fits the scratch asked for, and that of larger ones.
func TestScratchBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.OneOf(rapid.IntRange(1, 100), rapid.IntRange(1, 5000))
		m, n, k, threads := size.Draw(t, "m"), size.Draw(t, "n"), size.Draw(t, "k"), rapid.IntRange(1, 9).Draw(t, "threads")
		more := rapid.IntRange(0, 50)
		large := ScratchBytes(m+more.Draw(t, "dm"), n+more.Draw(t, "dn"), k+more.Draw(t, "dk"), threads)
		large8 := Int8ScratchBytes(m+more.Draw(t, "dm"), n+more.Draw(t, "dn"), k+more.Draw(t, "dk"), threads)
		for _, kern := range available() {
			j := job{Args: Args{M: m, N: n, K: k, C: Out{DType: rapid.SampledFrom([]tensor.DType{tensor.F32, tensor.BF16}).Draw(t, "c")}}, kern: kernels[kern]}
			j.A.DType, j.B.DType = tensor.F32, tensor.F32
			if rapid.Bool().Draw(t, "sourceA") {
				j.A.Source = &source{}
			} else if rapid.Bool().Draw(t, "sourceB") {
				j.B.Source = &source{}
			}
			require.NoError(t, j.layout(make([]byte, large), threads))
			var b blocks
			j8 := job8{Int8Args: Int8Args{B: Mat8{Trans: rapid.Bool().Draw(t, "trans8")}}, kern: kern.int8Kernel()}
			b.plan(m, n, ceil(k, j8.kern.per), j8.choice(threads))
			require.LessOrEqual(t, int64(4*b.floats(threads)+line), large8)
		}
	})
}

// TestScratchBoundOfFewSteps: what lies beside the many lanes of a short block has room, in scratch for larger products too.
func TestScratchBoundOfFewSteps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		steps, threads := rapid.IntRange(1, 70).Draw(t, "steps"), rapid.IntRange(1, 9).Draw(t, "threads")
		m := max(resident/steps+rapid.IntRange(-500, 500).Draw(t, "m")-50, 1)
		n, more := max(m+rapid.IntRange(-500, 500).Draw(t, "n"), 1), rapid.IntRange(0, 100).Draw(t, "more")
		for _, kern := range available() {
			k8 := kern.int8Kernel()
			j := job8{Int8Args: Int8Args{A: Mat8{Trans: rapid.Bool().Draw(t, "transA")}, B: Mat8{Trans: rapid.Bool().Draw(t, "transB")}}, kern: k8}
			j.plan(m, n, steps, j.choice(threads))
			require.LessOrEqual(t, int64(4*j.floats(threads)+line), Int8ScratchBytes(m+more, n+more, steps*k8.per+more, threads))
		}
	})
}
