package layers

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
)

// Activation is a layer without weights: an elementwise function.
type Activation func(x graph.Value) graph.Value

// Forward applies the function.
func (f Activation) Forward(x graph.Value) graph.Value { return f(x) }

// or is f, or def where f is nil.
func (f Activation) or(def Activation) Activation {
	if f == nil {
		return def
	}
	return f
}

// ActivationNamed returns the function that transformers calls name in a config.json (hidden_act, activation_function), with
// the constants it has there.
func ActivationNamed(name string) (Activation, error) {
	if f, ok := activations[name]; ok {
		return f, nil
	}
	var known []string
	for k := range activations {
		known = append(known, k)
	}
	slices.Sort(known)
	return nil, fmt.Errorf("layers: activation %q is unknown; known are %s", name, strings.Join(known, ", "))
}

var activations = map[string]Activation{
	"gelu": ops.GELU, "gelu_python": ops.GELU,
	"gelu_new": ops.GELUTanh, "gelu_fast": ops.GELUTanh, "gelu_pytorch_tanh": ops.GELUTanh, "gelu_python_tanh": ops.GELUTanh,
	"quick_gelu": func(x graph.Value) graph.Value { return ops.Swish(x, 1.702) },
	"silu":       ops.SiLU, "swish": ops.SiLU,
	"relu": ops.ReLU, "relu6": ops.ReLU6,
	"relu2":      func(x graph.Value) graph.Value { return ops.Square(ops.ReLU(x)) },
	"leaky_relu": func(x graph.Value) graph.Value { return ops.LeakyReLU(x, 0.01) },
	"mish":       ops.Mish,
	"sigmoid":    ops.Sigmoid,
	"tanh":       ops.Tanh,
	"linear":     func(x graph.Value) graph.Value { return x },
}

// PReLU is the rectifier with a learned slope for negative inputs (He et al. 2015), under PyTorch's name "weight": one slope,
// or one a channel.
type PReLU struct {
	Weight *graph.Var `name:"weight"` // (1) or (C)
}

// NewPReLU takes the slopes from src; new ones begin at 0.25. channels is 1 for a single slope.
func NewPReLU(src Source, channels int) *PReLU {
	return &PReLU{src.Var("weight", Constant(0.25), channels)}
}

// Forward maps x (N, C, ...) to the same shape. Channels are axis 1, or the only axis of a vector.
func (p *PReLU) Forward(x graph.Value) graph.Value {
	if !x.Valid() {
		return x
	}
	w := ops.Cast(x.Graph().Read(p.Weight), x.DType())
	if n := w.Type().Size(); n > 1 && x.Rank() > 1 {
		dims := slices.Repeat([]int{1}, x.Rank()-1)
		dims[0] = n
		w = ops.Reshape(w, dims...)
	}
	return ops.PReLU(x, w)
}
