package calib

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Defaults of GPTQ.
const (
	DefaultDamping   = 0.01 // share of the mean diagonal of H
	DefaultBlockCols = 128  // columns between two lazy updates of the rest
)

// maxDampings bounds how often damping is raised tenfold before H is given up.
const maxDampings = 12

// GPTQOptions configures GPTQ. The zero value is the usual choice.
type GPTQOptions struct {
	// Static keeps the scales that the format gives the weight as it came; else a block's scale is set when its first column's turn comes,
	// to what the errors of the columns before have made of it. ActOrder, double quantization and blocks that span rows imply Static.
	Static bool
	// LeastError takes the scales with which rounding to nearest has the least squared error (ClipLeastError) instead of those that cover
	// the extremes of each block. It implies Static.
	LeastError bool
	// ActOrder takes columns in the order of falling diagonal of H, so that those which matter most are rounded while there are most
	// others to make up for it.
	ActOrder bool
	// KeepZeros leaves weights that are exactly 0, as pruning made them, at 0: what would have moved them is moved on to the columns to
	// come, as in SparseGPT with a given mask (Frantar & Alistarh 2023, arXiv 2301.00774).
	KeepZeros bool
	Damping   float64 // share of the mean diagonal added to the diagonal; 0 = DefaultDamping
	BlockCols int     // columns between two lazy updates; 0 = DefaultBlockCols; changes speed only
	Parallel  Parallel
	// DType is the element type that the state remembers: F32, F16 or BF16; Invalid = F32.
	DType tensor.DType
}

// GPTQResult is a quantized weight.
type GPTQResult struct {
	State   *quant.State
	Values  Matrix  // what the state stands for, in float32
	Dead    int     // columns whose input was 0 in every sample: they are rounded to nearest, no sample tells
	Damping float64 // share of the mean diagonal that was added; more than asked when H was singular
	Samples int64   // behind the Hessian
	// Singular says that the Hessian cannot have full rank: fewer samples than columns that are not dead, or it had to be damped more than
	// asked.
	Singular bool
	Raised   int     // how often damping was raised tenfold because H was not positive definite with it
	Error    float64 // Σ (w-q)²/U² / 2: the error on the samples' outputs that the method accounts for, damping included
}

// Note says in words what was unusual, "" for nothing.
func (r *GPTQResult) Note() string {
	var why []string
	if live := r.Values.Cols - r.Dead; r.Samples < int64(live) {
		why = append(why, fmt.Sprintf("%d samples for %d inputs", r.Samples, live))
	}
	if r.Dead > 0 {
		why = append(why, fmt.Sprintf("%d dead columns", r.Dead))
	}
	switch {
	case r.Singular && len(why) > 0:
		return fmt.Sprintf("the Hessian is singular (%s): damped with %.3g of its mean diagonal", strings.Join(why, ", "), r.Damping)
	case r.Singular:
		return fmt.Sprintf("the Hessian is singular: damped with %.3g of its mean diagonal", r.Damping)
	case r.Dead > 0:
		return fmt.Sprintf("%d dead columns (inputs always 0) rounded to nearest", r.Dead)
	}
	return ""
}

// GPTQ quantizes a weight (out, in) in any format column by column, each time spreading the error over the columns that are still to
// come, so that the layer's output on the samples behind h changes least (Frantar et al. 2023, arXiv 2210.17323, algorithm 1). Scales
// are the format's, codes are its nearest ones; all other arithmetic on the weight is float64. A Hessian that is not positive definite
// is damped more, and the result says so.
func GPTQ(w Matrix, h *Hessian, f quant.Format, o GPTQOptions) (*GPTQResult, error) {
	if err := checkGPTQ(w, h, f, &o); err != nil {
		return nil, err
	}
	scaled, err := w, error(nil)
	if o.LeastError {
		if scaled, err = ClipLeastError(w, f, o.Parallel); err != nil {
			return nil, err
		}
	}
	st, err := f.Quantize(scaled.Source(o.DType), quant.Options{Parallel: o.Parallel})
	if err != nil {
		return nil, err
	}
	s := &gptq{GPTQOptions: o, w: w, codes: make([]uint8, len(w.Data)), res: &GPTQResult{State: st, Values: NewMatrix(w.Rows, w.Cols)}}
	if err := s.encoder(st); err != nil {
		return nil, err
	}
	s.order(h)
	if err := s.factor(h); err != nil {
		return nil, err
	}
	s.run()
	if err := st.Pack(s.codes, 0); err != nil {
		return nil, err
	}
	return s.res, st.Check() // weights that overflowed on the way would be in the scales
}

