package graph

import "github.com/bitsandbyes/bitsandbyes/tensor"

// Op is one operation: a small comparable struct whose fields are its attributes. Two nodes with equal ops and equal inputs are
// the same node.
type Op interface {
	// Name is the operation's name in printed graphs, errors and reports: "matmul".
	Name() string
	// Infer is the only shape and dtype rule: the types of the outputs for these inputs, or why they do not fit. An absent
	// optional input has the zero Type.
	Infer(in []tensor.Type) ([]tensor.Type, error)
}

// Differentiable ops build their own gradient out of other ops. gy holds the cotangent of each output (absent if unused); need
// says which inputs are wanted. The result has one Value an input, absent where not needed or where the gradient is zero.
// A cotangent may keep the broadcast shape of the output: the sweep sums it down to the input's shape.
type Differentiable interface {
	VJP(n *Node, gy []Value, need []bool) []Value
}

// Decomposable ops can be written in simpler ops: the meaning of a fused op, its test oracle, and its fallback on a device
// that has no kernel for it. in are the op's inputs; the result has one Value an output.
type Decomposable interface {
	Decompose(in []Value) []Value
}

// AliasPair says that output Out may be written over input In, which must have the same number of bytes. Required means that a
// copy of a persistent variable instead is an error at compile time (a KV cache).
type AliasPair struct {
	Out, In  int
	Required bool
}

// Aliaser ops tolerate an output in the storage of an input.
type Aliaser interface{ Alias() []AliasPair }

// Viewer ops compute nothing: output 0 is the bytes of input 0 from offset on. ok is false when these types need a copy.
type Viewer interface {
	View(in []tensor.Type) (offset int64, ok bool)
}

// Lane is the queue of a device that an op runs on.
type Lane uint8

// The lanes: arithmetic, collectives between ranks, and copies between host and device.
const (
	Compute Lane = iota
	Comm
	Copy
)

// Laner ops run on a lane other than Compute.
type Laner interface{ Lane() Lane }

// Coster ops know their work: floating-point operations and the bytes they must read and write.
type Coster interface {
	Cost(in, out []tensor.Type) (flops, bytes int64)
}

// Elementwise ops compute each element of their one output from the matching elements of their inputs (broadcast by NumPy's
// rule), so that a chain of them can be fused into one kernel.
type Elementwise interface {
	Op
	Elementwise()
}

// Linear ops are elementwise sums of their inputs, each times a number.
type Linear interface {
	Elementwise
	// Factors returns what each input is multiplied by, 0 for an immediate that is itself the factor of another input; ok is false where
	// the op is no such sum.
	Factors(in []Value) (factors []float64, ok bool)
}

// Accumulator ops can add their one output to another value as they compute it.
type Accumulator interface {
	Op
	// AddTo returns the op with one more input before those of n: that value, plus factor times n's output, in that value's shape. ok is
	// false where these types have none.
	AddTo(factor float64, n *Node) (op Op, ok bool)
}

// Scaler ops can multiply their one output by a number as they compute it.
type Scaler interface {
	Op
	// Scaled returns the op that gives factor times n's output; ok is false where these types have none.
	Scaled(factor float64, n *Node) (op Op, ok bool)
}

// Stacker ops are products that can be one where they share an operand: what they do not share is joined, and one product reads the shared operand once.
type Stacker interface {
	Op
	// Stacked returns how nodes of this very op are computed at once that have input shared in common, of which n is one; ok is false where they are not.
	Stacked(n *Node, shared int) (s Stack, ok bool)
}

// Stack is how several products become one. Op takes the joined operand, the operand in common and, with Each, one value of each node.
type Stack struct {
	Op     func(nodes int) Op
	Join   Op   // of the operands that differ
	Input  int  // which input of the nodes those are
	Each   bool // input 0 of each node is handed over too, and the op has an output for each node; else their results follow each other in one
	Turned bool // those results are the transposes of the nodes' results
}

// Turner ops can read an input with its last two axes exchanged.
type Turner interface {
	Op
	// Turned returns the op that reads input i so; ok is false where there is none.
	Turned(i int) (op Op, ok bool)
}

// Chainer ops add a product to their first input. Where that is a product too, one product over a longer inner axis is the sum of both.
type Chainer interface {
	Op
	// Chained returns the ops that join the left and the right operands, which are the last two inputs of both, where before is such a product; ok is false
	// where it is not.
	Chained(before Op) (left, right Op, ok bool)
}

