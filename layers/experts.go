package layers

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Grouped is a linear map for each of some experts, over rows sorted by expert: a GroupedLinear, a GroupedQuantized, a LoRA adapter around
// either. Models hold them as fields of this type, so that adapters can take their place.
type Grouped interface {
	// Forward maps x (R, in) to (R, out) in x's dtype: rows offsets[e] to offsets[e+1]-1, for offsets i32 (experts+1), by the matrix of
	// expert e.
	Forward(x, offsets graph.Value) graph.Value
	// Features returns the number of experts and the sizes of the input and output axes.
	Features() (experts, in, out int)
}

// WeightedGrouped is a Grouped whose weight can be read and written on the host, as adapters do that fold into it. It is seen as (experts,
// out, in).
type WeightedGrouped interface {
	Grouped
	// ReadWeight returns the weight in float32, dequantized if it is quantized.
	ReadWeight(values Reader) (*tensor.Tensor, error)
	// WriteWeight stores a weight, rounded or quantized as the layer's is.
	WriteWeight(w *tensor.Tensor, values Values) error
	// StoredType is the element type of the weight, float32 for a quantized one.
	StoredType() tensor.DType
}

// GroupedLinear has one weight (experts, out, in).
type GroupedLinear struct {
	Weight *graph.Var `name:"."`
}

// Forward implements Grouped.
func (l *GroupedLinear) Forward(x, offsets graph.Value) graph.Value {
	if !x.Valid() {
		return x
	}
	return ops.GroupedLinear(x, x.Graph().Read(l.Weight), offsets)
}

// Features implements Grouped.
func (l *GroupedLinear) Features() (experts, in, out int) {
	s := l.Weight.Type.Shape
	return s.Dim(0), s.Dim(2), s.Dim(1)
}

// ReadWeight implements WeightedGrouped.
func (l *GroupedLinear) ReadWeight(values Reader) (*tensor.Tensor, error) {
	return readFloat32(l.Weight, values)
}

// WriteWeight implements WeightedGrouped.
func (l *GroupedLinear) WriteWeight(w *tensor.Tensor, values Values) error {
	return writeRounded(l.Weight, w, values)
}

// StoredType implements WeightedGrouped.
func (l *GroupedLinear) StoredType() tensor.DType { return l.Weight.Type.DType }

// ReadWeight implements WeightedGrouped.
func (l *GroupedQuantized) ReadWeight(values Reader) (*tensor.Tensor, error) {
	return l.Weight.Dequantized(values)
}

// WriteWeight implements WeightedGrouped.
func (l *GroupedQuantized) WriteWeight(w *tensor.Tensor, values Values) error {
	return l.Weight.Quantize(w, values)
}

// StoredType implements WeightedGrouped.
func (l *GroupedQuantized) StoredType() tensor.DType { return tensor.F32 }

// GroupedQuantized has one frozen weight (experts, out, in) in 4 bits or int8. Unlike Linear8bitLt it keeps x in floating point with int8
// weights too. Gradients flow to x only.
type GroupedQuantized struct {
	Weight *Quantized `name:"."`

	// Compute is the dtype of products with 4-bit weights, see Linear4bit.Compute.
	Compute tensor.DType
}

// Forward implements Grouped.
func (l *GroupedQuantized) Forward(x, offsets graph.Value) graph.Value {
	if !x.Valid() {
		return x
	}
	q, parts := l.Weight, l.Weight.read(x.Graph())
	if q == nil {
		return parts[0]
	}
	if q.Scheme == quant.Int8 {
		return ops.Int8GroupedLinear(x, offsets, parts[0], parts[1])
	}
	compute := l.Compute
	if compute == tensor.Invalid {
		compute = x.DType()
	}
	o := ops.QuantGroupedMatMul{Scheme: q.Scheme, Blocksize: q.Blocksize, Experts: q.Shape.Dim(0), N: q.Shape.Dim(1), K: q.Shape.Dim(2), Nested: q.Nested()}
	return ops.Cast(ops.QuantGroupedLinear(o, ops.Cast(x, compute), offsets, parts...), x.DType())
}

// Features implements Grouped.
func (l *GroupedQuantized) Features() (experts, in, out int) {
	s := l.Weight.Shape
	return s.Dim(0), s.Dim(2), s.Dim(1)
}

// Experts are gated MLPs side by side, down(act(gate(x)) · up(x)), with gate and up in one weight (experts, 2·hidden, dim), the rows of gate
// first, as transformers 5 holds them.
type Experts struct {
	GateUp Grouped    `name:"gate_up_proj"`
	Down   Grouped    `name:"down_proj"`
	Act    Activation // nil: SiLU
}

// Forward maps x (R, dim), sorted by expert, to the same shape.
func (e *Experts) Forward(x, offsets graph.Value) graph.Value {
	if !x.Valid() {
		return x
	}
	h := e.GateUp.Forward(x, offsets)
	if !h.Valid() {
		return h
	}
	_, _, rows := e.GateUp.Features()
	parts := ops.Split(h, -1, rows/2, rows/2)
	act := e.Act
	if act == nil {
		act = ops.SiLU
	}
	return e.Down.Forward(ops.Mul(act(parts[0]), parts[1]), offsets)
}

