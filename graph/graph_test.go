package graph_test

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

var update = flag.Bool("update", false, "rewrite testdata/*.golden")

// lines replaces line numbers, which move with every edit of a test.
var lines = regexp.MustCompile(`(_test\.go):\d+`)

// golden compares a graph's text with the file of that name.
func golden(t *testing.T, name, text string) {
	t.Helper()
	text = lines.ReplaceAllString(text, "$1:N")
	path := filepath.Join("testdata", name+".golden")
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), text, "run with -update when the change is meant")
}

func TestText(t *testing.T) {
	t.Run("mlp", func(t *testing.T) {
		g := graph.New("mlp")
		x, y := g.Input("x", tensor.T(tensor.F32, 2, 3)), g.Input("y", tensor.T(tensor.F32, 2, 1))
		w1, w2 := graph.NewVar("up.weight", tensor.T(tensor.F32, 4, 3)), graph.NewVar("down.weight", tensor.T(tensor.F32, 1, 4))
		undo := g.Scope("mlp")
		up := g.Scope("up")
		h := ops.SiLU(ops.Linear(x, g.Read(w1)))
		up()
		out := ops.Linear(h, g.Read(w2))
		undo()
		loss := ops.Mean(ops.Square(ops.Sub(out, y)))
		grads, err := autograd.Grad(loss, w1, w2)
		require.NoError(t, err)
		for i, v := range []*graph.Var{w1, w2} {
			g.Write(v, ops.Sub(g.Read(v), ops.Scale(grads[i], 0.1)))
		}
		require.NoError(t, g.Verify())
		golden(t, "mlp", g.String())
		require.Equal(t, g.String(), g.String())
		require.Equal(t, []*graph.Var{w2, w1}, g.Vars(), "in name order")
	})
	t.Run("ops", func(t *testing.T) {
		g := graph.New("ops")
		x := g.Input("x", tensor.T(tensor.BF16, 2, 3, 4))
		c := g.Const(tensor.Scalar(float32(1.5)))
		ops.Transpose(x)
		ops.Slice(x, 1, 0, 2)
		ops.SliceStep(x, 2, 0, 4, 2)
		ops.PadAxis(x, 0, 1, 0, -1)
		ops.Concat(0, x, x)
		ops.Sum(x, 0, 2)
		ops.Reshape(x, 6, -1)
		ops.Gather(x, 1, g.Input("i", tensor.T(tensor.I32, 5)))
		ops.Mul(ops.Cast(x, tensor.F32), c)
		ops.BroadcastTo(ops.Fill(g, tensor.F32, 2), 2, 2)
		golden(t, "ops", g.String())
	})
}

// TestPositions: a node is reported at the user's line, whatever helper of the building packages made it, with its scope.
func TestPositions(t *testing.T) {
	g := graph.New("g")
	defer g.Scope("layers.3")()
	x := g.Input("x", tensor.T(tensor.F32, 4))
	y := ops.Mean(x) // made three calls down
	require.Regexp(t, `^graph_test\.go:\d+ \(layers\.3\)$`, y.Node().Where())
	require.NotEqual(t, x.Node().Pos(), y.Node().Pos())
	grads, err := autograd.GradValues(y, x)
	require.NoError(t, err)
	require.Equal(t, y.Node().Pos(), grads[0].Node().Pos(), "a gradient stands where its forward op does")
	require.Equal(t, "layers.3", grads[0].Node().Scope())
	deep(t, g, x, 40)
}

func deep(t *testing.T, g *graph.Graph, x graph.Value, n int) {
	if n > 0 {
		deep(t, g, x, n-1)
		return
	}
	require.Contains(t, ops.Tanh(x).Node().Pos(), "graph_test.go:")
}

func TestScopes(t *testing.T) {
	g := graph.New("g")
	x := g.Input("x", tensor.T(tensor.F32))
	require.Empty(t, x.Node().Scope())
	a := g.Scope("a")
	b := g.Scope("b")
	require.Equal(t, "a.b", ops.Exp(x).Node().Scope())
	a() // closing the outer one closes the inner
	require.Empty(t, ops.Sin(x).Node().Scope())
	b()
	require.Empty(t, ops.Cos(x).Node().Scope())
}

// TestEqualNodes: equal ops on equal inputs are one node, absent inputs told apart.
func TestEqualNodes(t *testing.T) {
	g := graph.New("g")
	x, y := g.Input("x", tensor.T(tensor.F32, 2)), g.Input("y", tensor.T(tensor.F32, 2))
	require.Equal(t, ops.Add(x, y), ops.Add(x, y))
	require.NotEqual(t, ops.Sub(x, y), ops.Sub(y, x))
	require.Equal(t, x, g.Input("x", tensor.T(tensor.F32, 2)))
	require.NotEqual(t, x, g.Input("x", tensor.T(tensor.F32, 3)))
	require.NotEqual(t, ops.After(x, y), x)
	many := []graph.Value{x, y, x, y, x, y, x, y}
	require.Equal(t, ops.Concat(0, many...), ops.Concat(0, many...))
	require.NotEqual(t, ops.Concat(0, many...), ops.Concat(0, append(many[:7:7], x)...))
}

// two has two outputs and an optional second input.
type two struct{}

