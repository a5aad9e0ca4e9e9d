package plan

import (
	"errors"
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// widen lets ops that can (Widener) read 16-bit floats as they are where the graph casts them to float32 first. The cast is exact, so
// no bit changes; its result, which the backward pass would keep through the whole step, is not made unless something else needs it.
func widen(p *Plan, g *graph.Graph, outs []graph.Value) (*graph.Graph, []graph.Value, error) {
	r := graph.NewRewriter(g)
	found := false
	for _, n := range g.Nodes() {
		op, in := widened(n)
		if op == nil {
			r.Move(n)
			continue
		}
		done, err := replace(p, r, n, n, op, r.GetAll(in))
		if err != nil {
			return nil, nil, err
		}
		if !done {
			r.Move(n)
		}
		found = found || done
	}
	if !found {
		return g, outs, nil
	}
	return prune(p, r.Writes(g), r.GetAll(outs))
}

// widened returns what n can become and its inputs, a nil op if it has none in 16 bits.
func widened(n *graph.Node) (graph.Op, []graph.Value) {
	w, ok := n.Op.(graph.Widener)
	if !ok {
		return nil, nil
	}
	in, narrow := slices.Clone(n.In), make([]bool, len(n.In))
	for i, v := range in {
		if !v.Valid() || v.DType() != tensor.F32 {
			continue
		}
		if c, ok := v.Node().Op.(graph.Caster); ok && c.Casts() {
			if from := v.Node().In[0]; from.DType() == tensor.BF16 || from.DType() == tensor.F16 {
				in[i], narrow[i] = from, true
			}
		}
	}
	if !slices.Contains(narrow, true) {
		return nil, nil
	}
	op, ok := w.Widened(narrow)
	if !ok {
		return nil, nil
	}
	return op, in
}

// replace puts op in the place of old node n on behalf of worker, the node that most of its work comes from, and reports false where
// the device has no kernel for it.
func replace(p *Plan, r *graph.Rewriter, n, worker *graph.Node, op graph.Op, in []graph.Value) (bool, error) {
	out, err := tryOp(p, r, worker, op, in)
	if out == nil || err != nil {
		return false, err
	}
	r.Set(n, out)
	return true, nil
}

// tryOp adds op on behalf of worker and returns its outputs, none where the device has no kernel for it.
func tryOp(p *Plan, r *graph.Rewriter, worker *graph.Node, op graph.Op, in []graph.Value) ([]graph.Value, error) {
	undo := r.New.OnBehalf(worker)
	out := r.New.Apply(op, in...)
	undo()
	if !out[0].Valid() {
		return nil, r.New.Err()
	}
	_, err := p.kernelFor(out[0].Node())
	switch {
	case errors.Is(err, device.ErrNoKernel):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("%s: %s: %w", worker.Where(), out[0].Node(), err)
	}
	return out, nil
}
