package layers

import (
	"hash/fnv"
	"math"
	"math/rand/v2"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// grows reports a matrix of the file that has fewer rows than the model needs, which Options.Grow lets grow.
func (s Source) grows(name string, have tensor.Type, want tensor.Shape) bool {
	grow := s.state().opts.Grow
	return grow != nil && have.Rank() == 2 && want.Rank() == 2 && have.Dim(1) == want.Dim(1) && have.Dim(0) > 0 && have.Dim(0) < want.Dim(0) &&
		have.DType.IsFloat() && grow(s.path(name))
}

// growNoise is the variance of the noise in new rows, as a share of that in the rows there are: transformers' epsilon.
const growNoise = 1e-9

// grown adds rows to a matrix until it has as many as are needed: the mean of its rows (Hewitt 2021) and, so that no two are alike, noise that
// the name of the weight decides: not the seed of a run, for whoever opens the model with an adapter later must get the same rows.
func grown(t *tensor.Tensor, rows int, name string) *tensor.Tensor {
	have, cols := t.Shape().Dim(0), t.Shape().Dim(1)
	out := tensor.New(tensor.T(t.DType(), rows, cols))
	copy(out.Bytes(), t.Bytes())
	mean, square := make([]float64, cols), make([]float64, cols)
	for r := range have {
		for c := range cols {
			x := t.At(r*cols + c)
			mean[c] += x
			square[c] += float64(x * x)
		}
	}
	h := fnv.New64a()
	h.Write([]byte(name)) //nolint:errcheck // a hash cannot fail
	rng := rand.New(rand.NewPCG(0, h.Sum64()))
	for c := range cols {
		mean[c] /= float64(have)
		square[c] = math.Sqrt(growNoise * max(square[c]/float64(have)-float64(mean[c]*mean[c]), 0))
	}
	for r := have; r < rows; r++ {
		for c := range cols {
			out.Set(r*cols+c, mean[c]+float64(rng.NormFloat64()*square[c]))
		}
	}
	return out
}
