package plan_test

import (
	"context"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// adaptedNet is a projection, three of its result, and their sum as loss.
type adaptedNet struct {
	First layers.Projection `name:"first_proj"`
	Q     layers.Projection `name:"q_proj"`
	K     layers.Projection `name:"k_proj"`
	V     layers.Projection `name:"v_proj"`
}

// adapted is such a net in 4 bits with adapters.
type adapted struct {
	d        tensor.DType
	bias     bool
	again    bool // all but the first projection is computed again in the backward pass
	stored   tensor.DType
	adapters []lora.Config
	rows     bool // the adapter has a factor for each row of the batch
	off      bool
	want     int // products that fold; of 4 forward, and 3 gradients of the first one's result
}

var adaptedNets = map[string]adapted{
	"plain":            {want: 7},
	"off":              {off: true},
	"with a bias":      {bias: true, want: 7},
	"rsLoRA":           {adapters: []lora.Config{{Rank: 4, Alpha: 8, RSLoRA: true}}, want: 7},
	"computed again":   {again: true, want: 9}, // v_proj is not needed again
	"stored as used":   {stored: tensor.BF16, want: 7},
	"two adapters":     {adapters: []lora.Config{{Rank: 4, Alpha: 8}, {Rank: 3, Alpha: 8}}, want: 7},
	"some projections": {adapters: []lora.Config{{Rank: 4, Alpha: 8, Targets: lora.Targets{Names: []string{"q_proj", "v_proj"}}}}, want: 2},
	"float16":          {d: tensor.F16, want: 7},
	"dropout":          {adapters: []lora.Config{{Rank: 4, Alpha: 8, Dropout: 0.5}}},
	"DoRA":             {adapters: []lora.Config{{Rank: 4, Alpha: 8, DoRA: true}}},
	"a bias of B":      {adapters: []lora.Config{{Rank: 4, Alpha: 8, BBias: true}}, want: 3}, // it adds nothing to gradients of the input
	"factors of rows":  {rows: true},
	"wide":             {d: tensor.F32, want: 7}, // the device of this test has kernels for it
}

func (a adapted) run(t *testing.T, dev device.Device, fold bool) (got []*tensor.Tensor, r plan.Report) {
	t.Helper()
	src := layers.NewSource(layers.Options{Seed: 3, Quantize: func(string) (quant.Config, bool) {
		return quant.Config{Scheme: quant.NF4, Blocksize: 64, Double: true}, true
	}})
	m := &adaptedNet{First: src.Linear("first_proj", 32, 48, a.bias), Q: src.Linear("q_proj", 48, 40, a.bias), K: src.Linear("k_proj", 48, 40, a.bias), V: src.Linear("v_proj", 48, 40, a.bias)}
	store := plan.NewStore(dev)
	defer func() { require.NoError(t, store.Close()) }()
	require.NoError(t, src.Load(store))
	g := graph.New("adapted")
	var params []*graph.Var
	for i, cfg := range a.adapters {
		cfg.Param = a.stored
		one, err := lora.AttachNamed(m, string(rune('a'+i)), cfg)
		require.NoError(t, err)
		require.NoError(t, one.Init(store))
		one.Random = layers.Random{Key: g.Const(tensor.New(tensor.T(tensor.U32, 2))), Sample: g.Const(tensor.New(tensor.T(tensor.I32, 2, 8))), Pos: g.Const(tensor.New(tensor.T(tensor.I32, 2, 8)))}
		if a.rows {
			one.Rows = g.Const(filled(tensor.T(tensor.F32, 2), 4))
		}
		params = one.Vars()
		for k, v := range params {
			require.NoError(t, store.Set(v, layers.Normal(0.05).Value(uint64(10*i+k), v)))
		}
	}
	x := g.Input("x", tensor.T(a.d, 2, 8, 32))
	h := ops.Tanh(m.First.Forward(x))
	rest := func() graph.Value {
		return ops.Add(ops.Mul(ops.Tanh(m.Q.Forward(h)), ops.Tanh(m.K.Forward(h))), m.V.Forward(h))
	}
	var y graph.Value
	if a.again {
		autograd.Checkpoint(g, func() { y = rest() })
	} else {
		y = rest()
	}
	loss := ops.Sum(ops.Square(ops.Cast(y, tensor.F32)))
	grads, err := autograd.Grad(loss, params...)
	require.NoError(t, err)
	for i, v := range params { // as micro-batches add up
		sum := graph.NewVar(v.Name+".grad", tensor.Type{DType: tensor.F32, Shape: v.Type.Shape})
		grads[i] = ops.Add(g.Read(sum), ops.Cast(grads[i], tensor.F32))
		g.Write(sum, grads[i])
	}
	outs := append([]graph.Value{y, loss}, grads...)
	p, err := plan.Compile(outs, plan.Options{Device: dev, Store: store, Verify: true, Fold: fold})
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	require.NoError(t, p.CheckArena())
	res, err := p.Run(t.Context(), plan.Feed{x: filled(x.Type(), 1)})
	require.NoError(t, err)
	for _, v := range outs {
		got = append(got, res.Tensor(v))
	}
	return got, p.Report()
}

// TestFold: adapters are folded into the products that they stand beside, and only where all of what a product gives is what the adapter adds to. Results
// are those apart, but for rounding.
func TestFold(t *testing.T) {
	dev := withKernels(ops.FoldedQuantMatMul{}, ops.AddFoldedQuantMatMul{})
	for name, a := range adaptedNets {
		t.Run(name, func(t *testing.T) {
			if a.d == tensor.Invalid {
				a.d = tensor.BF16
			}
			if a.adapters == nil {
				a.adapters = []lora.Config{{Rank: 4, Alpha: 8}}
			}
			want, before := a.run(t, dev, false)
			got, after := a.run(t, dev, !a.off)
			require.Zero(t, before.Folded)
			require.Equal(t, a.want, after.Folded)
			limit := map[tensor.DType]float64{tensor.BF16: 0.02, tensor.F16: 0.003, tensor.F32: 1e-5}[a.d]
			for i := range want {
				require.Less(t, distance(want[i], got[i]), limit, "result %d", i)
			}
			none, without := a.run(t, newStacking(0), !a.off)
			require.Zero(t, without.Folded, "a device without the kernel")
			require.Len(t, none, len(want))
		})
	}
}

// distance is |a - b| / |b|.
func distance(a, b *tensor.Tensor) float64 {
	var diff, norm float64
	for i := range a.Type().Size() {
		d := a.At(i) - b.At(i)
		diff, norm = diff+d*d, norm+b.At(i)*b.At(i)
	}
	return math.Sqrt(diff / max(norm, math.SmallestNonzeroFloat64))
}

// randomSum draws a sum of products in 4 bits, adapters and other values of two inputs, added in any order, of which some are needed elsewhere too. It returns
// those that are and the sum.
func randomSum(g *graph.Graph, us []graph.Value, choice func(n int) int) (outs []graph.Value) {
	const features, out = 16, 24
	q := ops.QuantMatMul{Scheme: quant.NF4, Blocksize: 64, N: out, K: features}
	bytes := tensor.New(tensor.T(tensor.U8, quant.PackedSize(out*features)))
	for i := range bytes.Bytes() {
		bytes.Bytes()[i] = byte(37 * i)
	}
	codes, absmax := g.Const(bytes), g.Const(filled(tensor.T(tensor.F32, quant.Blocks(out*features, 64)), 2))
	weight := func(dims ...int) graph.Value {
		return ops.Scale(g.Const(filled(tensor.T(tensor.F32, dims...), uint64(choice(9)))), 0.5)
	}
	var list []graph.Value
	for range 2 + choice(8) {
		var v graph.Value
		switch u := us[choice(len(us))]; choice(6) {
		case 0, 1:
			v = ops.QuantLinear(q, u, codes, absmax)
		case 2:
			v = ops.Reshape(ops.QuantLinear(q, ops.Reshape(u, 5, 1, features), codes, absmax), 5, out)
		case 3, 4:
			low := ops.Linear(u, weight(3, features))
			if choice(4) == 0 {
				outs = append(outs, low)
			}
			v = ops.Linear(ops.Scale(low, float64(1+choice(2))), weight(out, 3))
		default:
			v = ops.Tanh(ops.Linear(u, weight(out, features)))
		}
		switch choice(8) {
		case 0:
			v = ops.Scale(v, 2)
		case 1:
			v = ops.Reshape(ops.Reshape(v, -1), v.Type().Shape.Dims()...)
		case 2:
			outs = append(outs, v)
		case 3:
			v = ops.Add(v, weight(out))
		}
		list = append(list, v)
	}
	for len(list) > 1 {
		i := choice(len(list) - 1)
		v := ops.Add(list[i], list[i+1])
		if choice(9) == 0 {
			outs = append(outs, v)
		}
		list = append(append(list[:i:i], v), list[i+2:]...)
	}
	return append(outs, ops.Tanh(ops.Scale(list[0], 0.01)))
}

// TestFoldRandom: whatever a sum consists of and in whatever order, folding changes no result but by rounding.
func TestFoldRandom(t *testing.T) {
	dev := withKernels(ops.FoldedQuantMatMul{}, ops.AddFoldedQuantMatMul{})
	folded := 0
	rapid.Check(t, func(t *rapid.T) {
		choices := rapid.SliceOfN(rapid.IntRange(0, 1<<16), 50, 50).Draw(t, "choices")
		var results [2][]*tensor.Tensor
		for k, fold := range []bool{false, true} {
			next := -1
			g := graph.New("sums")
			us := []graph.Value{g.Input("u", tensor.T(tensor.F32, 5, 16)), g.Input("v", tensor.T(tensor.F32, 5, 16))}
			outs := randomSum(g, us, func(n int) int { next++; return choices[next%len(choices)] % n })
			p, err := plan.Compile(outs, plan.Options{Device: dev, Verify: true, Fold: fold})
			require.NoError(t, err)
			res, err := p.Run(context.Background(), plan.Feed{us[0]: filled(us[0].Type(), 3), us[1]: filled(us[1].Type(), 4)})
			require.NoError(t, err)
			for _, v := range outs {
				results[k] = append(results[k], res.Tensor(v))
			}
			folded += p.Report().Folded
			require.NoError(t, p.Close())
		}
		for i := range results[0] {
			require.Less(t, distance(results[0][i], results[1][i]), 1e-5)
		}
	})
	require.NotZero(t, folded)
}
