package ops

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Combine is how a collective joins the values of the ranks.
type Combine uint8

// The combinations, in the order of device.Reduce.
const (
	CombineSum Combine = iota
	CombineMean
	CombineMax
)

var combineNames = [...]string{"sum", "mean", "max"}

// String returns "sum", "mean" or "max".
func (c Combine) String() string {
	if int(c) >= len(combineNames) {
		return fmt.Sprintf("Combine(%d)", uint8(c))
	}
	return combineNames[c]
}

// Collectives run on the communication lane and meet the same op of every other rank of the plan's communicator; on a single rank
// they pass their input on. Every rank must run the same collectives in the same order.

// AllReduce gives every rank the combination of x over the ranks. Its gradient passes through unchanged (the result is used alike on
// every rank, as in Megatron-LM, arXiv 1909.08053, section 3), for a sum only.
type AllReduce struct{ Combine Combine }

// Enter is the identity whose gradient is summed over the ranks: the mate of AllReduce, where a value that every rank holds alike
// enters a computation that is split among them.
type Enter struct{}

// AllGather joins the x of all ranks along axis 0, in rank order: (d0, ...) -> (Ranks·d0, ...). Its gradient is scattered back by a
// sum.
type AllGather struct{ Ranks int }

// ReduceScatter combines x over the ranks and leaves each its part of axis 0, in rank order: (Ranks·d0, ...) -> (d0, ...). The
// gradient of a sum is gathered.
type ReduceScatter struct {
	Combine Combine
	Ranks   int
}

// Broadcast gives every rank the x of rank Root. It has no gradient.
type Broadcast struct{ Root int }

var (
	_ graph.Differentiable = AllReduce{}
	_ graph.Frozen         = AllReduce{}
	_ graph.Aliaser        = AllReduce{}
	_ graph.Laner          = AllReduce{}
	_ graph.Differentiable = Enter{}
	_ graph.Viewer         = Enter{}
	_ graph.Differentiable = AllGather{}
	_ graph.Laner          = AllGather{}
	_ graph.Differentiable = ReduceScatter{}
	_ graph.Frozen         = ReduceScatter{}
	_ graph.Laner          = ReduceScatter{}
	_ graph.Frozen         = Broadcast{}
	_ graph.Aliaser        = Broadcast{}
	_ graph.Laner          = Broadcast{}
)

// ReduceAll returns the combination of x over the ranks; see AllReduce.
func ReduceAll(x Value, c Combine) Value { return one(AllReduce{c}, x) }

// EnterParallel returns x, its gradient summed over the ranks; see Enter.
func EnterParallel(x Value) Value { return one(Enter{}, x) }

// GatherAll returns the parts of all ranks joined along axis 0; see AllGather.
func GatherAll(x Value, ranks int) Value { return one(AllGather{ranks}, x) }

// ScatterReduced returns this rank's part of the combination of x; see ReduceScatter.
func ScatterReduced(x Value, c Combine, ranks int) Value { return one(ReduceScatter{c, ranks}, x) }

// FromRank returns the x of one rank; see Broadcast.
func FromRank(x Value, root int) Value { return one(Broadcast{root}, x) }

// Name implements graph.Op.
func (AllReduce) Name() string { return "all_reduce" }

// Name implements graph.Op.
func (Enter) Name() string { return "enter" }

// Name implements graph.Op.
func (AllGather) Name() string { return "all_gather" }

// Name implements graph.Op.
func (ReduceScatter) Name() string { return "reduce_scatter" }

// Name implements graph.Op.
func (Broadcast) Name() string { return "broadcast" }

// Lane implements graph.Laner.
func (AllReduce) Lane() graph.Lane { return graph.Comm }

// Lane implements graph.Laner.
func (AllGather) Lane() graph.Lane { return graph.Comm }

// Lane implements graph.Laner.
func (ReduceScatter) Lane() graph.Lane { return graph.Comm }

// Lane implements graph.Laner.
func (Broadcast) Lane() graph.Lane { return graph.Comm }

