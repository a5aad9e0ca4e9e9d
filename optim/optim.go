// Package optim updates parameters: the rules of torch and of bitsandbytes' 8-bit optimizers, learning-rate schedules, clipping and
// the loss scale of float16.
//
// A rule runs over slabs: all parameters of a group, their gradients and each state lie one after another in one array, so that
// an update is one operation however many tensors there are (LoRA has hundreds of small ones), and 8-bit blocks stay within one tensor.
// Everything an update depends on (learning rate, step count, gradient scale, whether the step is finite) is a value of the graph:
// changing it recompiles nothing and needs no word from the host.
//
// There are two ways to use it. [Optimizer.Update] emits the update into the graph that computed the gradients: the shortest training
// loop. A [Group] lays parameters and gradients out in slabs, for a step of several plans: micro-batches add their gradients up
// with [Group.Accumulate], and one plan applies them with [Group.Apply].
package optim

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// DefaultMin8bitSize is the size below which bitsandbytes keeps the states of a tensor in 32 bits.
const DefaultMin8bitSize = 4096

// Config holds the hyperparameters; a rule ignores those it does not have.
type Config struct {
	Betas       [2]float64 // of Adam's moments; both zero: 0.9 and 0.999
	Eps         float64    // 0: 1e-8
	WeightDecay float64    // decoupled, for sgd coupled
	Momentum    float64    // of sgd, 0: none
	Dampening   float64    // of sgd
	Nesterov    bool       // of sgd
	Min8bitSize int        // 8-bit rules keep tensors with fewer elements in 32 bits; 0: none. Usual: DefaultMin8bitSize
}

// Optimizer is a rule with its hyperparameters. Its states are variables, whose values a plan's store holds.
type Optimizer struct {
	name   string
	config Config
	kind   kind
	inline *Group // of Update
}

// kind makes the rules of an optimizer.
type kind struct {
	wide   func(c Config) rule // 32-bit states
	narrow func(c Config) rule // 8-bit states, nil if it has none
}

// kinds are the optimizers by the lower-case class names of bitsandbytes.
var kinds = map[string]kind{
	"adamw":      {wide: func(c Config) rule { return adam{c, false} }},
	"adam":       {wide: func(c Config) rule { return adam{c, false} }},
	"adamw32bit": {wide: bitsandbytesAdam},
	"adam32bit":  {wide: bitsandbytesAdam},
	"adamw8bit":  {wide: bitsandbytesAdam, narrow: func(c Config) rule { return adam8{c} }},
	"adam8bit":   {wide: bitsandbytesAdam, narrow: func(c Config) rule { return adam8{c} }},
	"sgd":        {wide: func(c Config) rule { return sgd{c} }},
}

// New returns the optimizer of a name. adamw is torch's AdamW; adam is the same rule, for in bitsandbytes both decay weights apart from
// the gradient and differ in their default decay alone. adamw32bit and adam32bit are it with the rounding and order of the CUDA
// kernels of bitsandbytes, adamw8bit and adam8bit with 8-bit states; sgd is torch's SGD.
func New(name string, c Config) (*Optimizer, error) {
	k, ok := kinds[name]
	if !ok {
		return nil, fmt.Errorf("optimizer %q is unknown%s; there are: %s", name, didYouMean(name, Names()), strings.Join(Names(), ", "))
	}
	if c.Betas == [2]float64{} {
		c.Betas = [2]float64{0.9, 0.999}
	}
	if c.Eps == 0 {
		c.Eps = 1e-8
	}
	if c.Min8bitSize < 0 {
		return nil, fmt.Errorf("optimizer %s: min_8bit_size %d is negative; use 0 to keep every state in 8 bits", name, c.Min8bitSize)
	}
	o := &Optimizer{name: name, config: c, kind: k}
	for _, r := range o.rules() {
		if err := try(r); err != nil {
			return nil, fmt.Errorf("optimizer %s: %w", name, err)
		}
	}
	return o, nil
}

