package cpu

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu/gemm"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func buildLinearLossGrad(d *Device, op ops.LinearCrossEntropyGradOp, s device.Spec) (*Kernel, error) {
	l := linearLossGrad{linearLoss: newLinearLoss(d, s), dx: -1, dw: -1}
	if op.NeedX {
		l.dx = 0
	}
	if op.NeedW {
		l.dw = l.dx + 1
	}
	if l.dt == tensor.F64 && l.wt != l.dt {
		return nil, device.ErrNoKernel
	}
	if l.dt == tensor.F64 {
		return linearLossGradKernel(l, exp64), nil
	}
	return linearLossGradKernel(l, exp32), nil
}

// linearLossGrad says which output each gradient is, -1 for none.
type linearLossGrad struct {
	linearLoss
	dx, dw int
}

func linearLossGradKernel[T floats](l linearLossGrad, exp expRow[T]) *Kernel {
	var count carve
	carveLoss[T](l.linearLoss, &count, false, l.dx >= 0, l.dw >= 0)
	k := &Kernel{ScratchBytes: count.used, Run: func(c *Call) error {
		s := carveLoss[T](l.linearLoss, &carve{mem: c.Scratch}, false, l.dx >= 0, l.dw >= 0)
		s.pick(tensor.View[int32](c.In[2]))
		err := tiles(l.linearLoss, s, c, func(t lossTile) error {
			if err := l.scan(t, logitGrads(s, c, t, exp)); err != nil {
				return err
			}
			return addProducts(l, s, c, t)
		}, func(v0, v1 int) error { return finishHead(l, s, c, v0, v1) })
		if err != nil || l.dx < 0 {
			return err
		}
		finishRows(l, s, c)
		return nil
	}}
	return checkingLabels(k, l.v, 2)
}

// logitGrads returns the function that turns one row of logits into its gradient.
func logitGrads[T floats](s lossScratch[T], c *Call, t lossTile, exp expRow[T]) func(k int) {
	labels, lse := tensor.View[int32](c.In[2]), tensor.View[T](c.In[3])
	gloss, glse := tensor.View[T](c.In[4]), tensor.View[T](c.In[5])
	logits := tensor.View[T](s.tile)
	n := t.v1 - t.v0
	return func(k int) {
		z := logits[k*n : (k+1)*n]
		r := int(s.index[t.lo+k])
		each, hit := lossFactors(gloss, glse, r)
		lossGradRow(z, z, lse[r], each, exp)
		if label := int(labels[r]); label >= t.v0 && label < t.v1 {
			z[label-t.v0] -= hit
		}
	}
}

// addProducts adds a tile's share of dx = dlogits·w and dw = dlogitsᵀ·x. The rows of dx are those of the tokens that count,
// without gaps.
func addProducts[T floats](l linearLossGrad, s lossScratch[T], c *Call, t lossTile) error {
	m, n, size := t.hi-t.lo, t.v1-t.v0, l.wide().Size()
	dz := gemm.Mat{Data: s.tile, DType: l.wide(), LD: n}
	if l.dx >= 0 {
		dst := sumsOf(s.dx, c, l.dx, l.dt)[t.lo*l.c*size : t.hi*l.c*size]
		if err := l.multiply(m, l.c, n, dz, t.w, dst, t.v0 > 0, s.product); err != nil {
			return err
		}
	}
	if l.dw < 0 {
		return nil
	}
	dst := s.dw
	if !isHalf(l.dt) {
		dst = c.Out[l.dw][t.v0*l.c*size : t.v1*l.c*size]
	}
	dz.Trans = true
	return l.multiply(n, l.c, m, dz, t.x, dst, t.lo > 0, s.product)
}

// sumsOf is where a gradient is summed: the output itself unless it is of a half type.
func sumsOf(buf []byte, c *Call, out int, dt tensor.DType) []byte {
	if isHalf(dt) {
		return buf
	}
	return c.Out[out]
}

// finishHead writes dw of classes [v0, v1).
func finishHead[T floats](l linearLossGrad, s lossScratch[T], c *Call, v0, v1 int) error {
	if l.dw < 0 {
		return nil
	}
	row := l.c * l.dt.Size()
	if len(s.index) == 0 {
		clear(c.Out[l.dw][v0*row : v1*row])
		return nil
	}
	if isHalf(l.dt) {
		writeRow(l.dt, c.Out[l.dw], v0*l.c, tensor.View[T](s.dw)[:(v1-v0)*l.c])
	}
	return nil
}

// finishRows moves the rows of dx to their tokens and clears those of ignored tokens. A row never moves up, so that going from
// the last to the first needs no second buffer.
func finishRows[T floats](l linearLossGrad, s lossScratch[T], c *Call) {
	sums := tensor.View[T](sumsOf(s.dx, c, l.dx, l.dt))
	k := len(s.index) - 1
	row := l.c * l.dt.Size()
	for r := l.n - 1; r >= 0; r-- {
		if k < 0 || int(s.index[k]) != r {
			clear(c.Out[l.dx][r*row : (r+1)*row])
			continue
		}
		from := sums[k*l.c : (k+1)*l.c]
		if isHalf(l.dt) {
			writeRow(l.dt, c.Out[l.dx], r*l.c, from)
		} else {
			copy(tensor.View[T](c.Out[l.dx])[r*l.c:(r+1)*l.c], from)
		}
		k--
	}
}
