package calib

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// correlated returns samples whose columns depend on each other and differ in scale, as activations do.
func correlated(r *rand.Rand, rows, cols int) Matrix {
	x := NewMatrix(rows, cols)
	mix := NewMatrix(cols, cols)
	for i := range mix.Data {
		mix.Data[i] = float32(r.NormFloat64())
	}
	for t := range rows {
		z := make([]float64, cols)
		for i := range z {
			z[i] = r.NormFloat64() / float64(1+i)
		}
		for j := range cols {
			v := r.NormFloat64() * 0.1
			for i, zi := range z {
				v += zi * float64(mix.Data[j*cols+i])
			}
			x.Data[t*cols+j] = float32(v * math.Exp(float64(j%5)-2))
		}
	}
	return x
}

func randomWeight(r *rand.Rand, rows, cols int) Matrix {
	w := NewMatrix(rows, cols)
	for i := range w.Data {
		w.Data[i] = float32(r.NormFloat64() * 0.1)
	}
	return w
}

func hessianOf(t *testing.T, x Matrix) *Hessian {
	h, err := NewHessian(x.Cols)
	require.NoError(t, err)
	require.NoError(t, h.Add(x, nil))
	return h
}

// inverse is Gauss-Jordan elimination.
func inverse(a []float64, n int) []float64 {
	a = append([]float64(nil), a...)
	inv := make([]float64, n*n)
	for i := range n {
		inv[i*n+i] = 1
	}
	for k := range n {
		p := a[k*n+k]
		for j := range n {
			a[k*n+j] /= p
			inv[k*n+j] /= p
		}
		for i := range n {
			if f := a[i*n+k]; i != k {
				for j := range n {
					a[i*n+j] -= f * a[k*n+j]
					inv[i*n+j] -= f * inv[k*n+j]
				}
			}
		}
	}
	return inv
}

// obq is the definition: columns in order, the explicit inverse of the Hessian of the columns that are left (Frantar & Alistarh 2022,
// Optimal Brain Quantization), everything updated at once.
func obq(t *testing.T, w Matrix, h []float64, f quant.Format, o GPTQOptions, perm []int) []uint8 {
	n := w.Cols
	st, err := quant.QuantizeTensor(tensorOf(t, w), f, quant.Options{})
	require.NoError(t, err)
	static := o.Static || st.Nested() || !st.ByRow && n%st.Blocksize != 0
	if st.Nested() {
		scales := make([]float32, st.Blocks())
		require.NoError(t, st.Scales(scales, 0, len(scales)))
		st.Absmax, st.AbsmaxU8, st.NestedAbsmax = scales, nil, nil
	}
	enc, err := st.Encoder()
	require.NoError(t, err)
	mean := 0.0
	for i := range n {
		mean += h[i*n+i] / float64(n)
	}
	damped := append([]float64(nil), h...)
	for i := range n {
		damped[i*n+i] += 0.01 * mean
	}
	codes, first := make([]uint8, len(w.Data)), inverse(damped, n)
	for r := range w.Rows {
		row := make([]float64, n)
		for j, v := range w.Row(r) {
			row[j] = float64(v)
		}
		hinv := first
		for _, j := range perm {
			b := st.Block(r*n + j)
			if lo, hi := st.Span(b); !static && lo == r*n+j {
				group := make([]float32, hi-lo)
				for k := range group {
					group[k] = float32(row[j+k])
				}
				enc.Fit(b, group)
			}
			x := float32(row[j])
			if o.KeepZeros && w.Row(r)[j] == 0 {
				x = 0
			}
			code := enc.Code(b, x)
			codes[r*n+j] = code
			e := (row[j] - float64(enc.Value(b, code))) / hinv[j*n+j]
			for k := range n {
				row[k] -= e * hinv[j*n+k]
			}
			next := append([]float64(nil), hinv...)
			for i := range n {
				for k := range n {
					next[i*n+k] -= hinv[i*n+j] * hinv[j*n+k] / hinv[j*n+j]
				}
			}
			hinv = next
		}
	}
	return codes
}

func tensorOf(t testing.TB, w Matrix) *tensor.Tensor {
	x, err := tensor.Of(w.Data, w.Rows, w.Cols)
	require.NoError(t, err)
	return x
}

