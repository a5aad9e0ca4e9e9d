package cuda

import (
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// buildLinearLossGrad goes over the tokens when the head is frozen: a piece of dx is one product over all classes. A head that is trained
// makes it go over the classes instead: a piece of dw is one product over all tokens, and dx a sum of products, in float32.
func buildLinearLossGrad(d *Device, op ops.LinearCrossEntropyGradOp, s device.Spec, cut lossCut) (*Kernel, error) {
	l, err := newLinearLoss(d, s)
	if err != nil {
		return nil, err
	}
	g := &linearLossGrad{linearLoss: l, dx: -1, dw: -1}
	if op.NeedX {
		g.dx = 0
	}
	if op.NeedW {
		g.dw = g.dx + 1
	}
	if l.n == 0 {
		return &Kernel{Enqueue: g.zero}, nil
	}
	if g.grads, err = d.Function(lossProgram(l.dt), "token_loss_grad"); err != nil {
		return nil, err
	}
	if op.NeedW {
		return g.overClasses(cut)
	}
	return g.overTokens(cut)
}

// linearLossGrad says which output each gradient is, -1 for none.
type linearLossGrad struct {
	linearLoss
	dx, dw             int
	stride             int // between rows of logits
	grads, round       *Function
	logits, forX, forW gemms
	first              *gemm // of dx, where others add to it
	z, sums            int64 // bytes of the parts of the scratch before that of the products
}

// zero clears the gradient of a head that has seen no token.
func (g *linearLossGrad) zero(c *Call) error {
	if g.dw < 0 {
		return nil
	}
	return c.Zero(c.Out[g.dw], int64(g.v)*int64(g.c)*int64(g.dt.Size()))
}

func (g *linearLossGrad) overTokens(cut lossCut) (*Kernel, error) {
	scratch, err := g.cutTokens(cut)
	if err != nil {
		return nil, err
	}
	return &Kernel{Label: "linear_loss_grad/" + g.forX.whole.label, ScratchBytes: scratch, Enqueue: func(c *Call) error {
		return g.eachPiece(c, c.Out[g.dx], func(lo, m int) error { return g.differentiate(c, lo, m, 0, g.v) })
	}}, nil
}

// cutTokens prepares the products of pieces of the tokens and returns the scratch that they need.
func (g *linearLossGrad) cutTokens(cut lossCut) (int64, error) {
	g.stride = g.linearLoss.stride(g.v)
	rows := pieces(g.n, int64(g.stride*g.dt.Size()), cut.budget)
	if err := g.widen(rows, g.v, g.stride, cut); err != nil {
		return 0, err
	}
	var scratch int64
	var err error
	if g.logits, err = g.d.newGemms(g.n, rows, &scratch, func(m int) gemmSpec { return g.linearLoss.logits(m, g.v, g.stride) }); err != nil {
		return 0, err
	}
	g.forX, err = g.d.newGemms(g.n, rows, &scratch, func(m int) gemmSpec {
		s := dense(m, g.c, g.v, g.dt, g.wt, g.dt, false)
		s.a.ld = g.stride
		return s
	})
	g.z = aligned(int64(rows) * int64(g.stride) * int64(g.dt.Size()))
	return g.z + g.head.bytes + scratch, err
}

// eachPiece makes the logits of a piece of the tokens, which f turns into their gradient, and dx of it.
func (g *linearLossGrad) eachPiece(c *Call, dx Addr, f func(lo, m int) error) error {
	w, err := g.weights(c, 0, g.v, c.Scratch+Addr(g.z))
	if err != nil {
		return err
	}
	work := c.Scratch + Addr(g.z+g.head.bytes)
	for lo := 0; lo < g.n; lo += g.logits.size {
		m := min(g.logits.size, g.n-lo)
		tokens := int64(lo) * int64(g.c)
		if err := g.logits.of(m).enqueue(c, gemmAt{a: at(c.In[0], tokens, g.dt), b: w, c: c.Scratch, scratch: work}); err != nil {
			return err
		}
		if err := f(lo, m); err != nil {
			return err
		}
		if err := g.forX.of(m).enqueue(c, gemmAt{a: c.Scratch, b: w, c: at(dx, tokens, g.dt), scratch: work}); err != nil {
			return err
		}
	}
	return nil
}

// buildLinearLossUnit makes the losses and their gradients from one making of the logits.
func buildLinearLossUnit(d *Device, s device.Spec, cut lossCut) (*Kernel, error) {
	l, err := newLinearLoss(d, s)
	if err != nil {
		return nil, err
	}
	if l.n == 0 {
		return &Kernel{Enqueue: func(*Call) error { return nil }}, nil
	}
	g := &linearLossGrad{linearLoss: l, dw: -1}
	scratch, err := g.cutTokens(cut)
	if err != nil {
		return nil, err
	}
	unit, err := d.Function(lossProgram(l.dt), "token_loss_unit")
	if err != nil {
		return nil, err
	}
	return &Kernel{Label: "linear_loss_unit/" + g.forX.whole.label, ScratchBytes: scratch, Enqueue: func(c *Call) error {
		return g.eachPiece(c, c.Out[2], func(lo, m int) error {
			first := int64(lo)
			return c.Launch(unit, lossRows(l.dt, m, l.v), at(c.Out[0], first, l.sum()), at(c.Out[1], first, l.sum()), c.Scratch,
				at(c.In[2], first, tensor.I32), int32(l.v), int64(g.stride))
		})
	}}, nil
}

// differentiate turns the logits of m tokens from lo on and of n classes from `class` on into their gradient.
func (g *linearLossGrad) differentiate(c *Call, lo, m, class, n int) error {
	per := func(p Addr) Addr {
		if p == 0 {
			return 0
		}
		return at(p, int64(lo), g.sum())
	}
	return c.Launch(g.grads, lossRows(g.dt, m, n), c.Scratch, c.Scratch, at(c.In[2], int64(lo), tensor.I32), per(c.In[3]), per(c.In[4]), per(c.In[5]),
		int32(n), int64(g.stride), int32(class), int32(g.v))
}

func (g *linearLossGrad) overClasses(cut lossCut) (*Kernel, error) {
	classes := pieces(g.v, int64(g.n*g.dt.Size()), cut.budget)
	g.stride = g.linearLoss.stride(classes)
	if err := g.widen(g.n, classes, g.stride, cut); err != nil {
		return nil, err
	}
	var scratch int64
	var err error
	if g.logits, err = g.d.newGemms(g.v, classes, &scratch, func(n int) gemmSpec { return g.linearLoss.logits(g.n, n, g.stride) }); err != nil {
		return nil, err
	}
	if g.forW, err = g.d.newGemms(g.v, classes, &scratch, func(n int) gemmSpec {
		s := dense(n, g.c, g.n, g.dt, g.dt, g.dt, false)
		s.a.ld, s.a.trans = g.stride, true
		return s
	}); err != nil {
		return nil, err
	}
	if err := g.sumX(classes, &scratch); err != nil {
		return nil, err
	}
	g.z = aligned(int64(g.n) * int64(g.stride) * int64(g.dt.Size()))
	return &Kernel{Label: "linear_loss_grad/" + g.forW.whole.label, ScratchBytes: g.z + g.sums + g.head.bytes + scratch, Enqueue: func(c *Call) error {
		for lo := 0; lo < g.v; lo += classes {
			if err := g.piece(c, lo, min(classes, g.v-lo)); err != nil {
				return err
			}
		}
		if g.sums == 0 {
			return nil
		}
		n := int64(g.n) * int64(g.c)
		return c.Launch(g.round, Over(n, 256, 4), c.Out[g.dx], c.Scratch+Addr(g.z), n)
	}}, nil
}

// sumX prepares dx as a sum over pieces of the classes.
func (g *linearLossGrad) sumX(classes int, scratch *int64) (err error) {
	if g.dx < 0 {
		return nil
	}
	to := g.dt
	if classes < g.v && g.dt != g.sum() {
		to = g.sum()
		g.sums = aligned(int64(g.n) * int64(g.c) * int64(to.Size()))
		if g.round, err = g.d.Function(lossProgram(g.dt), "round_sums"); err != nil {
			return err
		}
	}
	spec := func(n int, add bool) gemmSpec {
		s := dense(g.n, g.c, n, g.dt, g.wt, to, false)
		s.a.ld, s.add = g.stride, add
		return s
	}
	if g.first, err = g.d.evenGemm(spec(classes, false)); err != nil {
		return err
	}
	*scratch = max(*scratch, g.first.scratch)
	g.forX, err = g.d.newGemms(g.v, classes, scratch, func(n int) gemmSpec { return spec(n, true) })
	return err
}

// piece computes dw of n classes from lo on, and their share of dx.
func (g *linearLossGrad) piece(c *Call, lo, n int) error {
	wide := c.Scratch + Addr(g.z+g.sums)
	work, weights := wide+Addr(g.head.bytes), int64(lo)*int64(g.c)
	w, err := g.weights(c, lo, n, wide)
	if err != nil {
		return err
	}
	if err := g.logits.of(n).enqueue(c, gemmAt{a: c.In[0], b: w, c: c.Scratch, scratch: work}); err != nil {
		return err
	}
	if err := g.differentiate(c, 0, g.n, lo, n); err != nil {
		return err
	}
	if err := g.forW.of(n).enqueue(c, gemmAt{a: c.Scratch, b: c.In[0], c: at(c.Out[g.dw], weights, g.dt), scratch: work}); err != nil {
		return err
	}
	if g.dx < 0 {
		return nil
	}
	dx := c.Out[g.dx]
	if g.sums > 0 {
		dx = c.Scratch + Addr(g.z)
	}
	if lo == 0 {
		return g.first.enqueue(c, gemmAt{a: c.Scratch, b: w, c: dx, scratch: work})
	}
	return g.forX.of(n).enqueue(c, gemmAt{a: c.Scratch, b: w, add: dx, c: dx, scratch: work})
}
