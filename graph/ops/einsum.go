package ops

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Einsum computes a sum of products by Einstein's convention, as numpy.einsum does: "bik,bkj->bij" is a batched matrix product.
// Each operand has one letter an axis; "..." stands for further axes, aligned at the end and broadcast. A letter twice in one
// operand takes the diagonal. Letters that the output lacks are summed over. Without "->" the output has the axes of "...",
// then the letters that occur once, in alphabetical order. Letters and ellipses with extent 1 broadcast.
//
// It is lowered to transpositions, matrix products and sums: two operands at a time, the cheapest pair first. Letters of one
// operand only are summed before they are multiplied.
func Einsum(spec string, xs ...Value) Value {
	if len(xs) == 0 {
		return Value{}
	}
	for _, x := range xs {
		if !x.Valid() {
			return absorbAny(xs...)
		}
		if x.DType() != xs[0].DType() {
			return fail("einsum", xs[0], "dtypes differ: %v and %v; cast one of them", xs[0].DType(), x.DType())
		}
	}
	e := &einsum{size: map[label]int{}}
	if err := e.parse(spec, xs); err != nil {
		return fail("einsum", xs[0], "%q: %w", spec, err)
	}
	return e.contract()
}

// label names an axis: a letter, or a negative number for the axes of an ellipsis, -1 the last.
type label rune

// term is a value with a label for each of its axes.
type term struct {
	v    Value
	axes []label
}

func (t term) has(l label) bool { return slices.Contains(t.axes, l) }

type einsum struct {
	terms []term
	out   []label
	size  map[label]int
}

// parse reads the specification, takes diagonals and drops axes that are broadcast.
func (e *einsum) parse(spec string, xs []Value) error {
	spec = strings.ReplaceAll(spec, " ", "")
	left, right, explicit := strings.Cut(spec, "->")
	parts := strings.Split(left, ",")
	if len(parts) != len(xs) {
		return fmt.Errorf("%d operands are named, %d given", len(parts), len(xs))
	}
	ellipsis, count := 0, map[label]int{}
	for i, p := range parts {
		axes, extra, err := labels(p, xs[i].Rank())
		if err != nil {
			return fmt.Errorf("operand %d: %w", i, err)
		}
		ellipsis = max(ellipsis, extra)
		for j, l := range axes {
			count[l]++
			n := xs[i].Dim(j)
			switch have, ok := e.size[l]; {
			case !ok || have == 1:
				e.size[l] = n
			case n != have && n != 1:
				return fmt.Errorf("axis %v has extents %d and %d", l, have, n)
			}
		}
		e.terms = append(e.terms, term{xs[i], axes})
	}
	for i := range e.terms {
		e.terms[i] = e.simplify(e.terms[i])
	}
	if !explicit {
		e.out = implicit(count)
		return nil
	}
	return e.output(right, ellipsis)
}

// labels reads the letters of one operand of the given rank; extra is how many axes its ellipsis stands for.
func labels(s string, rank int) (axes []label, extra int, err error) {
	head, tail, dots := strings.Cut(s, "...")
	letters := len(head) + len(tail)
	if letters > rank || !dots && letters != rank {
		return nil, 0, fmt.Errorf("%q names %d axes of %d", s, letters, rank)
	}
	for _, r := range head {
		axes = append(axes, label(r))
	}
	extra = rank - letters
	for i := range extra {
		axes = append(axes, label(i-extra))
	}
	for _, r := range tail {
		axes = append(axes, label(r))
	}
	for _, l := range axes {
		if l >= 0 && !(l >= 'a' && l <= 'z' || l >= 'A' && l <= 'Z') {
			return nil, 0, fmt.Errorf("%q is not a letter", rune(l))
		}
	}
	return axes, extra, nil
}

func (l label) String() string {
	if l < 0 {
		return "..."
	}
	return string(rune(l))
}

// implicit is the output where none is written.
func implicit(count map[label]int) []label {
	var out []label
	for l, n := range count {
		if l < 0 || n == 1 {
			out = append(out, l)
		}
	}
	slices.Sort(out) // the ellipsis is negative, so it comes first
	return out
}

func (e *einsum) output(s string, ellipsis int) error {
	rank := len(s)
	if strings.Contains(s, "...") {
		rank += ellipsis - 3
	}
	out, _, err := labels(s, rank)
	if err != nil {
		return fmt.Errorf("output: %w", err)
	}
	for i, l := range out {
		if _, ok := e.size[l]; !ok {
			return fmt.Errorf("output axis %v is in no operand", l)
		}
		if slices.Contains(out[:i], l) {
			return fmt.Errorf("output axis %v occurs twice", l)
		}
	}
	e.out = out
	return nil
}

// simplify takes the diagonal of letters that occur twice in a term and drops axes of extent 1 that others are broadcast against.
func (e *einsum) simplify(t term) term {
	for i := 0; i < len(t.axes); i++ {
		l := t.axes[i]
		if t.v.Dim(i) == 1 && e.size[l] != 1 {
			dims := t.v.Shape().Dims()
			t = term{Reshape(t.v, slices.Delete(dims, i, i+1)...), slices.Delete(slices.Clone(t.axes), i, i+1)}
			i--
			continue
		}
		if j := slices.Index(t.axes[:i], l); j >= 0 {
			rest := slices.Delete(slices.Delete(slices.Clone(t.axes), i, i+1), j, j+1)
			t = term{Diagonal(t.v, j, i), append(rest, l)}
			i = -1
		}
	}
	return t
}

