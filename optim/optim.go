// Package optim updates parameters: the rules of torch and of bitsandbytes, with states in 32 and in 8 bits, Adafactor and Muon,
// learning-rate schedules, clipping, averages of the weights, rounding to 16 bits and the loss scale of float16.
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
	"strings"
)

// DefaultMin8bitSize is the size below which bitsandbytes keeps the states of a tensor in 32 bits.
const DefaultMin8bitSize = 4096

// Config holds the hyperparameters; an optimizer ignores those it does not have. A zero takes the value of [Defaults] where 0 would
// mean nothing (betas, eps, alpha, max_unorm), and is 0 elsewhere: weight decay, momentum, dampening, sizes and schedules.
type Config struct {
	Betas       [2]float64 // of moments; both zero: the default. Of muon for what is no matrix
	Beta3       float64    // of ademamix's slow average
	Alpha       float64    // of ademamix the weight of its slow average; of rmsprop the smoothing constant
	TAlpha      float64    // of ademamix: steps over which alpha grows; 0: none
	TBeta3      float64    // of ademamix: steps over which beta3 grows; 0: none
	Eps         float64
	WeightDecay float64 // decoupled; for sgd, lars, rmsprop and adagrad coupled
	Momentum    float64 // of sgd, lars, adafactor and muon; sgd without any has no state; muon 0: 0.95
	Dampening   float64 // of sgd and lars
	Nesterov    bool    // of sgd and lars
	MaxUnorm    float64 // bounds a tensor's step by this times the norm of its values; 0: the default (lamb and lars have one); negative: off
	SkipZeros   bool    // elements with a gradient of 0 keep their value and states
	// Of adafactor: the exponent of its decay, 0: 0.8; the least RMS of a parameter that scales lr, 0: 1e-3; the largest RMS of a step, 0:
	// 1; lr at most 1/sqrt(step); lr not scaled by the RMS of the parameter. Its Eps is added to squared gradients, 0: 1e-30.
	DecayRate, Eps2, ClipThreshold float64
	Relative, Absolute             bool
	// Of muon: its Newton-Schulz steps, 0: 5; and the scale of steps as first published, whose learning rates are some 20 times those of
	// AdamW, instead of the scale with which AdamW's hold.
	NewtonSchulz  int
	SpectralScale bool
	Rounding      Rounding
	Seed          uint64 // of Stochastic rounding
	Min8bitSize   int    // 8-bit optimizers keep tensors with fewer elements in 32 bits; 0: none. Usual: DefaultMin8bitSize
}

// Optimizer is a rule with its hyperparameters. Its states are variables, whose values a plan's store holds.
type Optimizer struct {
	class  *class
	config Config
	inline *Group // of Update
}

// New returns the optimizer of a name.
//
// The names are the class names of bitsandbytes in lower case: adam, adamw, ademamix, lion, sgd, rmsprop, adagrad, lamb and lars, each
// with 8bit and 32bit behind it, the first four also with paged in front, which places the states in host memory and changes no
// number. They compute what the CUDA kernels of bitsandbytes compute; all but adamw, adam and their paged forms, which are torch's
// AdamW: in bitsandbytes too the two decay weights apart from the gradient and differ in their default decay alone. sgd is torch's SGD
// as well, which bitsandbytes' equals where it has it. adafactor and muon have 32-bit states; muon updates matrices, and all else by
// adamw, so keep embeddings and heads from it by an Override.
func New(name string, c Config) (*Optimizer, error) {
	k, ok := classes[name]
	if !ok {
		return nil, fmt.Errorf("optimizer %q is unknown%s; there are: %s", name, didYouMean(name, Names()), strings.Join(Names(), ", "))
	}
	c = k.fill(c)
	if err := k.check(c); err != nil {
		return nil, err
	}
	return &Optimizer{class: k, config: c}, nil
}

// Defaults returns what bitsandbytes sets for an optimizer, of adafactor and muon the usual values.
func Defaults(name string) (Config, error) {
	k, ok := classes[name]
	if !ok {
		return Config{}, fmt.Errorf("optimizer %q is unknown%s", name, didYouMean(name, Names()))
	}
	return k.defaults, nil
}

// DefaultLR is the learning rate that bitsandbytes sets for an optimizer, a usual one where it sets none, and 0 for a name that is unknown.
func DefaultLR(name string) float64 {
	if k, ok := classes[name]; ok {
		return k.lr
	}
	return 0
}

// Name returns the name the optimizer was made by.
func (o *Optimizer) Name() string { return o.class.name }

// Config returns the hyperparameters with the defaults filled in.
func (o *Optimizer) Config() Config { return o.config }
