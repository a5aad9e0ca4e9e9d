package cuda

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func init() {
	Register(func(d *Device, _ ops.LinearCrossEntropyOp, s device.Spec) (*Kernel, error) {
		return buildLinearLoss(d, s, lossCut{budget: linearLossBytes}, 0)
	})
	Register(func(d *Device, _ ops.LinearHitsOp, s device.Spec) (*Kernel, error) {
		return buildLinearLoss(d, s, lossCut{budget: linearLossBytes}, 1)
	})
	Register(func(d *Device, _ ops.LinearLossUnitOp, s device.Spec) (*Kernel, error) {
		return buildLinearLossUnit(d, s, lossCut{budget: linearLossBytes})
	})
	Register(func(d *Device, op ops.LinearCrossEntropyGradOp, s device.Spec) (*Kernel, error) {
		return buildLinearLossGrad(d, op, s, lossCut{budget: linearLossBytes})
	})
}

// linearLossBytes is about how much of the logits exists at a time: enough rows for products at full rate, and little beside a model.
const linearLossBytes = 256 << 20

// lossCut says how a loss is cut: pieces of about so many bytes, and, for tests, that a head of 16 bits is written in float32 whatever the
// products.
type lossCut struct {
	budget int64
	widen  bool
}

// linearLoss is what the kernels of losses of linear logits share. Logits have x's dtype: those of 16 bits are rounded to it, as
// transformers rounds them, and everything after is computed in float32.
type linearLoss struct {
	d       *Device
	dt, wt  tensor.DType // of x and of the head's weight as products read it
	n, c, v int          // tokens, features, classes
	head    lossHead
}

// lossHead is the weight of the head as it is stored. Products of float32 by 16 bits that the library lacks read it in float32: each row is
// written so once a launch, for all products and pieces that read it.
type lossHead struct {
	stored tensor.DType
	wide   widening
	bytes  int64 // of the rows in float32, 0 where they are read as they are stored
}

// widen decides for pieces of m tokens by so many classes, whose logits have a stride.
func (l *linearLoss) widen(m, classes, stride int, cut lossCut) (err error) {
	logits := l.logits(m, classes, stride)
	if !l.d.widens(logits) && !(cut.widen && narrow(logits.b) && l.dt == tensor.F32) {
		return nil
	}
	l.head.wide, err = l.d.widening(l.wt)
	l.head.bytes, l.wt = aligned(4*int64(classes)*int64(l.c)), tensor.F32
	return err
}

// weights are n rows of the head from lo on as products read them, with memory for them in float32.
func (l *linearLoss) weights(c *Call, lo, n int, memory Addr) (Addr, error) {
	w := at(c.In[1], int64(lo)*int64(l.c), l.head.stored)
	if l.head.bytes == 0 {
		return w, nil
	}
	return memory, l.head.wide.enqueue(c, w, memory, int64(n)*int64(l.c))
}

func newLinearLoss(d *Device, s device.Spec) (linearLoss, error) {
	l := linearLoss{d: d, dt: s.In[0].DType, wt: s.In[1].DType, n: s.In[0].Dim(0), c: s.In[0].Dim(1), v: s.In[1].Dim(0)}
	l.head.stored = l.wt
	if l.dt == tensor.F64 && l.wt != l.dt {
		return l, device.ErrNoKernel
	}
	return l, nil
}

// stride is the distance of rows of so many logits: whole accesses.
func (l linearLoss) stride(columns int) int {
	per := accessBytes / l.dt.Size()
	return ceilDiv(columns, per) * per
}

// sum is the dtype of losses and sums.
func (l linearLoss) sum() tensor.DType {
	if l.dt == tensor.F64 {
		return l.dt
	}
	return tensor.F32
}

// pieces cuts n rows or columns of `each` bytes so that one piece takes about budget bytes, in whole tiles of products.
func pieces(n int, each, budget int64) int {
	const tile = 128
	most := int(budget/max(each, 1)) / tile * tile
	return min(n, max(most, tile))
}

// at is an address so many elements further.
func at(p Addr, elements int64, dt tensor.DType) Addr { return p + Addr(elements*int64(dt.Size())) }

// gemms are the products of one kind for pieces of one size, and of the last, which may be smaller.
type gemms struct {
	whole, last *gemm
	size        int
}

// newGemms builds a product for pieces of n, and scratch for any of them.
func (d *Device) newGemms(n, piece int, scratch *int64, spec func(piece int) gemmSpec) (gemms, error) {
	g := gemms{size: piece}
	var err error
	if g.whole, err = d.evenGemm(spec(piece)); err != nil {
		return g, err
	}
	if g.last = g.whole; n%piece != 0 {
		if g.last, err = d.evenGemm(spec(n % piece)); err != nil {
			return g, err
		}
	}
	*scratch = max(*scratch, g.whole.scratch, g.last.scratch)
	return g, nil
}

// of is the product of a piece.
func (g gemms) of(piece int) *gemm {
	if piece == g.size {
		return g.whole
	}
	return g.last
}

// buildLinearLoss makes the logits of some tokens at a time and reduces each row to its loss and lse, or hit.
func buildLinearLoss(d *Device, s device.Spec, cut lossCut, hits int32) (*Kernel, error) {
	l, err := newLinearLoss(d, s)
	if err != nil {
		return nil, err
	}
	if l.n == 0 {
		return &Kernel{Enqueue: func(*Call) error { return nil }}, nil
	}
	stride := l.stride(l.v)
	rows := pieces(l.n, int64(stride*l.dt.Size()), cut.budget)
	if err := l.widen(rows, l.v, stride, cut); err != nil {
		return nil, err
	}
	var scratch int64
	logits, err := d.newGemms(l.n, rows, &scratch, func(m int) gemmSpec { return l.logits(m, l.v, stride) })
	if err != nil {
		return nil, err
	}
	loss, err := d.Function(lossProgram(l.dt), "token_loss")
	if err != nil {
		return nil, err
	}
	z := aligned(int64(rows) * int64(stride) * int64(l.dt.Size()))
	return &Kernel{Label: "linear_loss/" + logits.whole.label, ScratchBytes: z + l.head.bytes + scratch, Enqueue: func(c *Call) error {
		w, err := l.weights(c, 0, l.v, c.Scratch+Addr(z))
		if err != nil {
			return err
		}
		work := c.Scratch + Addr(z+l.head.bytes)
		for lo := 0; lo < l.n; lo += rows {
			m := min(rows, l.n-lo)
			x, first := at(c.In[0], int64(lo)*int64(l.c), l.dt), int64(lo)
			if err := logits.of(m).enqueue(c, gemmAt{a: x, b: w, c: c.Scratch, scratch: work}); err != nil {
				return err
			}
			if err := c.Launch(loss, lossRows(l.dt, m, l.v), at(c.Out[0], first, l.sum()), at(c.Out[1], first, l.sum()), c.Scratch,
				at(c.In[2], first, tensor.I32), int32(l.v), int64(stride), hits); err != nil {
				return err
			}
		}
		return nil
	}}, nil
}

// logits is the product x·wᵀ for m tokens and so many classes.
func (l linearLoss) logits(m, classes, stride int) gemmSpec {
	s := dense(m, classes, l.c, l.dt, l.wt, l.dt, true)
	s.c.ld = stride
	return s
}