func byDiagonal(h []float64, n int) []int {
	perm := make([]int, n)
	for i := range perm {
		perm[i] = i
	}
	for i := range perm { // insertion sort, stable
		for k := i; k > 0 && h[perm[k]*n+perm[k]] > h[perm[k-1]*n+perm[k-1]]; k-- {
			perm[k], perm[k-1] = perm[k-1], perm[k]
		}
	}
	return perm
}

// gridFormats are formats of every kind; blocks of some span the rows of the test's weights.
func gridFormats() []quant.Format {
	out := quant.Formats()
	for _, bits := range []int{2, 3, 4, 8} {
		for _, per := range []quant.Granularity{quant.PerTensor, quant.PerChannel, 5, 8} {
			out = append(out, quant.AffineFormat{Bits: bits, Per: per, Asymmetric: bits%2 == 1})
		}
	}
	return append(out, quant.Config{Scheme: quant.NF4, Blocksize: 32, Double: true}, quant.KBitFormat{Bits: 3, Blocksize: 32, Fit: true, Double: true})
}

func TestGPTQEqualsOptimalBrainQuantization(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, f := range gridFormats() {
		for _, act := range []bool{false, true} {
			for _, static := range []bool{act, true} {
				for _, cols := range []int{1, 7, 32} {
					o := GPTQOptions{Static: static, ActOrder: act, BlockCols: 4 + cols%3}
					t.Run(fmt.Sprintf("%s/act%v/static%v/cols%d", f.Name(), act, static, cols), func(t *testing.T) {
						w, h := randomWeight(r, 9, cols), hessianOf(t, correlated(r, 60, cols))
						full, err := h.Matrix()
						require.NoError(t, err)
						perm := byDiagonal(full, cols)
						if !act {
							for i := range perm {
								perm[i] = i
							}
						}
						got, err := GPTQ(w, h, f, o)
						require.NoError(t, err)
						require.NoError(t, got.State.Validate())
						codes := make([]uint8, len(w.Data))
						require.NoError(t, got.State.Unpack(codes, 0, len(codes)))
						require.Equal(t, obq(t, w, full, f, o, perm), codes)
						require.Empty(t, got.Note())
						values, err := got.State.Dequantize(tensor.F32)
						require.NoError(t, err)
						require.Equal(t, values.Float32s(), got.Values.Data)
					})
				}
			}
		}
	}
}

// outputError is ‖X·(Q-W)ᵀ‖² / ‖X·Wᵀ‖².
func outputError(x, w, q Matrix) float64 {
	num, den := 0.0, 0.0
	for t := range x.Rows {
		for r := range w.Rows {
			d, y := 0.0, 0.0
			for j, v := range x.Row(t) {
				d += float64(v) * float64(q.Row(r)[j]-w.Row(r)[j])
				y += float64(v) * float64(w.Row(r)[j])
			}
			num += d * d
			den += y * y
		}
	}
	return num / den
}

func nearest(t *testing.T, w Matrix, f quant.Format) Matrix {
	q, err := ByFormat(f, nil)(w.Clone())
	require.NoError(t, err)
	return q
}

func TestGPTQBeatsRoundToNearest(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	x, w := correlated(r, 400, 96), randomWeight(r, 40, 96)
	h := hessianOf(t, x)
	for _, f := range gridFormats() {
		for _, act := range []bool{false, true} {
			got, err := GPTQ(w, h, f, GPTQOptions{ActOrder: act})
			require.NoError(t, err)
			require.Less(t, outputError(x, w, got.Values), 0.7*outputError(x, w, nearest(t, w, f)), "%s, act order %v", f.Name(), act)
		}
	}
}