// Apart marks ops of AddTo that give the sum at another place as cheaply as in the storage of what is added to, which may be needed afterwards.
type Apart interface {
	Op
	Apart()
}

// Merger ops can be computed together with the op that makes one of their inputs, in one pass over memory.
type Merger interface {
	Op
	// Merged returns the op that computes what the node of n's input i does and then n. It takes in and gives that node's outputs and then n's. ok is
	// false where there is none.
	Merged(n *Node, i int) (op Op, in []Value, ok bool)
}

// Sharer ops can be computed together with another op that reads one of their inputs, which is then read once.
type Sharer interface {
	Op
	// Shared returns the op that computes n, a node of this op, and other. It takes in and gives n's outputs and then other's. ok is false where there
	// is none.
	Shared(n, other *Node) (op Op, in []Value, ok bool)
}

// Grouper ops can be computed at once with others that read the same input, each with results of its own: one launch for all.
type Grouper interface {
	Op
	// Grouping returns which input a node of this op has in common with those that it can be computed with, and what else of them is equal, a comparable
	// value; ok is false where it is computed alone.
	Grouping(n *Node) (shared int, kind any, ok bool)
	// Grouped returns the op that computes nodes which Grouping found to be alike, with their outputs one after the other: all of them, or as many of the
	// first as it has outputs. ok is false where there is none. The common input may have other shapes of as many elements; the first one's counts.
	Grouped(nodes []*Node) (op Op, in []Value, ok bool)
}

// Absorber ops can compute an input themselves.
type Absorber interface {
	Op
	// Absorbed returns the op that does what n, a node of this op, does and what by does before, whose one output is n's input i in some shape. It takes in
	// and gives n's outputs. ok is false where there is none.
	Absorbed(n *Node, i int, by *Node) (op Op, in []Value, ok bool)
}

// Folder ops multiply their first input by a frozen weight, to which a product of two narrow matrices can be added as it is read.
type Folder interface {
	Op
	// Folded returns the op that computes the output of n, a node of this op, plus factor times that of outer, in n's shape. inner multiplies the first input
	// of n by its second input, outer what inner gives, both in some shape. The op takes in and has n's output. ok is false where there is none.
	Folded(n, inner, outer *Node, factor float64) (op Op, in []Value, ok bool)
}

// Caster ops are elementwise and give the values of their one input another element type.
type Caster interface {
	Elementwise
	Casts() bool
}

// Widener ops have a twin that reads inputs in a narrower float type, with the result of casting them first.
type Widener interface {
	Op
	// Widened returns the twin for these inputs in 16 bits; ok is false where there is none.
	Widened(narrow []bool) (op Op, ok bool)
}

// Joiner ops can do work of a later node, which would otherwise do some of theirs again.
type Joiner interface {
	Op
	// Joined returns the op to put in the place of n, this op's node, for the sake of later, a node that reads an output of n. It takes n's inputs
	// and gives n's outputs and then more. finish makes later's outputs of its inputs and those more values; what it does should be cheap. ok is
	// false where the two do not join.
	Joined(n, later *Node) (op Op, finish func(in, more []Value) []Value, ok bool)
}

// Frozen ops refuse some gradients: FrozenInput returns why input i can have none, or "".
type Frozen interface{ FrozenInput(i int) string }

// Input is a value fed at each run.
type Input struct {
	Label string
	Type  tensor.Type
}

// Name implements Op.
func (Input) Name() string { return "input" }

// Infer implements Op.
func (o Input) Infer([]tensor.Type) ([]tensor.Type, error) { return []tensor.Type{o.Type}, nil }

// Read is the value of a variable at the start of the step.
type Read struct{ Var *Var }

// Name implements Op.
func (Read) Name() string { return "read" }

// Infer implements Op.
func (o Read) Infer([]tensor.Type) ([]tensor.Type, error) { return []tensor.Type{o.Var.Type}, nil }

// Constant is a tensor known while building. Data must not change afterwards.
type Constant struct{ Data *tensor.Tensor }

// Name implements Op.
func (Constant) Name() string { return "constant" }

// Infer implements Op.
func (o Constant) Infer([]tensor.Type) ([]tensor.Type, error) {
	return []tensor.Type{o.Data.Type()}, nil
}
