package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Tril keeps the elements of the matrices in the last two axes on and below diagonal k (0 the main one, positive above it) and
// sets the others to zero.
func Tril(x Value, k int) Value {
	return triangle("tril", x, func(i, j Value) Value { return LessEqual(j, AddScalar(i, float64(k))) })
}

// Triu keeps the elements on and above diagonal k and sets the others to zero.
func Triu(x Value, k int) Value {
	return triangle("triu", x, func(i, j Value) Value { return GreaterEqual(j, AddScalar(i, float64(k))) })
}

func triangle(name string, x Value, keep func(i, j Value) Value) Value {
	if !x.Valid() {
		return x
	}
	if x.Rank() < 2 {
		return fail(name, x, "needs a matrix, got rank %d", x.Rank())
	}
	i, j := gridIndex(x.Graph(), x.Dim(-2), x.Dim(-1))
	return Where(keep(i, j), x, Scalar(x, 0))
}

// gridIndex are the row and column numbers of an n by m matrix, as (n, 1) and (1, m).
func gridIndex(g *graph.Graph, n, m int) (i, j Value) {
	return Iota(g, tensor.T(tensor.I64, n, 1), 0), Iota(g, tensor.T(tensor.I64, 1, m), 1)
}

// Eye returns an n by m matrix with ones on diagonal k and zeros elsewhere.
func Eye(g *graph.Graph, d tensor.DType, n, m, k int) Value {
	if n < 0 || m < 0 {
		return g.Fail("eye", nil, fmt.Errorf("%d by %d is no shape", n, m))
	}
	i, j := gridIndex(g, n, m)
	return Cast(Equal(j, AddScalar(i, float64(k))), d)
}

// Flip reverses x along the axes.
func Flip(x Value, axes ...int) Value {
	for _, axis := range axes {
		a, ok := axisOf("flip", x, axis)
		if !ok {
			return absorb(x)
		}
		n := x.Dim(a)
		last := Fill(x.Graph(), tensor.I64, float64(n-1))
		x = Gather(x, a, Sub(last, Iota(x.Graph(), tensor.T(tensor.I64, n), 0)))
	}
	return x
}

// Diagonal takes the elements whose indices on axes a and b are equal: both axes are dropped, and one of the smaller extent is
// added at the end.
func Diagonal(x Value, a, b int) Value {
	i, ok := axisOf("diagonal", x, a)
	if !ok {
		return absorb(x)
	}
	j, ok := axisOf("diagonal", x, b)
	if !ok {
		return absorb(x)
	}
	if i == j {
		return fail("diagonal", x, "needs two axes, got %d twice", a)
	}
	var perm []int
	for k := range x.Rank() {
		if k != i && k != j {
			perm = append(perm, k)
		}
	}
	n, m := x.Dim(i), x.Dim(j)
	t := Transpose(x, append(perm, i, j)...)
	flat := Reshape(t, append(t.Shape().Dims()[:len(perm):len(perm)], n*m)...)
	idx := Scale(Iota(x.Graph(), tensor.T(tensor.I64, min(n, m)), 0), float64(m+1))
	return Gather(flat, -1, idx)
}
