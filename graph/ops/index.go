package ops

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// flatIndex turns positions along an axis into positions in the flattened tensor of shape s: idx has s's rank, and element
// (i, j, k) of it means (i, idx, k) for axis 1. Positions outside become -1. It counts in i64 where i32 would not reach.
func flatIndex(idx Value, s tensor.Shape, axis int) Value {
	d := tensor.I32
	if s.Size() > math.MaxInt32 {
		d = tensor.I64
	}
	st, g := s.Strides(), idx.Graph()
	in := And(GreaterEqual(idx, Scalar(idx, 0)), Less(idx, Scalar(idx, float64(s.Dim(axis)))))
	at := Scale(Cast(idx, d), float64(st[axis]))
	for i := range s.Rank() {
		if i == axis || idx.Dim(i) == 1 {
			continue
		}
		dims := make([]int, s.Rank())
		for j := range dims {
			dims[j] = 1
		}
		dims[i] = idx.Dim(i)
		at = Add(at, Scale(Iota(g, tensor.T(d, dims...), i), float64(st[i])))
	}
	return Where(in, at, Scalar(at, -1))
}

// alongAxis checks the arguments of an operation on elements along an axis: positions of x's rank, within x off the axis.
func alongAxis(name string, x Value, axis int, idx Value) (int, bool) {
	a, ok := axisOf(name, x, axis)
	if !ok || !idx.Valid() {
		return 0, false
	}
	if err := indices(idx.Type()); err != nil {
		fail(name, idx, "%w", err)
		return 0, false
	}
	fits := idx.Rank() == x.Rank()
	for i := 0; fits && i < x.Rank(); i++ {
		fits = i == a || idx.Dim(i) <= x.Dim(i)
	}
	if !fits {
		fail(name, x, "positions %v do not fit %v: they need the same rank and must not be larger off axis %d", idx.Shape(), x.Shape(), a)
	}
	return a, fits
}

// GatherElements picks x[i, idx[i,j], ...] along an axis, for idx of x's rank (torch.gather): the result has idx's shape. An
// index outside gives zero.
func GatherElements(x Value, axis int, idx Value) Value {
	a, ok := alongAxis("gather_elements", x, axis, idx)
	if !ok {
		return absorbAny(x, idx)
	}
	return Gather(Reshape(x, x.Type().Size()), 0, flatIndex(idx, x.Shape(), a))
}

// absorbAny returns a poisoned value for a bad call that has been recorded, or passes an absent first argument on.
func absorbAny(vs ...Value) Value {
	for _, v := range vs {
		if v.Absent() || !v.Valid() {
			return v
		}
	}
	return absorb(vs[0])
}

// ScatterElements returns x with u[i,j,...] put at x[i, idx[i,j], ...] along an axis (torch.scatter): replaced, or combined by
// how. idx and u have one shape. Elements with an index outside are dropped.
func ScatterElements(x Value, axis int, idx, u Value, how ScatterKind) Value {
	a, ok := alongAxis("scatter_elements", x, axis, idx)
	if !ok {
		return absorbAny(x, idx)
	}
	if u.Valid() && u.Shape() != idx.Shape() {
		return fail("scatter_elements", x, "updates %v and positions %v differ in shape", u.Shape(), idx.Shape())
	}
	flat := Reshape(flatIndex(idx, x.Shape(), a), idx.Type().Size())
	y := one(ScatterRows{how}, Reshape(x, x.Type().Size()), flat, Reshape(u, u.Type().Size()))
	return Reshape(y, x.Shape().Dims()...)
}

// GatherND picks slices of x by tuples of indices: idx is (..., r), and the result idx's shape without r, then x's shape without
// its first r axes. The first batch axes of both are walked together. An index outside gives zeros.
func GatherND(x, idx Value, batch int) Value {
	flat, lead, ok := tupleIndex("gather_nd", x, idx, batch)
	if !ok {
		return absorbAny(x, idx)
	}
	y := Gather(Reshape(x, lead...), 0, flat)
	return Reshape(y, append(idx.Shape().Dims()[:idx.Rank()-1], x.Shape().Dims()[batch+idx.Dim(-1):]...)...)
}

