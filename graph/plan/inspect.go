package plan

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// NonFiniteError names the first node whose output holds a NaN or an infinity although its inputs are finite or it is the
// first to be looked at.
type NonFiniteError struct {
	Node  *graph.Node
	Index int // flat index of the element
	Value float64
}

// Error names node, scope and line.
func (e *NonFiniteError) Error() string {
	return fmt.Sprintf("%s (%s): %s gives %v at element %d", e.Node.Pos(), e.Node.Scope(), e.Node, e.Value, e.Index)
}

// inspect looks at the outputs of the step just launched: for Probe, and for Check.
func (p *Plan) inspect(st *step, s device.Stream) error {
	if err := s.Sync(); err != nil {
		return fmt.Errorf("%s (%s): %s: %w", st.node.Pos(), st.node.Scope(), st.node.Op.Name(), err)
	}
	var outs []*tensor.Tensor
	for i, t := range st.node.Out {
		if i >= len(st.outPtr) {
			break
		}
		h, err := fetch(s, st.outPtr[i], t)
		if err != nil {
			return err
		}
		outs = append(outs, h)
	}
	if p.opts.Probe != nil {
		p.opts.Probe(st.node, outs)
	}
	if !p.opts.Check {
		return nil
	}
	for _, t := range outs {
		if i, bad := firstNonFinite(t); bad {
			return &NonFiniteError{st.node, i, t.At(i)}
		}
	}
	return nil
}

func fetch(s device.Stream, at device.Ptr, t tensor.Type) (*tensor.Tensor, error) {
	h := tensor.New(t)
	if len(h.Bytes()) == 0 {
		return h, nil
	}
	return h, s.Download(h.Bytes(), at)
}

func firstNonFinite(t *tensor.Tensor) (int, bool) {
	if !t.DType().IsFloat() {
		return 0, false
	}
	for i := range t.Type().Size() {
		if v := t.At(i); math.IsNaN(v) || math.IsInf(v, 0) {
			return i, true
		}
	}
	return 0, false
}
