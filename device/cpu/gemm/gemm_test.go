package gemm

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/pool"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// testMat is an operand with its values as the kernels see them.
type testMat struct {
	Mat
	rows, cols int // of op(X)
	vals       []float64
}

// newMat draws an operand whose op is [rows,cols]. Gaps between rows hold NaN, so that reading them shows.
func newMat(r *rand.Rand, dt tensor.DType, trans bool, rows, cols, gap int) testMat {
	sr, sc := rows, cols
	if trans {
		sr, sc = cols, rows
	}
	ld := sc + gap
	t := tensor.New(tensor.T(dt, sr, ld))
	for i := range sr * ld {
		t.Set(i, math.NaN())
		if i%max(ld, 1) < sc {
			t.Set(i, r.Float64()*2-1)
		}
	}
	m := testMat{Mat: Mat{Data: t.Bytes(), DType: dt, Trans: trans}, rows: rows, cols: cols, vals: make([]float64, rows*cols)}
	if gap > 0 {
		m.LD = ld
	}
	for i := range rows {
		for k := range cols {
			at := i*ld + k
			if trans {
				at = k*ld + i
			}
			m.vals[i*cols+k] = t.At(at)
		}
	}
	return m
}

// source serves a matrix block by block and checks what it is asked for.
type source struct {
	t *tensor.Tensor
}

func (s *source) Block(dst []float32, ld, r0, r1, c0, c1 int) {
	cols := s.t.Shape().Dim(1)
	if r0 < 0 || c0 < 0 || r1 > s.t.Shape().Dim(0) || c1 > cols || ld < c1-c0 {
		panic("range outside the matrix")
	}
	for r := r0; r < r1; r++ {
		for c := c0; c < c1; c++ {
			dst[(r-r0)*ld+c-c0] = float32(s.t.At(r*cols + c))
		}
	}
}

// asSource hides a gapless float32 operand behind a Source.
func (m testMat) asSource(t require.TestingT) testMat {
	rows, cols := m.rows, m.cols
	if m.Trans {
		rows, cols = cols, rows
	}
	data, err := tensor.FromBytes(tensor.T(tensor.F32, rows, cols), m.Data)
	require.NoError(t, err)
	m.Mat = Mat{Trans: m.Trans, Source: &source{data}}
	return m
}

type product struct {
	a, b       testMat
	out        tensor.DType
	gapC       int
	accumulate bool
	alpha      float64
	kernel     Kernel
	threads    int
}

// run computes p into a fresh C and returns it, with the gaps, and what it held before.
func (p product) run(t require.TestingT) (got, before *tensor.Tensor) {
	m, n, k := p.a.rows, p.b.cols, p.a.cols
	r := rand.New(rand.NewPCG(7, 7))
	c := tensor.New(tensor.T(p.out, m, n+p.gapC))
	for i := range c.Shape().Size() {
		c.Set(i, r.Float64())
	}
	before = c.Clone()
	workers := pool.New(p.threads)
	defer workers.Close()
	out := Out{Data: c.Bytes(), DType: p.out}
	if p.gapC > 0 {
		out.LD = n + p.gapC
	}
	scratch := tensor.AlignedBytes(int(ScratchBytes(m, n, k, p.threads)))
	for i := range tensor.View[float32](scratch) {
		tensor.View[float32](scratch)[i] = float32(math.NaN()) // nothing may rely on clean scratch
	}
	require.NoError(t, Gemm(workers, scratch, p.alpha, Args{M: m, N: n, K: k, A: p.a.Mat, B: p.b.Mat, C: out,
		Accumulate: p.accumulate, Kernel: p.kernel}))
	return c, before
}