// ScatterND returns x with the slices u put at tuples of indices: idx is (..., r), u idx's shape without r followed by x's shape
// without its first r axes. Slices with an index outside are dropped.
func ScatterND(x, idx, u Value, how ScatterKind) Value {
	flat, lead, ok := tupleIndex("scatter_nd", x, idx, 0)
	if !ok {
		return absorbAny(x, idx)
	}
	want := tensor.S(append(idx.Shape().Dims()[:idx.Rank()-1], x.Shape().Dims()[idx.Dim(-1):]...)...)
	if u.Valid() && u.Shape() != want {
		return fail("scatter_nd", x, "updates are %v, need %v", u.Shape(), want)
	}
	m := flat.Type().Size()
	y := one(ScatterRows{how}, Reshape(x, lead...), Reshape(flat, m), Reshape(u, append([]int{m}, lead[1:]...)...))
	return Reshape(y, x.Shape().Dims()...)
}

// tupleIndex turns tuples of indices into row numbers of x reshaped to rows: (product of the indexed axes, the others...).
func tupleIndex(name string, x, idx Value, batch int) (flat Value, rows []int, ok bool) {
	if !x.Valid() || !idx.Valid() {
		return Value{}, nil, false
	}
	if err := indices(idx.Type()); err != nil {
		fail(name, idx, "%w", err)
		return Value{}, nil, false
	}
	r := idx.Dim(-1)
	if idx.Rank() == 0 || batch < 0 || batch >= idx.Rank() || batch+r > x.Rank() || !sameDims(x, idx, batch) {
		fail(name, x, "tuples %v with %d batch axes do not index %v", idx.Shape(), batch, x.Shape())
		return Value{}, nil, false
	}
	dims := x.Shape().Dims()
	indexed := tensor.S(dims[:batch+r]...)
	d := tensor.I32
	if indexed.Size() > math.MaxInt32 {
		d = tensor.I64
	}
	st, last := indexed.Strides(), idx.Rank()-1
	tuple := append([]int(nil), idx.Shape().Dims()[:last]...)
	flat = BroadcastTo(Fill(x.Graph(), d, 0), tuple...)
	good := BroadcastTo(Fill(x.Graph(), tensor.Bool, 1), tuple...)
	for i := range batch + r {
		var part Value
		if i < batch {
			shape := make([]int, last)
			for j := range shape {
				shape[j] = 1
			}
			shape[i] = dims[i]
			part = Iota(x.Graph(), tensor.T(d, shape...), i)
		} else {
			raw := Reshape(Slice(idx, last, i-batch, i-batch+1), tuple...)
			good = And(good, And(GreaterEqual(raw, Scalar(raw, 0)), Less(raw, Scalar(raw, float64(dims[i])))))
			part = Cast(raw, d)
		}
		flat = Add(flat, Scale(part, float64(st[i])))
	}
	return Where(good, flat, Scalar(flat, -1)), append([]int{indexed.Size()}, dims[batch+r:]...), true
}

func sameDims(x, y Value, n int) bool {
	for i := range n {
		if x.Dim(i) != y.Dim(i) {
			return false
		}
	}
	return true
}

// ScatterKind is how an update meets what lies at its place.
type ScatterKind uint8

// The kinds of scattering. Of several updates to one place ScatterSet keeps the last; the others combine all of them.
const (
	ScatterSet ScatterKind = iota
	ScatterSum
	ScatterProd
	ScatterMax
	ScatterMin
)

var scatterNames = [...]string{"set", "sum", "prod", "max", "min"}

// ScatterRows puts rows into a copy of x: with x (N, c...), i32 or i64 indices (m) and u (m, c...), row idx[k] of the result is
// combined with u[k], in order of k. Indices outside [0, N) are dropped. Half types are summed in float32.
type ScatterRows struct{ Kind ScatterKind }

var (
	_ graph.Differentiable = ScatterRows{}
	_ graph.Aliaser        = ScatterRows{}
)

// Name implements graph.Op.
func (o ScatterRows) Name() string {
	if int(o.Kind) >= len(scatterNames) {
		return "scatter"
	}
	return "scatter_" + scatterNames[o.Kind]
}

