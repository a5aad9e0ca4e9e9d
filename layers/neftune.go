package layers

import (
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// NEFTune adds noise to embeddings while training (Jain et al. 2023, arXiv 2310.05914): each element of a token's embedding gets
// α/√(L·d) times a uniform number in [-1, 1], where L is the number of tokens of the token's own document and d the width. The noise is a pure
// function of the seed, the step, the data row, the token and the feature, as that of Dropout is, so that neither padding nor packing nor the
// cut into micro-batches changes it.
type NEFTune struct {
	Alpha  float64     // usual 5 to 15; 0 = no noise
	Length graph.Value // f32 (B, T): tokens in the document of each token, 0 for padding, which gets no noise
	Random Random      // the zero value means no noise
}

// neftuneSite tells the noise from the dropouts of the same step.
const neftuneSite = 0x4e454654

// Forward maps embeddings (B, T, d) to the same shape and dtype.
func (n NEFTune) Forward(x graph.Value) graph.Value {
	if n.Alpha == 0 || n.Random.Key.Absent() || !x.Valid() {
		return x
	}
	defer x.Graph().Scope("neftune")()
	width := x.Dim(-1)
	words := x.Graph().Apply(ops.PhiloxOp{Site: neftuneSite, N: int64(width)}, n.Random.Key, n.Random.Sample, n.Random.Pos)[0]
	unit := ops.AddScalar(ops.Scale(ops.Cast(words, tensor.F32), 1.0/(1<<31)), -1)
	// Where and not a division by zero for padding.
	real := ops.Greater(n.Length, ops.Scalar(n.Length, 0))
	inverse := ops.Rsqrt(ops.Where(real, n.Length, ops.Scalar(n.Length, 1)))
	size := ops.Where(real, ops.Scale(inverse, n.Alpha/math.Sqrt(float64(width))), ops.Scalar(n.Length, 0))
	noise := ops.Mul(unit, ops.Reshape(size, append(size.Shape().Dims(), 1)...))
	return ops.Add(x, ops.Cast(noise, x.DType()))
}
