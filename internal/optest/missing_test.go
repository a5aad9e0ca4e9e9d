package optest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestMissing builds every case with a nil graph, without inputs, and with one of them alone: nothing panics.
func TestMissing(t *testing.T) {
	for _, c := range All() {
		for with := -1; with < len(c.In); with++ {
			for _, of := range []*graph.Graph{nil, graph.New("missing inputs")} {
				in := make([]graph.Value, len(c.In))
				if with >= 0 {
					in[with] = of.Input("x", c.In[with].Type(tensor.F32))
				}
				require.NotPanics(t, func() {
					for _, v := range c.Build(of, in) {
						if of == nil && v.Valid() {
							require.Error(t, v.Graph().Err(), c.Name)
						}
					}
				}, "%s with input %d alone, of graph %v", c.Name, with, of.Name())
			}
		}
	}
}

// TestNilGraph: a graph that is nil is an error where errors of building are told, also when another graph takes its values.
func TestNilGraph(t *testing.T) {
	const says = "missing_test.go:"
	const why = "the graph is nil: make one with graph.New"
	var none *graph.Graph
	f32, dev := tensor.T(tensor.F32), cpu.New(cpu.Options{Threads: 1})
	v := graph.NewVar("v", f32)
	require.NotPanics(t, func() {
		none.Write(v, graph.Value{})
		none.AddRegion(0, 1)
		defer none.Scope("a")()
		defer none.InPhase(graph.Update)()
		defer none.OnBehalf(nil)()
		autograd.Checkpoint(none, func() {})
		require.Empty(t, none.Nodes())
		require.Empty(t, none.Vars())
		require.Empty(t, none.Reachable(nil))
		require.NotEmpty(t, none.String())
	})
	require.ErrorContains(t, none.Err(), why)
	require.ErrorContains(t, none.Verify(), why)
	for name, x := range map[string]graph.Value{
		"input": none.Input("x", f32), "read": none.Read(v), "nil variable": none.Read(nil), "constant": none.Const(tensor.New(f32)), "fill": ops.Fill(none, tensor.F32, 1),
		"iota": ops.Iota(none, tensor.T(tensor.I32, 3), 0), "poison": none.Poison(), "eye": ops.Eye(none, tensor.F32, 2, 2, 0), "of none": ops.ReLU(ops.Fill(none, tensor.F32, 1)),
		"stop": autograd.StopGrad(graph.Value{}),
	} {
		require.False(t, x.Valid(), name)
		_, err := autograd.Grad(x, v)
		require.ErrorContains(t, err, why, name)
		require.ErrorContains(t, err, says, name)
		_, err = plan.Compile([]graph.Value{x}, plan.Options{Device: dev})
		require.ErrorContains(t, err, why, name)

		g := graph.New("step")
		y := ops.Sum(ops.Add(g.Input("x", f32), x))
		require.ErrorContains(t, g.Err(), why, name)
		_, err = autograd.Grad(y, v)
		require.ErrorContains(t, err, says, name)
		g = graph.New("step")
		g.Write(v, x)
		require.ErrorContains(t, g.Err(), why, name)
		_, err = plan.Compile([]graph.Value{graph.New("other").Input("x", f32), x}, plan.Options{Device: dev})
		require.ErrorContains(t, err, why, name)
	}
	g := graph.New("no op")
	require.False(t, g.Apply(nil)[0].Valid())
	require.ErrorContains(t, g.Err(), "the op is nil")
}

// TestNilGraphWrites: what writes variables of a nil graph gives nothing that could carry the error, so the graph of what it was given does.
func TestNilGraphWrites(t *testing.T) {
	var none *graph.Graph
	v := graph.NewVar("v", tensor.T(tensor.F32))
	opt, err := optim.New("adamw", optim.Config{})
	require.NoError(t, err)
	group, err := optim.NewGroup([]*graph.Var{v}, optim.Options{Optimizer: opt})
	require.NoError(t, err)
	for name, write := range map[string]func(loss, lr graph.Value, grads []graph.Value){
		"write":      func(loss, _ graph.Value, _ []graph.Value) { none.Write(v, loss) },
		"update":     func(_, lr graph.Value, grads []graph.Value) { opt.Update(none, []*graph.Var{v}, grads, lr) },
		"accumulate": func(_, _ graph.Value, grads []graph.Value) { group.Accumulate(none, grads) },
		"apply":      func(_, lr graph.Value, _ []graph.Value) { group.Apply(none, optim.Scalars{LR: lr}) },
	} {
		g := graph.New("step")
		loss := ops.Square(g.Read(v))
		grads, err := autograd.Grad(loss, v)
		require.NoError(t, err)
		write(loss, ops.Fill(g, tensor.F32, 1), grads)
		_, err = plan.Compile([]graph.Value{loss}, plan.Options{Device: cpu.New(cpu.Options{Threads: 1})})
		require.ErrorContains(t, err, "the graph is nil: make one with graph.New", name)
		require.ErrorContains(t, err, "missing_test.go:", name)
	}
}