// Infer implements graph.Op.
func (o ScatterRows) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 3); err != nil {
		return nil, err
	}
	x, idx, u := in[0], in[1], in[2]
	if err := indices(idx); err != nil {
		return nil, err
	}
	if int(o.Kind) >= len(scatterNames) {
		return nil, fmt.Errorf("kind %d of scattering is unknown", o.Kind)
	}
	if o.Kind != ScatterSet && x.DType == tensor.Bool {
		return nil, fmt.Errorf("not defined on bool")
	}
	if x.Rank() == 0 || idx.Rank() != 1 || u.DType != x.DType || u.Rank() != x.Rank() || u.Dim(0) != idx.Dim(0) {
		return nil, fmt.Errorf("rows %v at positions %v do not fit %v", u, idx, x)
	}
	for i := range x.Rank() - 1 {
		if x.Dim(i+1) != u.Dim(i+1) {
			return nil, fmt.Errorf("rows of %v do not fit %v", u, x)
		}
	}
	return in[:1], nil
}

// Alias implements graph.Aliaser.
func (ScatterRows) Alias() []graph.AliasPair { return []graph.AliasPair{{Out: 0, In: 0}} }

// VJP implements graph.Differentiable. Ties of max and min share the gradient equally.
func (o ScatterRows) VJP(n *graph.Node, gy []Value, need []bool) []Value {
	x, idx, u, g := n.In[0], n.In[1], n.In[2], gy[0]
	var gx, gu func() Value
	at := func(v Value) Value { return Gather(v, 0, idx) }
	switch o.Kind {
	case ScatterSet:
		gx = func() Value { return one(ScatterRows{ScatterSet}, g, idx, ZerosLike(u)) }
		gu = func() Value { return Mul(at(g), lastAt(x, idx, u)) }
	case ScatterSum:
		gx = func() Value { return g }
		gu = func() Value { return at(g) }
	case ScatterProd:
		gx = func() Value { return Mul(g, one(ScatterRows{ScatterProd}, onesLike(x), idx, u)) }
		gu = func() Value { return Mul(at(g), otherFactors(x, idx, u)) }
	default:
		hit := func(v, y Value) Value { return Cast(Equal(v, y), x.DType()) }
		best := at(n.Output(0))
		count := one(ScatterRows{ScatterSum}, hit(x, n.Output(0)), idx, hit(u, best))
		gx = func() Value { return Mul(hit(x, n.Output(0)), Div(g, count)) }
		gu = func() Value { return Mul(hit(u, best), at(Div(g, count))) }
	}
	out := make([]Value, 3)
	if need[0] {
		out[0] = gx()
	}
	if need[2] {
		out[2] = gu()
	}
	return out
}

func onesLike(x Value) Value { return BroadcastTo(Scalar(x, 1), x.Shape().Dims()...) }

// lastAt is 1 for the updates that are the last at their place, 0 for those that are overwritten.
func lastAt(x, idx, u Value) Value {
	m := Iota(x.Graph(), tensor.T(tensor.I64, idx.Dim(0)), 0)
	none := BroadcastTo(Fill(x.Graph(), tensor.I64, -1), x.Dim(0))
	kept := Equal(Gather(one(ScatterRows{ScatterSet}, none, idx, m), 0, idx), m)
	dims := make([]int, u.Rank())
	for i := range dims {
		dims[i] = 1
	}
	dims[0] = idx.Dim(0)
	return Reshape(Cast(kept, u.DType()), dims...)
}

// otherFactors is, for each update, the product of all that is multiplied into its place but itself. Zeros are counted and
// left out of the products, so that nothing is divided by zero.
func otherFactors(x, idx, u Value) Value {
	zero := func(v Value) Value { return Cast(Equal(v, Scalar(v, 0)), v.DType()) }
	ones := func(v Value) Value { return Where(Equal(v, Scalar(v, 0)), Scalar(v, 1), v) }
	zeros := Gather(one(ScatterRows{ScatterSum}, zero(x), idx, zero(u)), 0, idx)
	prod := Gather(one(ScatterRows{ScatterProd}, ones(x), idx, ones(u)), 0, idx)
	rest := Sub(zeros, zero(u)) // zeros among the others
	return Where(Equal(rest, Scalar(rest, 0)), Div(prod, ones(u)), Scalar(prod, 0))
}