func TestGPTQKeepsZeros(t *testing.T) {
	r := rand.New(rand.NewPCG(21, 22))
	x, w := correlated(r, 200, 32), randomWeight(r, 9, 32)
	for i := range w.Data {
		if i%4 > 1 {
			w.Data[i] = 0
		}
	}
	h := hessianOf(t, x)
	full, err := h.Matrix()
	require.NoError(t, err)
	for _, f := range gridFormats() {
		for _, act := range []bool{false, true} {
			o := GPTQOptions{ActOrder: act, Static: act, KeepZeros: true}
			perm := byDiagonal(full, 32)
			if !act {
				slices.Sort(perm)
			}
			got, err := GPTQ(w, h, f, o)
			require.NoError(t, err)
			codes := make([]uint8, len(w.Data))
			require.NoError(t, got.State.Unpack(codes, 0, len(codes)))
			require.Equal(t, obq(t, w, full, f, o, perm), codes, f.Name())
			for i, v := range got.Values.Data {
				if k, ok := f.(quant.KBitFormat); w.Data[i] == 0 && !(ok && k.Fit) { // a fitted table may lack 0
					require.Zero(t, v, f.Name())
				}
			}
			require.Less(t, outputError(x, w, got.Values), outputError(x, w, nearest(t, w, f)), f.Name())
		}
	}
}

func TestGPTQLeastErrorScales(t *testing.T) {
	r := rand.New(rand.NewPCG(17, 18))
	x, w := correlated(r, 400, 96), randomWeight(r, 40, 96)
	h := hessianOf(t, x)
	for _, f := range []quant.Format{quant.AffineFormat{Bits: 2}, quant.AffineFormat{Bits: 3, Asymmetric: true}, quant.Config{Double: true}} {
		plain, err := GPTQ(w, h, f, GPTQOptions{ActOrder: true})
		require.NoError(t, err)
		got, err := GPTQ(w, h, f, GPTQOptions{ActOrder: true, LeastError: true})
		require.NoError(t, err)
		require.Less(t, outputError(x, w, got.Values), outputError(x, w, plain.Values), f.Name())
		clipped, err := ClipLeastError(w, f, nil)
		require.NoError(t, err)
		st, err := f.Quantize(clipped.Source(tensor.F32), quant.Options{})
		require.NoError(t, err)
		want, scales := make([]float32, st.Blocks()), make([]float32, st.Blocks())
		require.NoError(t, st.Scales(want, 0, len(want)))
		require.NoError(t, got.State.Scales(scales, 0, len(scales)))
		require.Equal(t, want, scales)
	}
}

func TestGPTQWithoutCorrelationIsRoundToNearest(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	w := randomWeight(r, 20, 33)
	x := NewMatrix(33, 33)
	for i := range 33 {
		x.Data[i*33+i] = float32(1 + i)
	}
	for _, f := range gridFormats() {
		if st, err := f.Quantize(w.Source(tensor.F32), quant.Options{}); err != nil || st.Nested() {
			require.NoError(t, err)
			continue // rounds to the restored scales, nearest rounding to those before they were quantized
		}
		got, err := GPTQ(w, hessianOf(t, x), f, GPTQOptions{ActOrder: true, DType: tensor.BF16})
		require.NoError(t, err)
		want, err := f.Quantize(w.Source(tensor.BF16), quant.Options{})
		require.NoError(t, err)
		require.Equal(t, want, got.State, f.Name())
	}
}

// A second-level scale that is restored below 0 would turn signs around: its block is 0, in the values and in the state.
func TestGPTQScaleRestoredBelowZero(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	w, x := NewMatrix(8, 256), correlated(r, 64, 256)
	for i := range w.Data {
		w.Data[i] = float32(r.NormFloat64())
		switch i / 64 {
		case 3:
			w.Data[i] *= 1e-4
		case 5:
			w.Data[i] *= 35
		}
	}
	for _, f := range []quant.Format{quant.Config{Double: true}, quant.Config{Scheme: quant.FP4, Double: true},
		quant.BlockwiseFormat{Blocksize: 64, Double: true}, quant.KBitFormat{Bits: 4, Double: true}} {
		got, err := GPTQ(w, hessianOf(t, x), f, GPTQOptions{})
		require.NoError(t, err)
		scale := make([]float32, 1)
		require.NoError(t, got.State.Scales(scale, 3, 4))
		require.Less(t, scale[0], float32(0), "%s: the case is the one meant", f.Name())
		back, err := got.State.Dequantize(tensor.F32)
		require.NoError(t, err)
		for i, v := range tensor.Data[float32](back) {
			require.Zero(t, v-got.Values.Data[i], "%s element %d", f.Name(), i)
		}
		require.Zero(t, energy(got.Values.Data[3*64:4*64]), f.Name())
	}
}

