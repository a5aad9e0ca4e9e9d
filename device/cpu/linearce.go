package cpu

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/gemm"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(buildLinearLoss)
	Register(buildLinearHits)
	Register(buildLinearLossGrad)
}

// The logits exist one tile at a time: 4 MiB in float32. The vocabulary is the outer loop, so that the head's weight streams
// through the caches once.
const (
	lossTileRows = 512
	lossTileCols = 2048
)

// linearLoss is what the two kernels share: extents, and how the scratch is laid out.
type linearLoss struct {
	d       *Device
	dt, wt  tensor.DType // of x and of the head's weight
	n, c, v int          // tokens, features, classes
	rows    int          // extents of a tile
	cols    int
}

func newLinearLoss(d *Device, s device.Spec) linearLoss {
	l := linearLoss{d: d, dt: s.In[0].DType, wt: s.In[1].DType, n: s.In[0].Dim(0), c: s.In[0].Dim(1), v: s.In[1].Dim(0)}
	l.rows, l.cols = min(l.n, lossTileRows), min(l.v, lossTileCols)
	return l
}

// wide is the type of logits and sums.
func (l linearLoss) wide() tensor.DType {
	if l.dt == tensor.F64 {
		return l.dt
	}
	return tensor.F32
}

// carve is scratch memory handed out in aligned pieces. With no memory it only counts.
type carve struct {
	mem  []byte
	used int64
}

func (a *carve) bytes(n int64) []byte {
	at := a.used
	a.used += (n + 63) &^ 63
	if a.mem == nil {
		return nil
	}
	return a.mem[at : at+n : at+n]
}

// lossScratch is the scratch of both kernels; pieces that a kernel has no use for are empty.
type lossScratch[T floats] struct {
	index   []int32   // rows of the tokens that count
	peak    []T       // by such token: largest logit so far,
	sum     []float64 // Σ e^(logit - peak),
	at      []T       // logit of the label
	tile    []byte    // logits, then their gradient, in the wide type
	x       []byte    // gathered rows of x
	dx, dw  []byte    // sums that the outputs are too narrow for
	product []byte    // for gemm
}

func carveLoss[T floats](l linearLoss, a *carve, forward, dx, dw bool) (s lossScratch[T]) {
	n := int64(l.n)
	s.index = tensor.View[int32](a.bytes(4 * n))
	if forward {
		s.peak, s.at = tensor.View[T](a.bytes(sizeOf[T](l.n))), tensor.View[T](a.bytes(sizeOf[T](l.n)))
		s.sum = tensor.View[float64](a.bytes(8 * n))
	}
	s.tile = a.bytes(sizeOf[T](l.rows * l.cols))
	s.x = a.bytes(int64(l.rows) * int64(l.c) * int64(l.dt.Size()))
	product := gemm.ScratchBytes(l.rows, l.cols, l.c, l.d.threads)
	if dx {
		product = max(product, gemm.ScratchBytes(l.rows, l.c, l.cols, l.d.threads))
		if isHalf(l.dt) {
			s.dx = a.bytes(4 * n * int64(l.c))
		}
	}
	if dw {
		product = max(product, gemm.ScratchBytes(l.cols, l.c, l.rows, l.d.threads))
		if isHalf(l.dt) {
			s.dw = a.bytes(4 * int64(l.cols) * int64(l.c))
		}
	}
	s.product = a.bytes(product)
	return s
}

// pick lists the tokens that count.
func (s *lossScratch[T]) pick(labels []int32) {
	n := 0
	for r, label := range labels {
		if label >= 0 {
			s.index[n] = int32(r)
			n++
		}
	}
	s.index = s.index[:n]
}

// gather returns rows [lo, hi) of the tokens that count, in place when none is ignored.
func (l linearLoss) gather(x, buf []byte, index []int32, lo, hi int) []byte {
	row := l.c * l.dt.Size()
	if len(index) == l.n {
		return x[lo*row : hi*row]
	}
	for k, r := range index[lo:hi] {
		copy(buf[k*row:(k+1)*row], x[int(r)*row:])
	}
	return buf[:(hi-lo)*row]
}

// lossTile is the part of the work that one tile of logits covers.
type lossTile struct {
	lo, hi int // of the tokens that count
	v0, v1 int // of the classes
	x, w   gemm.Mat
}

