package calib

import (
	"errors"
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// minFactor keeps the statistics that scales are made from away from 0, as the reference implementations do.
const minFactor = 1e-5

// RoundTrip quantizes a matrix and gives back what the codes stand for, in a new matrix or in the one it was given.
type RoundTrip func(m Matrix) (Matrix, error)

// SmoothFactors returns s[j] = max|X[:,j]|^alpha / max|W[:,j]|^(1-alpha) (Xiao et al. 2023, SmoothQuant, arXiv 2211.10438, equation 4):
// with X divided by s and W multiplied by it, column by column, the product stays and the outliers of X are shared with W. absmaxW is
// taken over all weights that read X. A channel that is 0 in X or in W keeps the factor 1.
func SmoothFactors(absmaxX, absmaxW []float32, alpha float64) ([]float32, error) {
	if len(absmaxX) != len(absmaxW) {
		return nil, fmt.Errorf("calib: %d channels of activations, %d of weights", len(absmaxX), len(absmaxW))
	}
	if !(alpha >= 0 && alpha <= 1) {
		return nil, fmt.Errorf("calib: migration strength %v: must be from 0 (leave the activations alone) to 1 (usual: 0.5)", alpha)
	}
	s := make([]float32, len(absmaxX))
	for j := range s {
		x, w := float64(absmaxX[j]), float64(absmaxW[j])
		if !(x >= 0 && w >= 0) || math.IsInf(x+w, 0) {
			return nil, fmt.Errorf("calib: channel %d: magnitudes %v and %v are not usable", j, x, w)
		}
		s[j] = 1
		if x > 0 && w > 0 {
			s[j] = float32(math.Max(math.Pow(math.Max(x, minFactor), alpha)/math.Pow(math.Max(w, minFactor), 1-alpha), minFactor))
		}
	}
	return s, nil
}

// DivideOutputs divides what makes channel j by s[j]: row j of a preceding linear layer's weight (or element j of a norm's scale, as a
// matrix of one column), and element j of each bias. Together with ScaleColumns(s) of every weight that reads the channels the function
// of the network stays what it was.
func DivideOutputs(producer Matrix, s []float32, biases ...[]float32) error {
	if producer.Rows != len(s) {
		return fmt.Errorf("calib: %d factors for %d outputs", len(s), producer.Rows)
	}
	for _, b := range biases {
		if len(b) != len(s) {
			return fmt.Errorf("calib: %d factors for a bias of %d", len(s), len(b))
		}
	}
	for j, f := range s {
		if f == 0 || f-f != 0 {
			return fmt.Errorf("calib: factor %d is %v: nothing can be divided by it", j, f)
		}
	}
	for j, f := range s {
		row := producer.Row(j)
		for i := range row {
			row[i] /= f
		}
		for _, b := range biases {
			b[j] /= f
		}
	}
	return nil
}

// SmoothSearch tries migration strengths for weights that read the samples x and returns the one whose quantized outputs are closest to
// the exact ones, with its factors and its share of wrong energy. x and w say how activations and weights are quantized; alphas nil
// stands for 0, 0.05, ..., 1.
func SmoothSearch(samples Matrix, absmaxX []float32, weights []Matrix, alphas []float64, x, w RoundTrip, par Parallel) (Scales, error) {
	if err := checkSamples(samples, weights); err != nil {
		return Scales{}, err
	}
	if alphas == nil {
		alphas = ratios(0, 1, 20)
	}
	if len(alphas) == 0 {
		return Scales{}, errors.New("calib: no migration strengths to try (nil stands for 0, 0.05, ..., 1)")
	}
	absmaxW := jointAbsMax(weights)
	exact, err := outputs(samples, weights, par)
	if err != nil {
		return Scales{}, err
	}
	best := Scales{Error: math.Inf(1)}
	for _, alpha := range alphas {
		s, err := SmoothFactors(absmaxX, absmaxW, alpha)
		if err != nil {
			return Scales{}, err
		}
		e, err := scaledError(samples, weights, exact, s, x, w, par)
		if err != nil {
			return Scales{}, err
		}
		if e < best.Error {
			best = Scales{Factors: s, Ratio: alpha, Error: e}
		}
	}
	return best, best.check()
}

// Scales is the result of a search.
type Scales struct {
	Factors []float32 // of each channel: weights are multiplied by them, activations divided
	Ratio   float64   // the exponent that gave them
	Error   float64   // share of the outputs' energy that quantization gets wrong with them
	Plain   float64   // the same without scales; AWQ only
}

// check refuses a search in which no candidate gave a finite error.
func (s Scales) check() error {
	if s.Factors == nil {
		return errOverflow
	}
	return nil
}

var errOverflow = errors.New("calib: outputs on the samples overflow float32: find the layer that overflows before calibrating")

// scaledError quantizes weights times s, and samples divided by s (where x is given), and compares the outputs with the exact ones.
func scaledError(samples Matrix, weights, exact []Matrix, s []float32, x, w RoundTrip, par Parallel) (float64, error) {
	in := samples.Clone()
	inverse := make([]float32, len(s))
	for j, f := range s {
		inverse[j] = 1 / f
	}
	if err := in.ScaleColumns(inverse); err != nil {
		return 0, err
	}
	if x != nil {
		var err error
		if in, err = x(in); err != nil {
			return 0, err
		}
	}
	wrong, whole := 0.0, 0.0
	for i, weight := range weights {
		scaled := weight.Clone()
		if err := scaled.ScaleColumns(s); err != nil {
			return 0, err
		}
		q, err := w(scaled)
		if err != nil {
			return 0, err
		}
		wrong += distance(product(in, q, par).Data, exact[i].Data)
		whole += energy(exact[i].Data)
	}
	return share(wrong, whole), nil
}

// outputs are the exact outputs of the weights on the samples.
func outputs(samples Matrix, weights []Matrix, par Parallel) ([]Matrix, error) {
	out := make([]Matrix, len(weights))
	for i, w := range weights {
		out[i] = product(samples, w, par)
		if firstNonFinite(out[i].Data) >= 0 {
			return nil, errOverflow
		}
	}
	return out, nil
}

func jointAbsMax(weights []Matrix) []float32 {
	var out []float32
	for _, w := range weights {
		m := w.ColumnAbsMax()
		if out == nil {
			out = m
			continue
		}
		for j, v := range m {
			out[j] = max(out[j], v)
		}
	}
	return out
}

func checkSamples(samples Matrix, weights []Matrix) error {
	if samples.Rows == 0 {
		return ErrNoData
	}
	if err := samples.check("samples"); err != nil {
		return err
	}
	if len(weights) == 0 {
		return fmt.Errorf("calib: no weights to scale")
	}
	for _, w := range weights {
		if err := w.check("weight"); err != nil {
			return err
		}
		if w.Cols != samples.Cols {
			return fmt.Errorf("calib: a weight has %d columns, the samples %d", w.Cols, samples.Cols)
		}
	}
	return nil
}

// ratios are n+1 evenly spaced numbers from lo to hi.
func ratios(lo, hi float64, n int) []float64 {
	out := make([]float64, n+1)
	for i := range out {
		out[i] = lo + (hi-lo)*float64(i)/float64(n)
	}
	return out
}

// PerToken is dynamic quantization of activations: each row is placed on its own grid when it comes. On a symmetric grid of 8 bits it is
// LLM.int8()'s row quantization, byte for byte (quant.QuantizeRows).
func PerToken(grid Affine) RoundTrip {
	return func(m Matrix) (Matrix, error) {
		if err := grid.check(); err != nil {
			return m, err
		}
		if grid == (Affine{8, true}) {
			codes, stats := make([]int8, len(m.Data)), make([]float32, m.Rows)
			if _, err := quant.QuantizeRows(codes, stats, m.Data, m.Rows, m.Cols, 0); err != nil {
				return m, err
			}
			return m, quant.DequantizeRows(m.Data, codes, stats, m.Rows, m.Cols)
		}
		for t := range m.Rows {
			grid.roundAll(m.Row(t))
		}
		return m, nil
	}
}

// ByFormat quantizes weights in a format and dequantizes them to float32.
func ByFormat(f quant.Format, par Parallel) RoundTrip {
	return func(m Matrix) (Matrix, error) {
		st, err := f.Quantize(m.Source(tensor.F32), quant.Options{Parallel: par})
		if err != nil {
			return m, err
		}
		return m, quant.DequantizeRange(st, m.Data, 0, len(m.Data))
	}
}
