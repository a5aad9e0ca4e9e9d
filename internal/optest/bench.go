package optest

import (
	"context"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Bench runs a case at its benchmark size in f32, or in the first dtype of a case without f32, and reports GB/s of the bytes its
// op must move and GFLOP/s. Only the op's result stays on the device's side of the clock: outputs are left to a variable.
func Bench(b *testing.B, dev device.Device, c Case) {
	for i := range c.In {
		c.In[i].Dims = c.Bench
	}
	d := tensor.F32
	if list := c.Types(); len(list) > 0 && c.DTypes != nil {
		d = list[0]
		for _, have := range list {
			if have == tensor.F32 {
				d = have
			}
		}
	}
	built := c.New(d)
	var flops, bytes int64
	for _, n := range built.Graph.Nodes() {
		if k, ok := n.Op.(graph.Coster); ok {
			f, by := k.Cost(n.InTypes(), n.Out)
			flops, bytes = flops+f, bytes+by
		}
	}
	store := plan.NewStore(dev)
	g := graph.New("bench")
	var in []graph.Value
	for i, v := range built.In {
		x := graph.NewVar("x"+string(rune('0'+i)), v.Type())
		if err := store.Set(x, built.Feed[v]); err != nil {
			b.Fatal(err)
		}
		in = append(in, g.Read(x))
	}
	tick := g.Input("tick", tensor.T(tensor.F32))
	for i, y := range c.Build(g, in) {
		g.Write(graph.NewVar("y"+string(rune('0'+i)), y.Type()), y)
	}
	p, err := plan.Compile([]graph.Value{tick}, plan.Options{Device: dev, Store: store})
	if err != nil {
		b.Fatal(err)
	}
	feed := plan.Feed{tick: 0.0}
	for b.Loop() {
		if _, err := p.Run(context.Background(), feed); err != nil {
			b.Fatal(err)
		}
	}
	seconds := b.Elapsed().Seconds() / float64(b.N)
	b.ReportMetric(float64(bytes)/seconds/1e9, "GB/s")
	b.ReportMetric(float64(flops)/seconds/1e9, "GFLOP/s")
	if err := p.Close(); err != nil {
		b.Fatal(err)
	}
}