// check compares with float64 sums. The bound is that of float32 summation plus one rounding to the output type.
func (p product) check(t require.TestingT) {
	got, before := p.run(t)
	m, n, k := p.a.rows, p.b.cols, p.a.cols
	ulp := map[tensor.DType]float64{tensor.F32: 0, tensor.BF16: 1. / 256, tensor.F16: 1. / 2048, tensor.F64: 0}[p.out]
	unit, tiny := 0x1p-23, 0.0
	if p.out == tensor.F16 {
		tiny = 0x1p-24 // gradual underflow
	}
	if p.out == tensor.F64 {
		unit = 0x1p-52
	}
	ld := n + p.gapC
	for i := range m {
		for j := range ld {
			if j >= n {
				require.Equal(t, before.At(i*ld+j), got.At(i*ld+j), "gap after row %d was written", i)
				continue
			}
			want, size := 0.0, 0.0
			for x := range k {
				v := p.alpha * p.a.vals[i*k+x] * p.b.vals[x*n+j]
				want, size = want+v, size+math.Abs(v)
			}
			if p.accumulate {
				want, size = want+before.At(i*ld+j), size+math.Abs(before.At(i*ld+j))
			}
			bound := size*unit*(4+math.Sqrt(float64(k))) + math.Abs(want)*ulp*1.01 + tiny
			if d := math.Abs(got.At(i*ld+j) - want); !(d <= bound) {
				require.Failf(t, "wrong element", "C[%d,%d] = %v, want %v, off by %g, bound %g", i, j, got.At(i*ld+j), want, d, bound)
			}
		}
	}
}

func available() (out []Kernel) {
	for k := Generic; k < numKernels; k++ {
		if k.Available() {
			out = append(out, k)
		}
	}
	return out
}

var bools = []bool{false, true}

func TestShapesAndTransposes(t *testing.T) {
	dims := [][3]int{{1, 1, 1}, {6, 16, 4}, {7, 17, 5}, {14, 32, 8}, {13, 31, 37}, {61, 67, 71}, {128, 96, 64}, {46, 230, 640}, {2, 131, 300},
		{131, 3, 300}, {5, 257, 513}, {70, 130, 601}, {23, 1031, 19}, {1933, 9, 11}, {0, 3, 4}, {3, 0, 4}, {9, 9, 0}, {3, 70, 0}}
	for _, kern := range available() {
		t.Run(kern.String(), func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 2))
			for i, d := range dims {
				for c := range 8 {
					ta, tb, acc := c&1 != 0, c&2 != 0, c&4 != 0
					gap := (i + c) % 3
					product{a: newMat(r, tensor.F32, ta, d[0], d[2], gap), b: newMat(r, tensor.F32, tb, d[2], d[1], 2-gap),
						out: tensor.F32, gapC: gap, accumulate: acc, alpha: 1.25, kernel: kern, threads: 1}.check(t)
				}
			}
		})
	}
}

func TestTypes(t *testing.T) {
	types := []tensor.DType{tensor.F32, tensor.BF16, tensor.F16}
	for _, kern := range available() {
		r := rand.New(rand.NewPCG(3, 4))
		for c := range 27 {
			da, db, dc := types[c%3], types[c/3%3], types[c/9]
			for v, d := range [][3]int{{29, 83, 301}, {3, 83, 301}, {83, 3, 301}, {64, 64, 16}} {
				ta, tb, acc := (c+v)&1 != 0, (c+v)&2 != 0, (c+v)&4 != 0
				t.Run(fmt.Sprintf("%v/%v*%v=%v/%v", kern, da, db, dc, d), func(t *testing.T) {
					product{a: newMat(r, da, ta, d[0], d[2], v), b: newMat(r, db, tb, d[2], d[1], 1), out: dc, gapC: v,
						accumulate: acc, alpha: -0.5, kernel: kern, threads: 1}.check(t)
				})
			}
		}
	}
}

func TestFloat64(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for c := range 8 {
		for _, d := range [][3]int{{1, 1, 1}, {17, 135, 130}, {33, 5, 300}, {4, 4, 0}} {
			product{a: newMat(r, tensor.F64, c&1 != 0, d[0], d[2], 1), b: newMat(r, tensor.F64, c&2 != 0, d[2], d[1], 2),
				out: tensor.F64, gapC: 1, accumulate: c&4 != 0, alpha: 1 / 3., threads: 2}.check(t)
		}
	}
}

