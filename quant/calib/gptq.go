package calib

import (
	"fmt"
	"math"
	"slices"
)

// Defaults of GPTQ.
const (
	DefaultDamping   = 0.01 // share of the mean diagonal of H
	DefaultBlockCols = 128  // columns between two lazy updates of the rest
)

// maxDampings bounds how often damping is raised tenfold before H is given up.
const maxDampings = 12

// Groups says which elements of a weight share parameters. The zero value is one group for each row.
type Groups struct {
	// Size is the number of neighbours along a row that share parameters; 0 = the whole row. The last group of a row may be short.
	Size int
	// Flat cuts the groups from the flat row-major order instead, as blockwise formats do: they may span rows.
	Flat bool
}

// count returns the number of groups of a rows x cols weight.
func (g Groups) count(rows, cols int) int {
	switch {
	case g.Flat && g.Size == 0:
		return 1
	case g.Flat:
		return (rows*cols + g.Size - 1) / g.Size
	}
	return rows * g.perRow(cols)
}

func (g Groups) perRow(cols int) int {
	if g.Size == 0 {
		return 1
	}
	return (cols + g.Size - 1) / g.Size
}

// of returns the group of element (r, c).
func (g Groups) of(r, c, cols int) int {
	switch {
	case g.Flat && g.Size == 0:
		return 0
	case g.Flat:
		return (r*cols + c) / g.Size
	case g.Size == 0:
		return r
	}
	return r*g.perRow(cols) + c/g.Size
}

// inRows reports whether no group holds elements of two rows.
func (g Groups) inRows(cols int) bool { return !g.Flat || g.Size > 0 && cols%g.Size == 0 }

// each calls f with the elements of every group, as bounds in the flat row-major order.
func (g Groups) each(rows, cols int, f func(group, lo, hi int)) {
	if g.Flat {
		size := g.Size
		if size == 0 {
			size = rows * cols
		}
		for i, lo := 0, 0; lo < rows*cols; i, lo = i+1, lo+size {
			f(i, lo, min(lo+size, rows*cols))
		}
		return
	}
	size := g.Size
	if size == 0 {
		size = cols
	}
	i := 0
	for r := range rows {
		for c := 0; c < cols; c += size {
			f(i, r*cols+c, r*cols+min(c+size, cols))
			i++
		}
	}
}

// GPTQOptions configures GPTQ. Grid is required.
type GPTQOptions struct {
	Grid   Grid
	Groups Groups
	// Params are the parameters of the groups, when they were chosen before (double quantization rounds scales, a clip search shrinks
	// them); nil: the grid is fitted.
	Params []Params
	// Static fits all groups to the weight as it came; else a group is fitted when its first column's turn comes, to what the errors
	// of the columns before have made of it. ActOrder, Params and groups that span rows imply it.
	Static bool
	// ActOrder takes columns in the order of falling diagonal of H, so that those which matter most are rounded while there are most
	// others to make up for it.
	ActOrder  bool
	Damping   float64 // share of the mean diagonal added to the diagonal; 0 = DefaultDamping
	BlockCols int     // 0 = DefaultBlockCols; changes speed only
	Parallel  Parallel
}

// GPTQResult is a quantized weight.
type GPTQResult struct {
	Codes   []uint8  // of each element, row-major, as the grid gives them
	Params  []Params // of each group
	Values  Matrix   // what the codes stand for
	Dead    int      // columns whose input was 0 in every sample: their codes are rounded to nearest and matter to no sample
	Damping float64  // share of the mean diagonal that was added; more than asked when H was singular
	Raised  int      // how often damping was raised tenfold because H was not positive definite with it
	Error   float64  // Σ (w-q)²/U² / 2: the error on the samples' outputs that the method accounts for, damping included
}

// Note says in words what was unusual, "" for nothing.
func (r *GPTQResult) Note() string {
	switch {
	case r.Raised > 0 && r.Dead > 0:
		return fmt.Sprintf("the Hessian is singular (%d dead columns): damped with %.3g of its mean diagonal", r.Dead, r.Damping)
	case r.Raised > 0:
		return fmt.Sprintf("the Hessian is singular: damped with %.3g of its mean diagonal", r.Damping)
	case r.Dead > 0:
		return fmt.Sprintf("%d dead columns (inputs always 0) rounded to nearest", r.Dead)
	}
	return ""
}

