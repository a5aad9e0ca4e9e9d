package plan

import (
	"context"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Eval compiles the values of one graph, runs them once and returns them: for tests and experiments.
func Eval(dev device.Device, feed Feed, vals ...graph.Value) (out []*tensor.Tensor, err error) {
	p, err := Compile(vals, Options{Device: dev})
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := p.Close(); err == nil {
			err = cerr
		}
	}()
	res, err := p.Run(context.Background(), feed)
	if err != nil {
		return nil, err
	}
	for _, v := range vals {
		out = append(out, res.Tensor(v))
	}
	return out, nil
}

// materialise uploads the constants. Variables are allocated when they are first set or the plan first runs: planning takes no
// memory that a step would not find free.
func (p *Plan) materialise() error {
	var total int64
	for i := range p.roots {
		if r := &p.roots[i]; r.kind == inConst {
			r.offset = total
			total += alignUp(r.bytes)
		}
	}
	if total == 0 {
		return nil
	}
	var err error
	if p.consts, err = p.dev.Alloc(total); err != nil {
		return fmt.Errorf("plan: constants: %w", err)
	}
	p.store.take()
	defer p.store.give()
	for i := range p.roots {
		r := &p.roots[i]
		if r.kind != inConst || r.bytes == 0 {
			continue
		}
		data := r.node.Op.(graph.Constant).Data
		if err := p.dev.Stream(0).Upload(device.Ptr{Buf: p.consts, Off: r.offset}, data.Bytes()); err != nil {
			return fmt.Errorf("plan: constants: %w", err)
		}
	}
	return nil
}
