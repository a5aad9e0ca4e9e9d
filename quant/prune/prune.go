// Package prune chooses which weights to do without: by magnitude or by their effect on samples (Wanda), unstructured or N of every M,
// and stores what is left of N:M weights compressed. Matrices are (out, in), row-major; patterns run along a row.
//
// It is arithmetic on host memory. layers.Masked keeps a choice through training.
package prune

import (
	"fmt"
	"math"
	"slices"
)

// Mask says which elements of a matrix stay, row-major.
type Mask []bool

// Kept is the number of elements that stay.
func (m Mask) Kept() int {
	n := 0
	for _, keep := range m {
		if keep {
			n++
		}
	}
	return n
}

// Sparsity is the share of elements that go.
func (m Mask) Sparsity() float64 {
	if len(m) == 0 {
		return 0
	}
	return 1 - float64(m.Kept())/float64(len(m))
}

// Apply sets the elements of w that go to 0.
func (m Mask) Apply(w []float32) error {
	if len(m) != len(w) {
		return fmt.Errorf("prune: a mask of %d elements for %d weights", len(m), len(w))
	}
	for i, keep := range m {
		if !keep {
			w[i] = 0
		}
	}
	return nil
}

// Of returns the mask of the elements that are not 0.
func Of(w []float32) Mask {
	m := make(Mask, len(w))
	for i, v := range w {
		m[i] = v != 0
	}
	return m
}

// Magnitudes scores weights by |w|.
func Magnitudes(w []float32) []float32 {
	out := make([]float32, len(w))
	for i, v := range w {
		out[i] = float32(math.Abs(float64(v)))
	}
	return out
}

// Wanda scores weights by |w|·‖x_j‖ with the norm of their input over samples (Sun et al. 2023, arXiv 2306.11695, equation 1). They are
// to be compared within a row: ByRow or NM.
func Wanda(w, inputNorms []float32) ([]float32, error) {
	cols := len(inputNorms)
	if cols == 0 || len(w)%cols != 0 {
		return nil, fmt.Errorf("prune: %d input norms do not fit %d weights", cols, len(w))
	}
	for j, n := range inputNorms {
		if !(n >= 0) || math.IsInf(float64(n), 0) {
			return nil, fmt.Errorf("prune: the norm of input %d is %v", j, n)
		}
	}
	out := Magnitudes(w)
	for i := range out {
		out[i] *= inputNorms[i%cols]
	}
	return out, nil
}

// Unstructured drops the given share of the elements, those with the lowest scores (of equals, the later ones); it is rounded to the
// nearest whole number of elements.
func Unstructured(scores []float32, sparsity float64) (Mask, error) {
	masks, err := Global([][]float32{scores}, sparsity)
	if err != nil {
		return nil, err
	}
	return masks[0], nil
}

// ByRow drops the given share of each row.
func ByRow(scores []float32, cols int, sparsity float64) (Mask, error) {
	if cols < 1 || len(scores)%cols != 0 {
		return nil, fmt.Errorf("prune: %d scores do not fill rows of %d", len(scores), cols)
	}
	out := make(Mask, 0, len(scores))
	for at := 0; at < len(scores); at += cols {
		m, err := Unstructured(scores[at:at+cols], sparsity)
		if err != nil {
			return nil, err
		}
		out = append(out, m...)
	}
	return out, nil
}

// Global drops the given share of all tensors together, which leaves more of those with high scores.
func Global(scores [][]float32, sparsity float64) ([]Mask, error) {
	if !(sparsity >= 0 && sparsity <= 1) {
		return nil, fmt.Errorf("prune: sparsity %v: must be from 0 to 1", sparsity)
	}
	var all []float32
	for i, s := range scores {
		if err := checkScores(s); err != nil {
			return nil, fmt.Errorf("prune: tensor %d: %w", i, err)
		}
		all = append(all, s...)
	}
	drop := int(math.Round(sparsity * float64(len(all))))
	masks := make([]Mask, len(scores))
	if drop == 0 {
		for i, s := range scores {
			masks[i] = filled(len(s))
		}
		return masks, nil
	}
	slices.Sort(all)
	limit := all[drop-1]
	above, _ := slices.BinarySearchFunc(all, limit, func(v, limit float32) int {
		if v > limit {
			return 1
		}
		return -1
	})
	ties := above - drop // elements equal to the limit that stay
	for i, s := range scores {
		masks[i] = make(Mask, len(s))
		for j, v := range s {
			switch {
			case v > limit:
				masks[i][j] = true
			case v == limit && ties > 0:
				masks[i][j] = true
				ties--
			}
		}
	}
	return masks, nil
}

func filled(n int) Mask {
	m := make(Mask, n)
	for i := range m {
		m[i] = true
	}
	return m
}

func checkScores(s []float32) error {
	for i, v := range s {
		if v != v || math.IsInf(float64(v), 0) {
			return fmt.Errorf("score %d is %v: repair the weights first", i, v)
		}
	}
	return nil
}

// NM keeps the n elements with the highest scores (of equals, the earlier ones) of every m neighbours of a row: 2 of 4 is what sparse
// tensor cores multiply (Mishra et al. 2021, arXiv 2104.08378). A shorter group at the end of a row keeps n of what it has.
func NM(scores []float32, cols, n, m int) (Mask, error) {
	if err := checkNM(len(scores), cols, n, m); err != nil {
		return nil, err
	}
	if err := checkScores(scores); err != nil {
		return nil, fmt.Errorf("prune: %w", err)
	}
	out := make(Mask, len(scores))
	order := make([]int, 0, m)
	eachGroup(len(scores), cols, m, func(lo, hi int) {
		order = order[:0]
		for i := lo; i < hi; i++ {
			order = append(order, i)
		}
		slices.SortStableFunc(order, func(a, b int) int {
			switch {
			case scores[a] > scores[b]:
				return -1
			case scores[a] < scores[b]:
				return 1
			}
			return 0
		})
		for _, i := range order[:min(n, len(order))] {
			out[i] = true
		}
	})
	return out, nil
}

func checkNM(size, cols, n, m int) error {
	switch {
	case m < 2 || m > 256 || n < 1 || n >= m:
		return fmt.Errorf("prune: %d of %d: keep at least 1 and fewer than all of 2 to 256 neighbours (usual: 2 of 4)", n, m)
	case cols < 1 || size%cols != 0:
		return fmt.Errorf("prune: %d elements do not fill rows of %d", size, cols)
	}
	return nil
}

// eachGroup calls f with the bounds of every group of m neighbours in a row.
func eachGroup(size, cols, m int, f func(lo, hi int)) {
	for row := 0; row < size; row += cols {
		for lo := 0; lo < cols; lo += m {
			f(row+lo, row+min(lo+m, cols))
		}
	}
}

// CheckNM reports the first group of m neighbours in which more than n are not 0.
func CheckNM(w []float32, cols, n, m int) (err error) {
	if err := checkNM(len(w), cols, n, m); err != nil {
		return err
	}
	eachGroup(len(w), cols, m, func(lo, hi int) {
		if kept := Of(w[lo:hi]).Kept(); kept > n && err == nil {
			err = fmt.Errorf("prune: row %d has %d elements that are not 0 in columns %d to %d; at most %d of %d may be: prune it with NM first",
				lo/cols, kept, lo%cols, lo%cols+hi-lo-1, n, m)
		}
	})
	return err
}
