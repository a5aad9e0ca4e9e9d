package plan_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

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