func TestGPTQSingularHessian(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	w, x := randomWeight(r, 10, 24), correlated(r, 100, 24)
	int4 := quant.AffineFormat{Bits: 4}
	for row := range x.Rows {
		for _, dead := range []int{0, 7, 23} {
			x.Row(row)[dead] = 0
		}
		x.Row(row)[5] = x.Row(row)[4] // a copy: rank 20 in 21 columns
	}
	got, err := GPTQ(w, hessianOf(t, x), int4, GPTQOptions{Damping: 1e-18})
	require.NoError(t, err)
	require.Equal(t, 3, got.Dead)
	require.Positive(t, got.Raised)
	require.Greater(t, got.Damping, 1e-18)
	require.Contains(t, got.Note(), "singular (3 dead columns)")
	rtn := nearest(t, w, int4)
	for i := range w.Rows {
		require.Zero(t, firstNonFinite(got.Values.Row(i))+1)
	}
	require.Less(t, outputError(x, w, got.Values), outputError(x, w, rtn))

	clear(x.Data) // every column dead
	got, err = GPTQ(w, hessianOf(t, x), int4, GPTQOptions{})
	require.NoError(t, err)
	require.Equal(t, 24, got.Dead)
	require.Equal(t, rtn, got.Values)
}

func TestGPTQRefuses(t *testing.T) {
	w, h := NewMatrix(2, 3), hessianOf(t, Matrix{1, 3, []float32{1, 2, 3}})
	f := quant.AffineFormat{Bits: 4}
	empty, err := NewHessian(3)
	require.NoError(t, err)
	bad := w.Clone()
	bad.Data[4] = float32(math.NaN())
	for want, f := range map[string]func() error{
		"element (1, 1) is NaN": func() error { _, err := GPTQ(bad, h, f, GPTQOptions{}); return err },
		"no format":             func() error { _, err := GPTQ(w, h, nil, GPTQOptions{}); return err },
		"nothing was observed":  func() error { _, err := GPTQ(w, empty, f, GPTQOptions{}); return err },
		"another layer":         func() error { _, err := GPTQ(NewMatrix(2, 4), h, f, GPTQOptions{}); return err },
		"damping -1":            func() error { _, err := GPTQ(w, h, f, GPTQOptions{Damping: -1}); return err },
		"2 to 6":                func() error { _, err := GPTQ(w, h, quant.KBitFormat{Bits: 7}, GPTQOptions{}); return err },
		"2 columns, the Hessian 3": func() error {
			return h.Add(NewMatrix(1, 2), nil)
		},
		"must be from 1": func() error { _, err := NewHessian(0); return err },
	} {
		require.ErrorContains(t, f(), want)
	}
}

// threads cuts work unevenly and runs the parts at once.
func threads(n int, f func(lo, hi int)) {
	var wg sync.WaitGroup
	for lo := 0; lo < n; lo += n/3 + 1 {
		wg.Go(func() { f(lo, min(lo+n/3+1, n)) })
	}
	wg.Wait()
}

func TestGPTQDoesNotDependOnThreads(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	x, w := correlated(r, 150, 200), randomWeight(r, 50, 200)
	var first *GPTQResult
	for _, par := range []Parallel{nil, threads} {
		h, err := NewHessian(200)
		require.NoError(t, err)
		require.NoError(t, h.Add(x, par))
		got, err := GPTQ(w, h, quant.AffineFormat{Bits: 3, Per: 50}, GPTQOptions{Parallel: par})
		require.NoError(t, err)
		if first == nil {
			first = got
		}
		require.Equal(t, first, got)
	}
}

// BenchmarkGPTQ has the Hessian of 2n samples in it.
func BenchmarkGPTQ(b *testing.B) {
	for _, n := range []int{512, 1024, 2048} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := rand.New(rand.NewPCG(15, 16))
			x, w := randomWeight(r, 2*n, n), randomWeight(r, n, n)
			for b.Loop() {
				h, err := NewHessian(n)
				require.NoError(b, err)
				require.NoError(b, h.Add(x, threads))
				_, err = GPTQ(w, h, quant.AffineFormat{Bits: 4}, GPTQOptions{ActOrder: true, Parallel: threads})
				require.NoError(b, err)
			}
		})
	}
}