// tiles makes the logits of every tile in s.tile and calls f; done follows when all tokens have seen classes [v0, v1).
func tiles[T floats](l linearLoss, s lossScratch[T], c *Call, f func(t lossTile) error, done func(v0, v1 int) error) error {
	row := l.c * l.wt.Size()
	for v0 := 0; v0 < l.v; v0 += l.cols {
		t := lossTile{v0: v0, v1: min(v0+l.cols, l.v)}
		t.w = gemm.Mat{Data: c.In[1][t.v0*row : t.v1*row], DType: l.wt, LD: l.c}
		for t.lo = 0; t.lo < len(s.index); t.lo = t.hi {
			t.hi = min(t.lo+l.rows, len(s.index))
			t.x = gemm.Mat{Data: l.gather(c.In[0], s.x, s.index, t.lo, t.hi), DType: l.dt, LD: l.c}
			w := t.w
			w.Trans = true
			if err := l.multiply(t.hi-t.lo, t.v1-t.v0, l.c, t.x, w, s.tile, false, s.product); err != nil {
				return err
			}
			if err := f(t); err != nil {
				return err
			}
		}
		if done == nil {
			continue
		}
		if err := done(t.v0, t.v1); err != nil {
			return err
		}
	}
	return nil
}

// multiply is dst (+)= a·b, with dst (m, n) in the wide type.
func (l linearLoss) multiply(m, n, k int, a, b gemm.Mat, dst []byte, add bool, scratch []byte) error {
	out := gemm.Out{Data: dst, DType: l.wide(), LD: n}
	if n == 0 {
		return nil
	}
	return gemm.Gemm(l.d.pool, scratch, 1, gemm.Args{M: m, N: n, K: k, A: a, B: b, C: out, Accumulate: add})
}

func buildLinearLoss(d *Device, _ ops.LinearCrossEntropyOp, s device.Spec) (*Kernel, error) {
	l := newLinearLoss(d, s)
	if l.dt == tensor.F64 && l.wt != l.dt {
		return nil, device.ErrNoKernel
	}
	if l.dt == tensor.F64 {
		return linearLossKernel(l, exp64, tokenLoss), nil
	}
	return linearLossKernel(l, exp32, tokenLoss), nil
}

func buildLinearHits(d *Device, _ ops.LinearHitsOp, s device.Spec) (*Kernel, error) {
	l := newLinearLoss(d, s)
	if l.dt == tensor.F64 && l.wt != l.dt {
		return nil, device.ErrNoKernel
	}
	if l.dt == tensor.F64 {
		return linearLossKernel(l, exp64, tokenHit), nil
	}
	return linearLossKernel(l, exp32, tokenHit), nil
}

// tokenHit is the loss of a token and whether its logit is the largest.
func tokenHit[T floats](m T, sum float64, at T) (loss, hit T) {
	loss, _ = tokenLoss(m, sum, at)
	if at >= m {
		hit = 1
	}
	return loss, hit
}

// linearLossKernel makes two numbers of each token that counts from its largest logit, the sum of e^(logit - largest) and the label's logit.
func linearLossKernel[T floats](l linearLoss, exp expRow[T], finish func(m T, sum float64, at T) (a, b T)) *Kernel {
	var count carve
	carveLoss[T](l, &count, true, false, false)
	k := &Kernel{ScratchBytes: count.used, Run: func(c *Call) error {
		s := carveLoss[T](l, &carve{mem: c.Scratch}, true, false, false)
		labels := tensor.View[int32](c.In[2])
		s.pick(labels)
		for i := range s.index {
			s.peak[i], s.sum[i], s.at[i] = T(math.Inf(-1)), 0, 0
		}
		err := tiles(l, s, c, func(t lossTile) error { return l.scan(t, addLogits(s, labels, t, exp)) }, nil)
		if err != nil {
			return err
		}
		a, b := tensor.View[T](c.Out[0]), tensor.View[T](c.Out[1])
		clear(a)
		clear(b)
		for i, r := range s.index {
			a[r], b[r] = finish(s.peak[i], s.sum[i], s.at[i])
		}
		return nil
	}}
	return checkingLabels(k, l.v, 2)
}

// addLogits returns the function that takes one row of a tile into the running sums (the online softmax of Milakov &
// Gimelshein 2018).
func addLogits[T floats](s lossScratch[T], labels []int32, t lossTile, exp expRow[T]) func(k int) {
	logits := tensor.View[T](s.tile)
	n := t.v1 - t.v0
	return func(k int) {
		z := logits[k*n : (k+1)*n]
		i := t.lo + k
		if m := maxRow(z); m > s.peak[i] {
			s.sum[i] *= math.Exp(float64(s.peak[i] - m))
			s.peak[i] = m
		}
		if label := int(labels[s.index[i]]); label >= t.v0 && label < t.v1 {
			s.at[i] = z[label-t.v0]
		}
		s.sum[i] += exp.store(z, z, s.peak[i])
	}
}

// scan calls f for each row of a tile.
func (l linearLoss) scan(t lossTile, f func(k int)) error {
	return l.d.ranges(t.hi-t.lo, max(rowGrain/max(t.v1-t.v0, 1), 1), func(lo, hi int) {
		for k := lo; k < hi; k++ {
			f(k)
		}
	})
}