func TestSource(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 9))
	for _, kern := range available() {
		for _, d := range [][3]int{{70, 130, 601}, {3, 600, 700}, {600, 3, 70}} {
			for c := range 4 {
				a := newMat(r, tensor.F32, c&1 != 0, d[0], d[2], 0)
				b := newMat(r, tensor.F32, c&2 != 0, d[2], d[1], 0)
				p := product{a: a, b: b.asSource(t), out: tensor.BF16, alpha: 1, kernel: kern, threads: 2}
				p.check(t)
				p.a = a.asSource(t)
				p.b = b
				p.check(t)
			}
		}
	}
}

// TestThreadsGiveEqualBits also covers several blocks of M and N and changing tile shapes.
func TestThreadsGiveEqualBits(t *testing.T) {
	r := rand.New(rand.NewPCG(10, 11))
	for _, d := range [][3]int{{64, 512, 300}, {200, 1100, 70}, {1990, 70, 40}, {2, 700, 300}, {700, 2, 300}} {
		for _, tb := range bools {
			for _, out := range []tensor.DType{tensor.F32, tensor.BF16} {
				p := product{a: newMat(r, tensor.F32, false, d[0], d[2], 0), b: newMat(r, tensor.F32, tb, d[2], d[1], 0), out: out,
					alpha: 0.7, threads: 1}
				want, _ := p.run(t)
				for _, threads := range []int{2, 5} {
					p.threads = threads
					got, _ := p.run(t)
					require.Equal(t, want.Bytes(), got.Bytes(), "%v on %d threads", d, threads)
				}
			}
		}
	}
}

func TestRandomProducts(t *testing.T) {
	kerns := available()
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		dim := rapid.IntRange(0, 90)
		m, n, k := dim.Draw(t, "m"), dim.Draw(t, "n"), rapid.IntRange(0, 530).Draw(t, "k")
		dt := rapid.SampledFrom([]tensor.DType{tensor.F32, tensor.BF16, tensor.F16})
		product{
			a:   newMat(r, dt.Draw(t, "a"), rapid.Bool().Draw(t, "ta"), m, k, rapid.IntRange(0, 3).Draw(t, "gapA")),
			b:   newMat(r, dt.Draw(t, "b"), rapid.Bool().Draw(t, "tb"), k, n, rapid.IntRange(0, 3).Draw(t, "gapB")),
			out: dt.Draw(t, "c"), gapC: rapid.IntRange(0, 3).Draw(t, "gapC"), accumulate: rapid.Bool().Draw(t, "add"),
			alpha: rapid.SampledFrom([]float64{1, 0, -1, 0.3}).Draw(t, "alpha"), kernel: rapid.SampledFrom(kerns).Draw(t, "kernel"),
			threads: rapid.IntRange(1, 3).Draw(t, "threads"),
		}.check(t)
	})
}

func TestDoesNotAllocate(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	p := pool.New(2)
	defer p.Close()
	for _, m := range []int{1, 40, 130} { // small, on one goroutine, on the pool
		for _, tb := range bools {
			a, b := newMat(r, tensor.BF16, false, m, 80, 0), newMat(r, tensor.F32, tb, 80, 70, 0)
			c := tensor.New(tensor.T(tensor.BF16, m, 70))
			scratch := make([]byte, ScratchBytes(m, 70, 80, 2))
			args := Args{M: m, N: 70, K: 80, A: a.Mat, B: b.Mat, C: Out{Data: c.Bytes(), DType: tensor.BF16}}
			var err error
			allocs := testing.AllocsPerRun(200, func() { err = Gemm(p, scratch, 1, args) })
			require.NoError(t, err)
			require.Less(t, allocs, 1.0, "m %d trans %v", m, tb)
		}
	}
}
