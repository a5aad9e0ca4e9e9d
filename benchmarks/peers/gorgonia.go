package peers

import (
	"fmt"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// NewGorgonia builds the problem as a Gorgonia graph, run by its tape machine in float32 and updated by its VanillaSolver.
func NewGorgonia(p *Problem) (Trainer, error) {
	g := G.NewGraph()
	t := &gorgoniaMLP{p: p}
	x := gorgoniaNode(g, "x", p.X, p.Batch, p.In)
	y := gorgoniaNode(g, "y", p.OneHot(), p.Batch, p.Out)
	t.w1, t.w2 = gorgoniaNode(g, "w1", p.W1, p.In, p.Hidden), gorgoniaNode(g, "w2", p.W2, p.Hidden, p.Out)
	t.b1, t.b2 = gorgoniaNode(g, "b1", p.B1, 1, p.Hidden), gorgoniaNode(g, "b2", p.B2, 1, p.Out)
	b := &gorgoniaBuilder{}
	h := b.unary(G.Rectify, b.affine(x, t.w1, t.b1))
	logits := b.affine(h, t.w2, t.b2)
	logp := b.unary(func(n *G.Node) (*G.Node, error) { return G.LogSoftMax(n, 1) }, logits)
	picked := b.binary(G.HadamardProd, logp, y)
	sum := b.unary(func(n *G.Node) (*G.Node, error) { return G.Sum(n) }, picked)
	scale := G.NewConstant(float32(-1) / float32(p.Batch))
	loss := b.binary(G.Mul, sum, scale)
	if b.err != nil {
		return nil, fmt.Errorf("gorgonia: building %v: %w", p, b.err)
	}
	if _, err := G.Grad(loss, t.w1, t.b1, t.w2, t.b2); err != nil {
		return nil, fmt.Errorf("gorgonia: differentiating %v: %w", p, err)
	}
	G.Read(loss, &t.loss)
	t.vm = G.NewTapeMachine(g, G.BindDualValues(t.w1, t.b1, t.w2, t.b2))
	t.solver = G.NewVanillaSolver(G.WithLearnRate(float64(p.LR)))
	return t, nil
}

type gorgoniaMLP struct {
	p              *Problem
	w1, b1, w2, b2 *G.Node
	loss           G.Value
	vm             G.VM
	solver         G.Solver
}

func (t *gorgoniaMLP) LossGrad() (Result, error) {
	loss, err := t.run()
	if err != nil {
		return Result{}, err
	}
	r := Result{Loss: loss}
	for _, v := range []struct {
		node *G.Node
		to   *[]float64
	}{{t.w1, &r.W1}, {t.b1, &r.B1}, {t.w2, &r.W2}, {t.b2, &r.B2}} {
		if *v.to, err = gorgoniaGrad(v.node); err != nil {
			return Result{}, err
		}
	}
	return r, nil
}

func (t *gorgoniaMLP) Step() (float64, error) {
	loss, err := t.run()
	if err != nil {
		return 0, err
	}
	return loss, t.solver.Step(G.NodesToValueGrads(G.Nodes{t.w1, t.b1, t.w2, t.b2}))
}

func (t *gorgoniaMLP) Close() error { return t.vm.Close() }

func (t *gorgoniaMLP) run() (float64, error) {
	t.vm.Reset()
	if err := t.vm.RunAll(); err != nil {
		return 0, fmt.Errorf("gorgonia: running %v: %w", t.p, err)
	}
	loss, ok := t.loss.Data().(float32)
	if !ok {
		return 0, fmt.Errorf("gorgonia: the loss is a %T, want a float32", t.loss.Data())
	}
	return float64(loss), nil
}

// gorgoniaGrad copies the gradient of n and zeroes it: the tape machine adds to what is there, and only the solver clears it.
func gorgoniaGrad(n *G.Node) ([]float64, error) {
	v, err := n.Grad()
	if err != nil {
		return nil, fmt.Errorf("gorgonia: no gradient of %s: %w", n.Name(), err)
	}
	data, ok := v.Data().([]float32)
	if !ok {
		return nil, fmt.Errorf("gorgonia: the gradient of %s is a %T, want []float32", n.Name(), v.Data())
	}
	out := widen(data)
	clear(data)
	return out, nil
}

func gorgoniaNode(g *G.ExprGraph, name string, data []float32, rows, cols int) *G.Node {
	own := append([]float32(nil), data...)
	return G.NewMatrix(g, tensor.Float32, G.WithShape(rows, cols), G.WithName(name),
		G.WithValue(tensor.New(tensor.WithShape(rows, cols), tensor.WithBacking(own))))
}

// gorgoniaBuilder keeps the first error, so that the graph reads as a formula.
type gorgoniaBuilder struct{ err error }

func (b *gorgoniaBuilder) affine(x, w, bias *G.Node) *G.Node {
	add := func(l, r *G.Node) (*G.Node, error) { return G.BroadcastAdd(l, r, nil, []byte{0}) }
	return b.binary(add, b.binary(G.Mul, x, w), bias)
}

func (b *gorgoniaBuilder) unary(f func(*G.Node) (*G.Node, error), x *G.Node) *G.Node {
	return b.binary(func(x, _ *G.Node) (*G.Node, error) { return f(x) }, x, nil)
}

func (b *gorgoniaBuilder) binary(f func(x, y *G.Node) (*G.Node, error), x, y *G.Node) *G.Node {
	if b.err != nil {
		return nil
	}
	var n *G.Node
	n, b.err = f(x, y)
	return n
}