func checkGPTQ(w Matrix, h *Hessian, f quant.Format, o *GPTQOptions) error {
	if err := w.check("weight"); err != nil {
		return err
	}
	if o.Damping == 0 {
		o.Damping = DefaultDamping
	}
	if o.BlockCols == 0 {
		o.BlockCols = DefaultBlockCols
	}
	switch {
	case h == nil || h.Samples() == 0:
		return ErrNoData
	case h.Cols() != w.Cols:
		return fmt.Errorf("calib: the weight has %d columns, the Hessian %d: it belongs to another layer", w.Cols, h.Cols())
	case f == nil:
		return fmt.Errorf("calib: GPTQ: no format")
	case !(o.Damping > 0 && o.Damping < 1e6):
		return fmt.Errorf("calib: damping %v: must be above 0 (usual: %v)", o.Damping, DefaultDamping)
	case o.BlockCols < 0:
		return fmt.Errorf("calib: blocks of %d columns: must not be negative", o.BlockCols)
	}
	o.BlockCols = min(o.BlockCols, w.Cols)
	return nil
}

// gptq is a run. Columns are in the order in which they are taken: column j is perm[j] of the weight.
type gptq struct {
	GPTQOptions
	w     Matrix
	perm  []int
	dead  []bool
	u     []float64 // upper Cholesky factor of the inverse of H, row-major
	plain *quant.State
	enc   *quant.Encoder // of plain
	below []bool         // blocks whose scale was restored below 0; nil for none
	zero  uint8          // the code of 0, which these get
	codes []uint8
	res   *GPTQResult
}

// encoder makes the encoder that rounds to the values of st. Where its scales are quantized it works on a copy with the restored ones. A
// block whose scale was restored below 0 gets the code of 0, whose value does not depend on the scale.
func (s *gptq) encoder(st *quant.State) (err error) {
	s.plain = st
	inRows := st.ByRow || s.w.Cols%st.Blocksize == 0
	s.Static = s.Static || s.ActOrder || s.LeastError || st.Nested() || !inRows
	if st.Nested() {
		c := *st
		c.AbsmaxU8, c.NestedAbsmax, c.NestedMap, c.NestedOffset = nil, nil, nil, 0
		c.Absmax = make([]float32, st.Blocks())
		if err := st.Scales(c.Absmax, 0, len(c.Absmax)); err != nil {
			return err
		}
		for i, a := range c.Absmax {
			if a < 0 {
				if s.below == nil {
					s.below = make([]bool, len(c.Absmax))
				}
				c.Absmax[i], s.below[i] = 0, true
			}
		}
		s.plain = &c
	}
	if s.enc, err = s.plain.Encoder(); err != nil || s.below == nil {
		return err
	}
	// A scale of 0 says nothing about codes, 1 does.
	first := s.plain.Absmax[0]
	s.plain.Absmax[0] = 1
	s.zero = s.enc.Code(0, 0)
	s.plain.Absmax[0] = first
	return nil
}

// order chooses the order of the columns and marks dead ones.
func (s *gptq) order(h *Hessian) {
	n := s.w.Cols
	s.perm, s.dead = make([]int, n), make([]bool, n)
	for i := range n {
		s.perm[i] = i
		if s.dead[i] = h.at(i, i) == 0; s.dead[i] {
			s.res.Dead++
		}
	}
	if s.ActOrder {
		slices.SortStableFunc(s.perm, func(a, b int) int { return cmp.Compare(h.at(b, b), h.at(a, a)) })
	}
}

// factor computes u. With the order of rows and columns reversed, H = R·Rᵀ for an upper R comes from a plain Cholesky factorisation, and
// H⁻¹ = (R⁻¹)ᵀ·R⁻¹: so u is R⁻¹, without inverting H and factoring again.
func (s *gptq) factor(h *Hessian) error {
	n := s.w.Cols
	mean := 0.0
	for i := range n {
		mean += h.at(i, i) / float64(n)
	}
	if mean == 0 {
		mean = 1 // every column is dead: H is 0 and any damping makes it a multiple of the identity
	}
	if math.IsInf(mean, 0) || mean != mean {
		return fmt.Errorf("calib: the Hessian overflows: the activations are too large to calibrate with")
	}
	a := make([]float64, n*n)
	for damping := s.Damping; s.res.Raised <= maxDampings; damping *= 10 {
		for i := range n {
			pi := s.perm[n-1-i]
			for j := range i + 1 {
				a[i*n+j] = h.at(pi, s.perm[n-1-j])
			}
			if s.dead[pi] {
				a[i*n+i] = mean
			}
			a[i*n+i] += damping * mean
		}
		if cholesky(a, n, s.Parallel) {
			s.res.Damping, s.res.Samples = damping, h.Samples()
			s.res.Singular = s.res.Raised > 0 || h.Samples() < int64(n-s.res.Dead)
			slices.Reverse(a) // which is R: element (i, j) of a matrix is element (n-1-i, n-1-j) of its reversed storage
			s.u = invertUpper(a, n, s.Parallel)
			return nil
		}
		s.res.Raised++
	}
	return fmt.Errorf("calib: the Hessian is not positive definite even with %.3g of its mean diagonal added", s.Damping*math.Pow(10, maxDampings))
}
