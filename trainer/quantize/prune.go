package quantize

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/quant/prune"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Prune makes a change for Options.Change that sets weights to zero: "magnitude:0.5" the half of each weight with the smallest magnitudes,
// "row:0.5" the half of each row, "2:4" two of every four neighbours of a row.
func Prune(text string) (func(name string, w *tensor.Tensor) (*tensor.Tensor, error), error) {
	kind, value, ok := strings.Cut(text, ":")
	var mask func(scores []float32, cols int) (prune.Mask, error)
	share, err := strconv.ParseFloat(value, 64)
	n, nerr := strconv.Atoi(kind)
	m, merr := strconv.Atoi(value)
	switch {
	case ok && err == nil && kind == "magnitude" && share > 0 && share < 1:
		mask = func(s []float32, _ int) (prune.Mask, error) { return prune.Unstructured(s, share) }
	case ok && err == nil && kind == "row" && share > 0 && share < 1:
		mask = func(s []float32, cols int) (prune.Mask, error) { return prune.ByRow(s, cols, share) }
	case ok && nerr == nil && merr == nil && n > 0 && n < m && m <= maxGroup:
		mask = func(s []float32, cols int) (prune.Mask, error) { return prune.NM(s, cols, n, m) }
	default:
		return nil, bad("prune", "%q is not a way to prune: use magnitude:SHARE, row:SHARE (above 0, below 1), or N:M such as 2:4", text)
	}
	return func(name string, w *tensor.Tensor) (*tensor.Tensor, error) {
		x := w.Float32s()
		keep, err := mask(prune.Magnitudes(x), w.Shape().Dim(-1))
		if err == nil {
			err = keep.Apply(x)
		}
		if err != nil {
			return nil, inputError{fmt.Errorf("tensor %q: %w", name, err)}
		}
		pruned, err := tensor.Of(x, w.Shape().Dims()...)
		if err != nil {
			return nil, err
		}
		return pruned.Convert(w.DType())
	}, nil
}

// maxGroup bounds M of N:M.
const maxGroup = 256
