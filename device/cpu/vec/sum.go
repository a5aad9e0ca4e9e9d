package vec

import "math"

// sumLanes is how many float64 sums a row is added up in: element i goes to sum i modulo sumLanes, and the sums are folded in halves.
// The order is the same in Go and in assembly, so the bits are.
const sumLanes = 32

// sums are the assembly loops of rows that give one number.
type sums struct {
	sum          func(n int, x *float32) float64
	products     func(n int, x, y *float32) float64
	squares      func(n int, x *float32, m float32) float64
	rounded      func(n int, x, y *float32) float64
	normal       func(n int, x, g *float32, m, r float32) float64
	weighted     func(n int, x, g, w *float32, m, r float32) float64
	peak         func(n int, x *float32) float32
	highest, low func(n int, x *float32) float32
}

// Sum is Σ x in float64. Sums of this package have the same bits at every level.
func Sum(x []float32) float64 { return fast.sum(x) }

// SumProducts is Σ x·y in float64. Operands of the sums must not be shorter than x.
func SumProducts(x, y []float32) float64 { return fast.sumProducts(x, y) }

// SumSquares is Σ (x-m)² in float64.
func SumSquares(x []float32, m float32) float64 { return fast.sumSquares(x, m) }

// SumRounded is Σ x·y with products rounded to float32, added in float64.
func SumRounded(x, y []float32) float64 { return fast.sumRounded(x, y) }

// SumNormal is Σ g·w·((x-m)·r) with terms in float32, added in float64; a nil w counts as ones.
func SumNormal(x, g, w []float32, m, r float32) float64 { return fast.sumNormal(x, g, w, m, r) }

// Peak is the largest element that is a number, -Inf if there is none.
func Peak(x []float32) float32 { return fast.peakOf(x) }

// Highest is the largest element, NaN if any is, -Inf of none.
func Highest(x []float32) float32 { return fast.highestOf(x) }

// Lowest is the smallest element, NaN if any is, Inf of none.
func Lowest(x []float32) float32 { return fast.lowestOf(x) }

func (l *loops) sum(x []float32) float64 {
	if n := len(x); n > 0 && l.sums.sum != nil {
		return l.sums.sum(n, &x[0])
	}
	return addLanes(len(x), func(i int) float64 { return float64(x[i]) })
}

func (l *loops) sumProducts(x, y []float32) float64 {
	y = y[:len(x)]
	if n := len(x); n > 0 && l.sums.products != nil {
		return l.sums.products(n, &x[0], &y[0])
	}
	return addLanes(len(x), func(i int) float64 { return float64(x[i]) * float64(y[i]) }) // exact products: fusing changes nothing
}

func (l *loops) sumSquares(x []float32, m float32) float64 {
	if n := len(x); n > 0 && l.sums.squares != nil {
		return l.sums.squares(n, &x[0], m)
	}
	return addLanes(len(x), func(i int) float64 {
		u := float64(x[i]) - float64(m)
		return float64(u * u)
	})
}

func (l *loops) sumRounded(x, y []float32) float64 {
	y = y[:len(x)]
	if n := len(x); n > 0 && l.sums.rounded != nil {
		return l.sums.rounded(n, &x[0], &y[0])
	}
	return addLanes(len(x), func(i int) float64 { return float64(float32(x[i] * y[i])) })
}

func (l *loops) sumNormal(x, g, w []float32, m, r float32) float64 {
	g = g[:len(x)]
	if w != nil {
		w = w[:len(x)]
	}
	switch n := len(x); {
	case n > 0 && w == nil && l.sums.normal != nil:
		return l.sums.normal(n, &x[0], &g[0], m, r)
	case n > 0 && w != nil && l.sums.weighted != nil:
		return l.sums.weighted(n, &x[0], &g[0], &w[0], m, r)
	}
	return addLanes(len(x), func(i int) float64 {
		u := g[i]
		if w != nil {
			u = float32(u * w[i])
		}
		return float64(float32(u * float32((x[i]-m)*r)))
	})
}

// addLanes adds n terms in the order of the assembly.
func addLanes(n int, term func(i int) float64) float64 {
	var lanes [sumLanes]float64
	for i := range n {
		lanes[i%sumLanes] += term(i)
	}
	for half := sumLanes / 2; half > 0; half /= 2 {
		for i := range half {
			lanes[i] += lanes[i+half]
		}
	}
	return lanes[0]
}

func (l *loops) peakOf(x []float32) float32 {
	if n := len(x); n > 0 && l.sums.peak != nil {
		return l.sums.peak(n, &x[0])
	}
	m := float32(math.Inf(-1))
	for _, v := range x {
		if v > m {
			m = v
		}
	}
	return m
}

func (l *loops) highestOf(x []float32) float32 {
	if n := len(x); n > 0 && l.sums.highest != nil {
		return l.sums.highest(n, &x[0])
	}
	m := float32(math.Inf(-1))
	for _, v := range x {
		m = max(m, v)
	}
	return m
}

func (l *loops) lowestOf(x []float32) float32 {
	if n := len(x); n > 0 && l.sums.low != nil {
		return l.sums.low(n, &x[0])
	}
	m := float32(math.Inf(1))
	for _, v := range x {
		m = min(m, v)
	}
	return m
}
