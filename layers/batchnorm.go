package layers

import (
	"errors"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// BatchNorm normalises channels over the batch and the spatial axes (Ioffe & Szegedy 2015): PyTorch's BatchNorm1d, 2d and 3d.
// Training uses the batch's statistics and moves the running ones; evaluation uses the running ones.
type BatchNorm struct {
	Weight  *graph.Var `name:"weight"` // nil: no scale
	Bias    *graph.Var `name:"bias"`   // nil: no shift
	Mean    *graph.Var `name:"running_mean,buffer"`
	Var     *graph.Var `name:"running_var,buffer"`
	Batches *graph.Var `name:"num_batches_tracked,buffer"`

	Eps      float64
	Momentum float64 // share of a new batch in the running statistics; 0: their plain average over all batches
}

var errOneElement = errors.New("a channel has one element only, which has no variance; train with larger batches")

// NewBatchNorm takes weight, bias and the running statistics from src, with PyTorch's defaults: eps 1e-5, momentum 0.1.
func NewBatchNorm(src Source, channels int) *BatchNorm {
	return &BatchNorm{
		Weight: src.Var("weight", Ones(), channels), Bias: src.Var("bias", Zeros(), channels),
		Mean: src.Buffer("running_mean", tensor.F32, false, Zeros(), channels), Var: src.Buffer("running_var", tensor.F32, false, Ones(), channels),
		Batches: src.Buffer("num_batches_tracked", tensor.I64, true, Zeros()),
		Eps:     1e-5, Momentum: 0.1,
	}
}

// Forward normalises x (N, C, S...). In training it writes the running statistics as effects of the step: the mean, and the
// unbiased variance, for which a channel needs two elements. A layer that is used several times in a step keeps what its last
// use saw.
func (n *BatchNorm) Forward(x graph.Value, training bool) graph.Value {
	if !x.Valid() {
		return x
	}
	g := x.Graph()
	w, b := readOptional(x, n.Weight), readOptional(x, n.Bias)
	if !training {
		return ops.BatchNormFixed(x, w, b, g.Read(n.Mean), g.Read(n.Var), n.Eps)
	}
	y, mean, variance := ops.BatchNorm(x, w, b, n.Eps)
	if !y.Valid() {
		return y
	}
	m := float64(x.Dim(0))
	for _, n := range x.Shape().Dims()[2:] {
		m *= float64(n)
	}
	if m < 2 {
		return g.Fail("batchnorm", []graph.Value{x}, errOneElement)
	}
	n.track(ops.Cast(mean, tensor.F32), ops.Cast(ops.Scale(variance, m/(m-1)), tensor.F32))
	return y
}

// track moves the running statistics towards those of a batch.
func (n *BatchNorm) track(mean, variance graph.Value) {
	g := mean.Graph()
	count := ops.AddScalar(g.Read(n.Batches), 1)
	g.Write(n.Batches, count)
	share := ops.Scalar(mean, n.Momentum)
	if n.Momentum == 0 {
		share = ops.Div(ops.Scalar(mean, 1), ops.Cast(count, tensor.F32))
	}
	move := func(v *graph.Var, now graph.Value) {
		old := g.Read(v)
		g.Write(v, ops.Add(ops.Mul(ops.Sub(ops.Scalar(share, 1), share), old), ops.Mul(share, now)))
	}
	move(n.Mean, mean)
	move(n.Var, variance)
}