// MoE is a mixture of experts (Shazeer et al. 2017): a router sends every token to TopK of the experts, and the results are added with the
// router's probabilities. Nothing is dropped, whatever the load. Probabilities and weights are float32.
type MoE struct {
	Gate    Projection `name:"gate"` // (experts, dim): the router
	Experts *Experts   `name:"experts"`

	TopK      int
	Normalize bool // weights of the chosen experts are divided by their sum

	// Parts are the names that models of transformers 4, whose experts are modules of their own, give to the matrices of one: gate, up
	// and down. Lists of an adapter's targets may still hold them.
	Parts [3]string
}

// Routes collects where the routers of a step send its tokens, layer by layer, for BalanceLoss.
type Routes struct {
	Logits  []graph.Value // f32 (N, experts): the router's scores of N = B·T tokens
	Experts []graph.Value // i32 (N, k): chosen experts
}

// Forward maps x (B, T, dim) to the same shape. The routing is noted in routes unless that is nil.
func (m *MoE) Forward(x graph.Value, routes *Routes) graph.Value {
	if !x.Valid() {
		return x
	}
	dims := x.Shape().Dims()
	if len(dims) != 3 {
		return x.Graph().Fail("moe", []graph.Value{x}, fmt.Errorf("x is %v, it must be (B, T, dim)", x.Type()))
	}
	n := dims[0] * dims[1]
	flat := ops.Reshape(x, n, dims[2])
	weights, chosen := m.route(flat, routes)
	if !chosen.Valid() {
		return chosen
	}
	experts, _, _ := m.Experts.Down.Features()
	order, inverse, offsets := ops.SortByExpert(chosen, experts)
	token := ops.Div(order, ops.Scalar(order, float64(m.TopK)))
	var y graph.Value
	func() {
		defer x.Graph().Scope("experts")()
		y = m.Experts.Forward(ops.Gather(flat, 0, token), offsets)
	}()
	y = ops.Cast(ops.Gather(y, 0, ops.Reshape(inverse, n, m.TopK)), tensor.F32) // (N, k, dim)
	y = ops.Sum(ops.Mul(y, ops.Reshape(weights, n, m.TopK, 1)), 1)
	return ops.Reshape(ops.Cast(y, x.DType()), dims...)
}

// route returns the weights f32 (N, k) and the indices i32 (N, k) of the experts of tokens x (N, dim).
func (m *MoE) route(x graph.Value, routes *Routes) (weights, chosen graph.Value) {
	logits := ops.Cast(named("gate", m.Gate, x), tensor.F32)
	weights, chosen = ops.TopK(ops.Softmax(logits, -1), m.TopK, -1, true)
	if routes != nil {
		routes.Logits, routes.Experts = append(routes.Logits, logits), append(routes.Experts, chosen)
	}
	if m.Normalize {
		weights = ops.Div(weights, ops.Reshape(ops.Sum(weights, -1), x.Dim(0), 1))
	}
	return weights, chosen
}

// BalanceLoss is the load-balancing loss of routers (Fedus et al. 2021, arXiv 2101.03961, equations 4 to 6, as transformers computes it): E
// times the sum over experts of f·P, f being the share of tokens that went to the expert and P its mean probability, both over the tokens
// of all layers together that real, a bool (B, T), says are no padding; absent, all are. The shares add up to k. Gradients flow through P.
// Unlike a token's loss it depends on which tokens are in the batch together. The result is an f32 scalar, 0 without a token, and absent
// without a route.
func BalanceLoss(routes *Routes, real graph.Value) graph.Value {
	var count, prob, keep graph.Value
	for i, logits := range routes.Logits {
		if !logits.Valid() {
			return logits
		}
		p := ops.Softmax(logits, -1)
		hot := ops.Sum(ops.OneHot(routes.Experts[i], logits.Dim(1), tensor.F32), 1) // (N, E)
		if !real.Absent() {
			keep = ops.Cast(ops.Reshape(real, logits.Dim(0), 1), tensor.F32)
			p, hot = ops.Mul(p, keep), ops.Mul(hot, keep)
		}
		p, hot = ops.Sum(p, 0), ops.Sum(hot, 0)
		if i > 0 {
			p, hot = ops.Add(prob, p), ops.Add(count, hot)
		}
		count, prob = hot, p
	}
	if len(routes.Logits) == 0 {
		return graph.Value{}
	}
	first, layers := routes.Logits[0], float64(len(routes.Logits))
	total := ops.Scalar(count, layers*float64(first.Dim(0)))
	if !real.Absent() {
		total = ops.Sum(keep)
		total = ops.Scale(ops.Max(total, ops.Scalar(total, 1)), layers)
	}
	share, mean := ops.Div(count, total), ops.Div(prob, total)
	return ops.Scale(ops.Sum(ops.Mul(share, mean)), float64(first.Dim(1)))
}