func (two) Name() string { return "two" }
func (two) NumOut() int  { return 2 }
func (two) Infer(in []tensor.Type) ([]tensor.Type, error) {
	return []tensor.Type{in[0], in[0]}, nil
}

func TestPoison(t *testing.T) {
	g := graph.New("g")
	x := g.Input("x", tensor.T(tensor.F32, 2, 3))
	bad := ops.Dot(x, x)
	require.False(t, bad.Valid())
	require.False(t, bad.Absent())
	require.Equal(t, "poison", bad.String())
	require.Equal(t, tensor.Type{}, bad.Type())
	y := ops.Softmax(ops.Concat(0, ops.Reshape(ops.SiLU(ops.Add(bad, x)), 7), x), 0)
	for _, v := range []graph.Value{y, ops.Mean(bad), ops.Slice(bad, 5, 1, 2), ops.Transpose(bad), ops.Split(bad, 0, 1, 2)[1], ops.OneHot(bad, 3, tensor.F32)} {
		require.False(t, v.Valid())
	}
	outs := g.Apply(two{}, bad)
	require.Len(t, outs, 2, "as many poisoned values as outputs")
	require.False(t, outs[1].Valid())
	g.Write(graph.NewVar("v", tensor.T(tensor.F32)), y)
	require.Regexp(t, `^graph_test\.go:\d+: matmul\(f32\[2,3\], f32\[2,3\]\): inner dimensions differ: 3 and 2$`, g.Err().Error())
	_, err := autograd.GradValues(y, x)
	require.Equal(t, g.Err().Error(), err.Error())
	require.Empty(t, g.Writes())
}

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		name string
		f    func(g *graph.Graph, x graph.Value)
		want string
	}{
		{"nil var", func(g *graph.Graph, _ graph.Value) { g.Read(nil) }, "read(): the variable is nil"},
		{"nil tensor", func(g *graph.Graph, _ graph.Value) { g.Const(nil) }, "constant(): the tensor is nil"},
		{"input type", func(g *graph.Graph, _ graph.Value) { g.Input("i", tensor.T(tensor.F32, -1)) }, `input "i"(): f32[invalid] is not a valid type`},
		{"write nil", func(g *graph.Graph, x graph.Value) { g.Write(nil, x) }, "the variable is nil"},
		{"write absent", func(g *graph.Graph, _ graph.Value) {
			g.Write(graph.NewVar("v", tensor.T(tensor.F32)), graph.Value{})
		}, "write v(): the value is absent"},
		{"write type", func(g *graph.Graph, x graph.Value) { g.Write(graph.NewVar("v", tensor.T(tensor.F32)), x) },
			"write v(f32[2,3]): the variable is f32[]"},
		{"other graph", func(_ *graph.Graph, x graph.Value) { ops.Add(x, graph.New("h").Input("y", x.Type())) }, `belongs to graph "h"`},
		{"scope", func(g *graph.Graph, x graph.Value) { defer g.Scope("mlp")(); ops.Sum(x, 9) }, "(mlp): reduce_sum(f32[2,3]): axis 9"},
		{"huge", func(_ *graph.Graph, x graph.Value) { ops.BroadcastTo(x, 1<<40, 1<<40, 2, 3) }, "broadcast"},
		{"cast", func(_ *graph.Graph, x graph.Value) { ops.Cast(x, tensor.Invalid) }, "cast(f32[2,3])"},
		{"permutation", func(_ *graph.Graph, x graph.Value) { ops.Transpose(x, 256, 1) }, "not a permutation"},
		{"mean of integers", func(_ *graph.Graph, x graph.Value) { ops.Mean(ops.Cast(x, tensor.I32)) }, "mean(i32[2,3]): not defined on i32"},
		{"axis of iota", func(g *graph.Graph, x graph.Value) { ops.Iota(g, x.Type(), 256) }, "iota(): axis 256 is out of range"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := graph.New("g")
			c.f(g, g.Input("x", tensor.T(tensor.F32, 2, 3)))
			require.ErrorContains(t, g.Err(), c.want)
			require.True(t, strings.HasPrefix(g.Err().Error(), "graph_test.go:"), g.Err())
		})
	}
}

func TestAtMostTenErrors(t *testing.T) {
	g := graph.New("g")
	x := g.Input("x", tensor.T(tensor.F32, 2, 3))
	for i := range 30 {
		ops.Sum(x, 5+i)
	}
	require.Len(t, strings.Split(g.Err().Error(), "\n"), 10)
}

func TestAbsentInputs(t *testing.T) {
	require.True(t, ops.SiLU(graph.Value{}).Absent())
	require.True(t, ops.Add(graph.Value{}, graph.Value{}).Absent())
	require.True(t, ops.Mean(ops.Slice(ops.Transpose(graph.Value{}), 0, 1, 2)).Absent())
	g := graph.New("g")
	v := ops.Add(g.Input("x", tensor.T(tensor.F32)), graph.Value{})
	require.False(t, v.Valid())
	require.ErrorContains(t, g.Err(), "add(f32[], -): input 1 is absent")
	_, err := autograd.Grad(graph.Value{})
	require.ErrorContains(t, err, "the loss is absent")
}
