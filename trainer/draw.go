package trainer

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// deviceDrawer draws initial weights on the device of a store, one weight or a part of one at a time, and quantizes them there: no more than
// that is ever held in full precision, and the host computes none of it.
type deviceDrawer struct {
	*plan.Store
	ctx    context.Context
	dev    device.Device
	launch plan.Launching
	seed   uint64
}

var _ layers.Drawer = deviceDrawer{}

// Weights of fewer elements come from the host; larger ones are drawn in parts of so many.
const (
	hostDraw  = 1 << 14
	drawnOnce = 1 << 24
)

// Draw implements layers.Drawer.
func (d deviceDrawer) Draw(v *graph.Var, in layers.Init) error {
	n := v.Type.Size()
	if n < hostDraw {
		return d.Set(v, in.Value(d.seed, v))
	}
	rows := max(v.Type.Dim(0), 1)
	cols := n / rows
	each := max(min(drawnOnce/cols, rows), 1)
	for first := 0; first < rows; first += each {
		count := min(each, rows-first)
		part := v
		if count < rows {
			part = &graph.Var{Name: fmt.Sprintf("%s[%d:%d]", v.Name, first, first+count), Type: tensor.T(v.Type.DType, count, cols), Slab: v,
				Offset: int64(first) * int64(cols)}
		}
		err := d.run(v.Name, func(key graph.Value) []graph.Value {
			x := ops.Cast(in.Draw(key, first, count, cols), v.Type.DType)
			key.Graph().Write(part, ops.Reshape(x, part.Type.Shape.Dims()...))
			return []graph.Value{x}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// DrawQuantized implements layers.Drawer.
func (d deviceDrawer) DrawQuantized(q *layers.Quantized, in layers.Init) error {
	rows, cols := q.Matrix()
	return d.run(q.Name, func(key graph.Value) []graph.Value { return q.WriteQuantized(in.Draw(key, 0, rows, cols)) })
}

// run builds and runs the plan that draws a weight. Its one output is the key, so that nothing large comes back.
func (d deviceDrawer) run(name string, build func(key graph.Value) []graph.Value) (err error) {
	h := fnv.New64a()
	h.Write([]byte(name)) //nolint:errcheck // a hash cannot fail
	mixed := d.seed ^ h.Sum64()
	g := graph.New("draw " + name)
	key := g.Input("key", tensor.T(tensor.I32, 2))
	build(key)
	p, err := plan.Compile([]graph.Value{key}, plan.Options{Context: d.ctx, Device: d.dev, Store: d.Store, Launch: d.launch})
	if err != nil {
		return fmt.Errorf("drawing %s: %w", name, err)
	}
	words, err := tensor.Of([]int32{int32(uint32(mixed)), int32(uint32(mixed >> 32))})
	if err == nil {
		_, err = p.Run(d.ctx, plan.Feed{key: words})
	}
	if err = errors.Join(err, p.Close()); err != nil {
		return fmt.Errorf("drawing %s: %w", name, err)
	}
	return nil
}