// GPTQ quantizes a weight (out, in) column by column, each time spreading the error over the columns that are still to come, so that
// the layer's output on the samples behind h changes least (Frantar et al. 2023, arXiv 2210.17323, algorithm 1). All arithmetic on
// the weight is float64. A Hessian that is not positive definite is damped more, and the result says so.
func GPTQ(w Matrix, h *Hessian, o GPTQOptions) (*GPTQResult, error) {
	if err := checkGPTQ(w, h, &o); err != nil {
		return nil, err
	}
	full, err := h.Matrix()
	if err != nil {
		return nil, err
	}
	s := &gptq{GPTQOptions: o, w: w, res: &GPTQResult{Codes: make([]uint8, len(w.Data)), Values: NewMatrix(w.Rows, w.Cols)}}
	s.order(full)
	if err := s.factor(full); err != nil {
		return nil, err
	}
	s.fitGroups()
	s.run()
	return s.res, nil
}

func checkGPTQ(w Matrix, h *Hessian, o *GPTQOptions) error {
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
	case o.Grid == nil:
		return fmt.Errorf("calib: GPTQ: no grid")
	case o.Groups.Size < 0:
		return fmt.Errorf("calib: groups of %d: must not be negative (0 = whole rows)", o.Groups.Size)
	case !(o.Damping > 0 && o.Damping < 1e6):
		return fmt.Errorf("calib: damping %v: must be above 0 (usual: %v)", o.Damping, DefaultDamping)
	case o.BlockCols < 0:
		return fmt.Errorf("calib: blocks of %d columns: must not be negative", o.BlockCols)
	}
	if n := o.Groups.count(w.Rows, w.Cols); o.Params != nil && len(o.Params) != n {
		return fmt.Errorf("calib: %d parameters for %d groups", len(o.Params), n)
	}
	return nil
}

// gptq is a run. Columns are in the order in which they are taken: column j is perm[j] of the weight.
type gptq struct {
	GPTQOptions
	w      Matrix
	perm   []int
	dead   []bool
	u      []float64 // upper Cholesky factor of the inverse of H, row-major
	groups []Params
	static bool
	res    *GPTQResult
}

// order chooses the order of the columns and marks dead ones.
func (s *gptq) order(h []float64) {
	n := s.w.Cols
	s.perm, s.dead = make([]int, n), make([]bool, n)
	for i := range n {
		s.perm[i] = i
		if s.dead[i] = h[i*n+i] == 0; s.dead[i] {
			s.res.Dead++
		}
	}
	if s.ActOrder {
		slices.SortStableFunc(s.perm, func(a, b int) int {
			switch x, y := h[a*n+a], h[b*n+b]; {
			case x > y:
				return -1
			case x < y:
				return 1
			}
			return 0
		})
	}
}

// factor computes u. With the order of rows and columns reversed, H = R·Rᵀ for an upper R comes from a plain Cholesky factorisation, and
// H⁻¹ = (R⁻¹)ᵀ·R⁻¹: so u is R⁻¹, without inverting H and factoring again.
func (s *gptq) factor(h []float64) error {
	n := s.w.Cols
	mean := 0.0
	for i := range n {
		mean += h[i*n+i] / float64(n)
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
				a[i*n+j] = h[pi*n+s.perm[n-1-j]]
			}
			if s.dead[pi] {
				a[i*n+i] = mean
			}
			a[i*n+i] += damping * mean
		}
		if cholesky(a, n, s.Parallel) {
			s.res.Damping = damping
			s.u = reversed(a, n)
			invertUpper(s.u, n, s.Parallel)
			return nil
		}
		s.res.Raised++
	}
	return fmt.Errorf("calib: the Hessian is not positive definite even with %.3g of its mean diagonal added", s.Damping*math.Pow(10, maxDampings))
}

// reversed turns lower L into the upper R[i,j] = L[n-1-i, n-1-j].
func reversed(l []float64, n int) []float64 {
	r := make([]float64, n*n)
	for i := range n {
		for j := i; j < n; j++ {
			r[i*n+j] = l[(n-1-i)*n+n-1-j]
		}
	}
	return r
}

// fitGroups fits what is fitted before the first column's turn.
func (s *gptq) fitGroups() {
	s.groups = make([]Params, s.Groups.count(s.w.Rows, s.w.Cols))
	s.res.Params = s.groups
	s.static = s.Static || s.ActOrder || s.Params != nil || !s.Groups.inRows(s.w.Cols)
	switch {
	case s.Params != nil:
		copy(s.groups, s.Params)
	case s.static:
		s.Groups.each(s.w.Rows, s.w.Cols, func(g, lo, hi int) { s.groups[g] = s.Grid.Fit(s.w.Data[lo:hi]) })
	}
}
