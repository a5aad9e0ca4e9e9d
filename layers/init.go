package layers

import (
	"hash/fnv"
	"math"
	"math/rand/v2"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Init is how a weight begins. The zero value is zeros. Values depend on the seed and the weight's name alone, not on the order
// in which weights are made.
type Init struct {
	kind initKind
	a    float64
}

type initKind uint8

const (
	initZeros initKind = iota
	initConstant
	initNormal
	initUniform
)

// Zeros begins at 0.
func Zeros() Init { return Init{} }

// Ones begins at 1.
func Ones() Init { return Constant(1) }

// Constant begins at a value.
func Constant(v float64) Init { return Init{initConstant, v} }

// Normal draws from N(0, std²).
func Normal(std float64) Init { return Init{initNormal, std} }

// Uniform draws from [-bound, bound).
func Uniform(bound float64) Init { return Init{initUniform, bound} }

// KaimingUniform is He et al. 2015 as PyTorch has it for a linear layer: the bound is √(6/((1+a²)·fanIn)).
func KaimingUniform(a float64, fanIn int) Init {
	return Uniform(math.Sqrt(6 / ((1 + a*a) * float64(max(fanIn, 1)))))
}

// XavierUniform is Glorot & Bengio 2010: the bound is √(6/(fanIn+fanOut)).
func XavierUniform(fanIn, fanOut int) Init {
	return Uniform(math.Sqrt(6 / float64(max(fanIn+fanOut, 1))))
}

// LinearInit is PyTorch's default for linear layers, KaimingUniform(√5, fanIn).
func LinearInit(fanIn int) Init { return KaimingUniform(math.Sqrt(5), fanIn) }

// tensor draws the initial value of v.
func (in Init) tensor(seed uint64, v *graph.Var) *tensor.Tensor {
	t := tensor.New(v.Type)
	n := v.Type.Size()
	switch in.kind {
	case initZeros:
	case initConstant:
		for i := range n {
			t.Set(i, in.a)
		}
	default:
		h := fnv.New64a()
		h.Write([]byte(v.Name)) //nolint:errcheck // a hash cannot fail
		r := rand.New(rand.NewPCG(seed, h.Sum64()))
		for i := range n {
			x := r.NormFloat64() * in.a
			if in.kind == initUniform {
				x = (2*r.Float64() - 1) * in.a
			}
			t.Set(i, x)
		}
	}
	return t
}

// Value draws the initial value of a variable, for weights that are made outside a Source.
func (in Init) Value(seed uint64, v *graph.Var) *tensor.Tensor { return in.tensor(seed, v) }
