package layers_test

import (
	"compress/gzip"
	"encoding/json"
	"math"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// packed is a tensor in testdata/torch_cases.json.gz.
type packed struct {
	DType string    `json:"dtype"`
	Shape []int     `json:"shape"`
	Data  []float64 `json:"data"`
}

func (p *packed) tensor() *tensor.Tensor {
	d := map[string]tensor.DType{"f64": tensor.F64, "i32": tensor.I32, "bool": tensor.Bool}[p.DType]
	x := tensor.New(tensor.T(d, p.Shape...))
	for i, v := range p.Data {
		x.Set(i, v)
	}
	return x
}

// torchCase is a layer or function of PyTorch with what it gave; see testdata/torch_cases.py.
type torchCase struct {
	Name, Layer string
	Args        torchArgs
	Tol         float64
	State       map[string]*packed
	Inputs      []*packed
	Outputs     []*packed
	GradInputs  []*packed          `json:"grad_inputs"`
	GradState   map[string]*packed `json:"grad_state"`
	StateAfter  map[string]*packed `json:"state_after"`
}

type torchArgs struct {
	Out                   any
	Kernel, Stride, Pad   []int
	Dilation              []int
	Groups, Size, Axis    int
	Bias, Ceil, Count     bool
	Max, Train, Log       bool
	OutputPad             []int `json:"output_pad"`
	P, Alpha, Beta, K     float64
	Delta, Smoothing      float64
	Cell, Reduction       string
	Layers, KDim, VDim    int
	Bidirectional, Causal bool
	Lengths               []int32
	Padding, Mask         *packed
	Weighted              bool
	Ignore                int
}

func (a *torchArgs) window() ops.WindowOptions {
	return ops.WindowOptions{Stride: a.Stride, Pad: a.Pad, Dilation: a.Dilation}
}

// TestAgainstPyTorch: outputs, gradients of inputs and parameters, and running statistics equal PyTorch's.
func TestAgainstPyTorch(t *testing.T) {
	f, err := os.Open("testdata/torch_cases.json.gz")
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	var cases []torchCase
	require.NoError(t, json.NewDecoder(z).Decode(&cases))
	for i := range cases {
		t.Run(cases[i].Name, cases[i].check)
	}
	t.Logf("%d cases", len(cases))
}

func (c *torchCase) check(t *testing.T) {
	weights := file{}
	for name, p := range c.State {
		weights[name] = p.tensor()
	}
	src := layers.NewSource(layers.Options{Weights: weights})
	g := graph.New(c.Name)
	feed := plan.Feed{}
	var in []graph.Value
	for i, p := range c.Inputs {
		x := p.tensor()
		v := g.Input("x"+string(rune('0'+i)), x.Type())
		in, feed[v] = append(in, v), x
	}
	model, outs := c.build(g, src, in)
	require.NoError(t, src.Err())
	require.NoError(t, g.Err())
	require.Empty(t, src.Unused(keys(c.State)), "every tensor of the state dict is used")
	store := newStore(t)
	require.NoError(t, src.Load(store))
	var loss graph.Value
	for _, y := range outs {
		if !y.DType().IsFloat() {
			continue
		}
		s := ops.Scale(ops.Sum(ops.Square(y)), 0.5)
		if loss.Absent() {
			loss = s
		} else {
			loss = ops.Add(loss, s)
		}
	}
	var wrt []graph.Value
	var want []*packed
	for i, p := range c.GradInputs {
		if p != nil {
			wrt, want = append(wrt, in[i]), append(want, p)
		}
	}
	for _, p := range layers.Params(model) {
		if p.Buffer {
			continue
		}
		require.NotNil(t, c.GradState[p.Name], p.Name)
		wrt, want = append(wrt, g.Read(p.Var)), append(want, c.GradState[p.Name])
	}
	grads, err := autograd.GradValues(loss, wrt...)
	require.NoError(t, err)
	got := run(t, store, feed, append(outs, grads...)...)
	for i, w := range append(append([]*packed{}, c.Outputs...), want...) {
		close64(t, w, got[i], c.Tol)
	}
	for _, p := range layers.Params(model) {
		if w := c.StateAfter[p.Name]; w != nil {
			now, err := store.Get(p.Var)
			require.NoError(t, err)
			close64(t, w, now, 1e-6)
		}
	}
}

func keys(m map[string]*packed) (out []string) {
	for k := range m {
		out = append(out, k)
	}
	return out
}

// close64 compares within tol times the largest magnitude, at least 1.
func close64(t *testing.T, want *packed, got *tensor.Tensor, tol float64) {
	t.Helper()
	require.Equal(t, tensor.S(want.Shape...), got.Shape())
	scale := 1.0
	for _, v := range want.Data {
		scale = max(scale, math.Abs(v))
	}
	for i, v := range want.Data {
		require.InDelta(t, v, got.At(i), tol*scale, "element %d", i)
	}
}

// build makes the layer and its outputs. The model is nil for functions.
func (c *torchCase) build(g *graph.Graph, src layers.Source, in []graph.Value) (model any, outs []graph.Value) {
	a, x := &c.Args, in[0]
	one := func(v graph.Value) []graph.Value { return []graph.Value{v} }
	pool := ops.PoolOptions{WindowOptions: a.window(), Ceil: a.Ceil}
	switch c.Layer {
	case "conv":
		m := layers.NewConv(src, x.Dim(1), int(a.Out.(float64)), a.Kernel, layers.ConvOptions{WindowOptions: a.window(), Groups: a.Groups, NoBias: !a.Bias})
		return m, one(m.Forward(x))
	case "conv_transpose":
		o := layers.ConvOptions{WindowOptions: a.window(), Groups: a.Groups, NoBias: !a.Bias, OutputPad: a.OutputPad}
		m := layers.NewConvTranspose(src, x.Dim(1), int(a.Out.(float64)), a.Kernel, o)
		return m, one(m.Forward(x))
	case "max_pool":
		y, idx := ops.MaxPoolIndices(x, a.Kernel, pool)
		return nil, []graph.Value{y, idx}
	case "avg_pool":
		return nil, one(layers.AvgPool{Kernel: a.Kernel, SkipPadding: !a.Count, Options: pool}.Forward(x))
	case "lp_pool": // PyTorch's takes x itself to the power, not |x|: the case's input is positive
		return nil, one(ops.LpPool(x, a.P, a.Kernel, pool))
	case "adaptive":
		var out []int
		for _, n := range a.Out.([]any) {
			out = append(out, int(n.(float64)))
		}
		return nil, one(layers.AdaptivePool{Out: out, Max: a.Max}.Forward(x))
	case "lrn":
		return nil, one(ops.LocalResponseNorm(x, a.Size, a.Alpha, a.Beta, a.K))
	case "normalize":
		return nil, one(ops.LpNormalize(x, a.P, a.Axis, 1e-12))
	case "batch_norm":
		m := layers.NewBatchNorm(src, x.Dim(1))
		return m, one(m.Forward(x, a.Train))
	case "group_norm":
		m := layers.NewGroupNorm(src, a.Groups, x.Dim(1))
		return m, one(m.Forward(x))
	case "layer_norm":
		m := layers.NewLayerNorm(src, x.Dim(-1))
		return m, one(m.Forward(x))
	case "recurrent":
		return c.recurrent(g, src, in)
	case "mha":
		m := layers.NewMultiheadAttention(src, x.Dim(2), 2, layers.MultiheadOptions{KeyWidth: a.KDim, ValWidth: a.VDim})
		masks := layers.AttentionMasks{Causal: a.Causal}
		if a.Mask != nil {
			masks.Mask = g.Const(a.Mask.tensor())
		}
		if a.Padding != nil {
			masks.KeyPadding = g.Const(a.Padding.tensor())
		}
		return m, one(m.Forward(x, in[1], in[2], masks, layers.Random{}))
	}
	return nil, one(c.loss(in))
}

func (c *torchCase) recurrent(g *graph.Graph, src layers.Source, in []graph.Value) (model any, outs []graph.Value) {
	a := &c.Args
	cell := map[string]ops.Cell{"tanh": ops.CellTanh, "relu": ops.CellReLU, "gru": ops.CellGRU, "lstm": ops.CellLSTM}[a.Cell]
	o := layers.RecurrentOptions{Layers: a.Layers, Bidirectional: a.Bidirectional, BatchFirst: len(a.Lengths) > 0}
	m := layers.NewRecurrent(src, cell, in[0].Dim(2), 4, o)
	var state layers.RecurrentState
	var lengths graph.Value
	if len(in) > 1 {
		state.H = in[1]
	}
	if len(in) > 2 {
		state.C = in[2]
	}
	if len(a.Lengths) > 0 {
		l := tensor.New(tensor.T(tensor.I32, len(a.Lengths)))
		for i, n := range a.Lengths {
			l.Set(i, float64(n))
		}
		lengths = g.Const(l)
	}
	y, last := m.Forward(in[0], state, lengths, layers.Random{})
	outs = []graph.Value{y, last.H}
	if cell == ops.CellLSTM {
		outs = append(outs, last.C)
	}
	return m, outs
}

func (c *torchCase) loss(in []graph.Value) graph.Value {
	a := &c.Args
	red := map[string]ops.LossReduction{"mean": ops.LossMean, "sum": ops.LossSum, "none": ops.LossNone, "batchmean": ops.LossBatchMean}[a.Reduction]
	switch x, y := in[0], in[1]; c.Layer {
	case "cross_entropy":
		o := ops.ClassLossOptions{Reduction: red, Ignore: []int{a.Ignore}, Smoothing: a.Smoothing}
		if a.Weighted {
			o.Weight = in[2]
		}
		return ops.ClassLoss(x, y, o)
	case "mse":
		return ops.MSELoss(x, y, red)
	case "l1":
		return ops.L1Loss(x, y, red)
	case "huber":
		return ops.HuberLoss(x, y, a.Delta, red)
	case "smooth_l1":
		return ops.SmoothL1Loss(x, y, a.Delta, red)
	case "binary":
		return ops.BinaryLoss(x, y, in[2], red)
	case "kl":
		return ops.KLDivLoss(x, y, a.Log, red)
	}
	return graph.Value{}
}