// contract multiplies pairs of terms, the cheapest first, until one is left.
func (e *einsum) contract() Value {
	for i := range e.terms {
		e.terms[i] = e.sumAlone(i)
	}
	for len(e.terms) > 1 {
		i, j := e.cheapest()
		t := e.multiply(e.terms[i], e.terms[j], i, j)
		e.terms = slices.Delete(slices.Delete(e.terms, j, j+1), i, i+1)
		e.terms = append(e.terms, t)
		if !t.v.Valid() {
			return t.v
		}
	}
	t := e.sumAlone(0)
	return arrange(t, e.out)
}

// needed reports whether an axis occurs in the output or in a term other than those at i and j.
func (e *einsum) needed(l label, i, j int) bool {
	if slices.Contains(e.out, l) {
		return true
	}
	for k, t := range e.terms {
		if k != i && k != j && t.has(l) {
			return true
		}
	}
	return false
}

// sumAlone adds up the axes that only term i has.
func (e *einsum) sumAlone(i int) term {
	t := e.terms[i]
	var kept []label
	var axes []int
	for k, l := range t.axes {
		if e.needed(l, i, i) {
			kept = append(kept, l)
		} else {
			axes = append(axes, k)
		}
	}
	if len(axes) == 0 {
		return t
	}
	return term{Sum(t.v, axes...), kept}
}

// cheapest is the pair with the fewest multiplications, of equal ones that with the smallest result.
func (e *einsum) cheapest() (a, b int) {
	best, least := -1.0, 0.0
	for i := range e.terms {
		for j := i + 1; j < len(e.terms); j++ {
			work, result := 1.0, 1.0
			for l, n := range e.size {
				if e.terms[i].has(l) || e.terms[j].has(l) {
					work *= float64(n)
					if e.needed(l, i, j) {
						result *= float64(n)
					}
				}
			}
			if best < 0 || work < best || work == best && result < least {
				a, b, best, least = i, j, work, result
			}
		}
	}
	return a, b
}

// multiply contracts two terms over the axes that both have and nothing else needs.
func (e *einsum) multiply(x, y term, i, j int) term {
	var batch, inner, left, right []label
	for _, l := range x.axes {
		switch {
		case !y.has(l):
			left = append(left, l)
		case e.needed(l, i, j):
			batch = append(batch, l)
		default:
			inner = append(inner, l)
		}
	}
	for _, l := range y.axes {
		if !x.has(l) {
			right = append(right, l)
		}
	}
	out := slices.Concat(batch, left, right)
	if len(inner) == 0 || !x.v.DType().IsFloat() {
		return e.spread(x, y, out, inner)
	}
	b, m, k, n := e.extents(batch), e.extent(left), e.extent(inner), e.extent(right)
	op := MatMul{}
	// an operand that lies the other way round is transposed by the product itself
	if op.TransA = slices.Equal(x.axes, slices.Concat(batch, inner, left)) && len(left) > 0; !op.TransA {
		x.v = Reshape(arrange(x, slices.Concat(batch, left, inner)), append(b, m, k)...)
	} else {
		x.v = Reshape(x.v, append(b, k, m)...)
	}
	if op.TransB = slices.Equal(y.axes, slices.Concat(batch, right, inner)); !op.TransB {
		y.v = Reshape(arrange(y, slices.Concat(batch, inner, right)), append(b, k, n)...)
	} else {
		y.v = Reshape(y.v, append(b, n, k)...)
	}
	return term{Reshape(one(op, x.v, y.v), e.extents(out)...), out}
}

// spread multiplies elementwise over all axes, then sums: where there is nothing to sum, and for integers.
func (e *einsum) spread(x, y term, out, inner []label) term {
	all := slices.Concat(out, inner)
	if len(all) > tensor.MaxRank {
		return term{fail("einsum", x.v, "a product has %d axes, at most %d", len(all), tensor.MaxRank), out}
	}
	v := Mul(e.widen(x, all), e.widen(y, all))
	if len(inner) > 0 {
		axes := make([]int, len(inner))
		for i := range axes {
			axes[i] = len(out) + i
		}
		v = Sum(v, axes...)
	}
	return term{v, out}
}

// widen orders a term's axes as all has them, with extent 1 for those it lacks.
func (e *einsum) widen(t term, all []label) Value {
	var order []label
	dims := make([]int, len(all))
	for i, l := range all {
		dims[i] = 1
		if t.has(l) {
			order = append(order, l)
			dims[i] = e.size[l]
		}
	}
	return Reshape(arrange(t, order), dims...)
}

func (e *einsum) extent(ls []label) int {
	n := 1
	for _, l := range ls {
		n *= e.size[l]
	}
	return n
}

func (e *einsum) extents(ls []label) []int {
	dims := make([]int, len(ls), len(ls)+2)
	for i, l := range ls {
		dims[i] = e.size[l]
	}
	return dims
}

// arrange transposes a term to an order of its axes.
func arrange(t term, order []label) Value {
	perm := make([]int, len(order))
	for i, l := range order {
		perm[i] = slices.Index(t.axes, l)
	}
	if len(perm) == 0 {
		return t.v
	}
	return Transpose(t.v, perm...)
}