// Alias implements graph.Aliaser.
func (AllReduce) Alias() []graph.AliasPair { return []graph.AliasPair{{Out: 0, In: 0}} }

// Alias implements graph.Aliaser.
func (Broadcast) Alias() []graph.AliasPair { return []graph.AliasPair{{Out: 0, In: 0}} }

// View implements graph.Viewer.
func (Enter) View([]tensor.Type) (int64, bool) { return 0, true }

// Infer implements graph.Op.
func (o AllReduce) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := combinable(in, o.Combine); err != nil {
		return nil, err
	}
	return []tensor.Type{in[0]}, nil
}

// Infer implements graph.Op.
func (Enter) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 1); err != nil {
		return nil, err
	}
	return []tensor.Type{in[0]}, nil
}

// Infer implements graph.Op.
func (o AllGather) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 1); err != nil {
		return nil, err
	}
	if o.Ranks < 1 || in[0].Rank() == 0 {
		return nil, fmt.Errorf("needs at least one rank and an axis to join along, got %d ranks and %v", o.Ranks, in[0])
	}
	dims := in[0].Shape.Dims()
	dims[0] *= o.Ranks
	return []tensor.Type{tensor.T(in[0].DType, dims...)}, nil
}

// Infer implements graph.Op.
func (o ReduceScatter) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := combinable(in, o.Combine); err != nil {
		return nil, err
	}
	if o.Ranks < 1 || in[0].Rank() == 0 || in[0].Dim(0)%o.Ranks != 0 {
		return nil, fmt.Errorf("axis 0 of %v does not divide among %d ranks; pad it", in[0], o.Ranks)
	}
	dims := in[0].Shape.Dims()
	dims[0] /= o.Ranks
	return []tensor.Type{tensor.T(in[0].DType, dims...)}, nil
}

// Infer implements graph.Op.
func (o Broadcast) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if err := arity(in, 1); err != nil {
		return nil, err
	}
	if o.Root < 0 {
		return nil, fmt.Errorf("rank %d does not exist", o.Root)
	}
	return []tensor.Type{in[0]}, nil
}

func combinable(in []tensor.Type, c Combine) error {
	if err := arity(in, 1); err != nil {
		return err
	}
	switch d := in[0].DType; {
	case int(c) >= len(combineNames):
		return fmt.Errorf("unknown combination %v", c)
	case d == tensor.Bool:
		return fmt.Errorf("not defined on bool; cast first")
	case c == CombineMean && !d.IsFloat():
		return fmt.Errorf("the mean is not defined on %v; cast first", d)
	}
	return nil
}

const onlySums = "only a sum over ranks is differentiated; sum and scale, or reduce the gradients instead of the values"

// FrozenInput implements graph.Frozen.
func (o AllReduce) FrozenInput(int) string {
	if o.Combine == CombineSum {
		return ""
	}
	return onlySums
}

// FrozenInput implements graph.Frozen.
func (o ReduceScatter) FrozenInput(int) string {
	if o.Combine == CombineSum {
		return ""
	}
	return onlySums
}

// FrozenInput implements graph.Frozen.
func (Broadcast) FrozenInput(int) string {
	return "values are broadcast before training; inside a step use EnterParallel"
}

// VJP implements graph.Differentiable.
func (AllReduce) VJP(_ *graph.Node, gy []Value, _ []bool) []Value { return []Value{gy[0]} }

// VJP implements graph.Differentiable.
func (Enter) VJP(_ *graph.Node, gy []Value, _ []bool) []Value {
	return []Value{ReduceAll(gy[0], CombineSum)}
}

// VJP implements graph.Differentiable.
func (o AllGather) VJP(_ *graph.Node, gy []Value, _ []bool) []Value {
	return []Value{ScatterReduced(gy[0], CombineSum, o.Ranks)}
}

// VJP implements graph.Differentiable.
func (o ReduceScatter) VJP(_ *graph.Node, gy []Value, _ []bool) []Value {
	return []Value{GatherAll(gy[0], o.Ranks)}
}