// Names lists the optimizers in order.
func Names() []string { return slices.Sorted(maps.Keys(kinds)) }

// Name returns the name the optimizer was made by.
func (o *Optimizer) Name() string { return o.name }

// Config returns the hyperparameters with the defaults filled in.
func (o *Optimizer) Config() Config { return o.config }

func (o *Optimizer) rules() []rule {
	out := []rule{o.kind.wide(o.config)}
	if o.kind.narrow != nil {
		out = append(out, o.kind.narrow(o.config))
	}
	return out
}

// rule is an update of one slab.
type rule interface {
	// op is the update over slabs of a layout.
	op(l *ops.Layout) graph.Op
	// states lists the states of a slab.
	states(l *ops.Layout) []state
}

// state is one state slab: its suffix in names and its type.
type state struct {
	name string
	typ  tensor.Type
}

// try lets a rule's op check its hyperparameters, on an empty slab.
func try(r rule) error {
	l, scalar := ops.NewLayout(), tensor.T(tensor.F32)
	in := []tensor.Type{l.Type(), l.Type()}
	for _, s := range r.states(l) {
		in = append(in, s.typ)
	}
	if stateless(r) {
		in = append(in, tensor.Type{})
	}
	_, err := r.op(l).Infer(append(in, scalar, scalar, scalar, scalar))
	return err
}

// stateless rules leave the op's input for a state absent.
func stateless(r rule) bool {
	s, ok := r.(sgd)
	return ok && s.c.Momentum == 0
}

// update emits a rule's op and returns the new parameters and states. The op's inputs are p, g, the states and the scalars; its
// outputs p and the states.
func update(r rule, l *ops.Layout, p, g graph.Value, states []graph.Value, s ops.UpdateScalars) []graph.Value {
	in := append([]graph.Value{p, g}, states...)
	if stateless(r) {
		in = append(in, graph.Value{})
	}
	return p.Graph().Apply(r.op(l), append(in, s.LR, s.Step, s.GScale, s.OK)...)
}

type adam struct {
	c         Config
	decayLast bool
}

// bitsandbytesAdam is Adam with betas in float32, as the CUDA kernels take them.
func bitsandbytesAdam(c Config) rule {
	for i, b := range c.Betas {
		c.Betas[i] = float64(float32(b))
	}
	return adam{c, true}
}

func (a adam) op(l *ops.Layout) graph.Op {
	return ops.AdamW{Beta1: a.c.Betas[0], Beta2: a.c.Betas[1], Eps: a.c.Eps, WeightDecay: a.c.WeightDecay, DecayLast: a.decayLast, Layout: l}
}

func (adam) states(l *ops.Layout) []state {
	return []state{{"state1", l.Type()}, {"state2", l.Type()}}
}

type adam8 struct{ c Config }

func (a adam8) op(l *ops.Layout) graph.Op {
	return ops.AdamW8bit{Beta1: a.c.Betas[0], Beta2: a.c.Betas[1], Eps: a.c.Eps, WeightDecay: a.c.WeightDecay, Layout: l}
}

func (adam8) states(l *ops.Layout) []state {
	codes, scales := tensor.T(tensor.U8, l.Total), tensor.T(tensor.F32, l.Total/ops.SlabAlign)
	return []state{{"state1", codes}, {"state2", codes}, {"absmax1", scales}, {"absmax2", scales}}
}

type sgd struct{ c Config }

func (s sgd) op(l *ops.Layout) graph.Op {
	return ops.SGD{Momentum: s.c.Momentum, Dampening: s.c.Dampening, WeightDecay: s.c.WeightDecay, Nesterov: s.c.Nesterov, Layout: l}
}

func (s sgd) states(l *ops.Layout) []state {
	if s.c.Momentum == 0 {
		return nil
	}
	return []state{{"state1", l.Type()}}
}
