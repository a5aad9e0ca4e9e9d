package optim

import (
	"fmt"
	"maps"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// class is an optimizer by name: how it updates a slab, and its defaults.
type class struct {
	name     string
	wide     func(c Config, l *ops.Layout) update // with 32-bit states
	narrow   func(c Config, l *ops.Layout) update // with 8-bit states, nil if it has none
	paged    bool                                 // states in host memory
	matrices string                               // another class, for parameters with less than two dimensions; "" if none is needed
	defaults Config
	lr       float64
}

// update is an op that updates a slab: p, g, states and scalars in, p and states out.
type update interface {
	graph.Op
	States() []ops.StateSpec
}

// family is a rule in its several forms, a row of the table.
type family struct {
	name     string
	plain    ops.Rule // of NAME and pagedNAME
	rule     ops.Rule // of NAME8bit and NAME32bit
	paged    bool     // has paged forms
	lr       float64
	defaults Config
}

var families = []family{
	{"adam", ops.AdamTorch, ops.Adam, true, 1e-3, Config{Betas: [2]float64{0.9, 0.999}, Eps: 1e-8}},
	{"adamw", ops.AdamTorch, ops.Adam, true, 1e-3, Config{Betas: [2]float64{0.9, 0.999}, Eps: 1e-8, WeightDecay: 1e-2}},
	{"ademamix", ops.AdEMAMix, ops.AdEMAMix, true, 1e-3,
		Config{Betas: [2]float64{0.9, 0.999}, Beta3: 0.9999, Alpha: 5, Eps: 1e-8, WeightDecay: 1e-2}},
	{"lion", ops.Lion, ops.Lion, true, 1e-4, Config{Betas: [2]float64{0.9, 0.99}}},
	{"sgd", ops.Momentum, ops.Momentum, false, 1e-2, Config{}},
	{"rmsprop", ops.RMSprop, ops.RMSprop, false, 1e-2, Config{Alpha: 0.99, Eps: 1e-8}},
	{"adagrad", ops.Adagrad, ops.Adagrad, false, 1e-2, Config{Eps: 1e-10}},
	{"lamb", ops.Adam, ops.Adam, false, 1e-3, Config{Betas: [2]float64{0.9, 0.999}, Eps: 1e-8, MaxUnorm: 1}},
	{"lars", ops.Momentum, ops.Momentum, false, 1e-2, Config{MaxUnorm: 0.02}},
}

// classes are the optimizers by name.
var classes map[string]*class

func init() { classes = makeClasses() }

func makeClasses() map[string]*class {
	all := map[string]*class{}
	for _, f := range families {
		for _, prefix := range []string{"", "paged"} {
			if prefix != "" && !f.paged {
				continue
			}
			for _, suffix := range []string{"", "8bit", "32bit"} {
				k := f.class(suffix)
				k.name, k.paged = prefix+f.name+suffix, prefix != ""
				all[k.name] = k
			}
		}
	}
	for _, k := range []*class{adafactor(), muon()} {
		all[k.name] = k
	}
	return all
}

func adafactor() *class {
	d := Config{Eps: 1e-30, Eps2: 1e-3, ClipThreshold: 1, DecayRate: 0.8}
	return &class{name: "adafactor", lr: 1e-2, defaults: d, wide: func(c Config, l *ops.Layout) update {
		return ops.Adafactor{Decay: c.DecayRate, Eps1: c.Eps, Eps2: c.Eps2, Clip: c.ClipThreshold, Beta1: c.Momentum, Relative: c.Relative,
			Absolute: c.Absolute, WeightDecay: c.WeightDecay, WeightRounding: c.round(), Layout: l}
	}}
}

func muon() *class {
	d := Config{Betas: [2]float64{0.9, 0.95}, Eps: 1e-8, Momentum: 0.95, NewtonSchulz: 5, WeightDecay: 0.1}
	return &class{name: "muon", lr: 1e-3, defaults: d, matrices: "adamw", wide: func(c Config, l *ops.Layout) update {
		return ops.Muon{Momentum: c.Momentum, Steps: c.NewtonSchulz, MatchRMS: !c.SpectralScale, WeightDecay: c.WeightDecay,
			WeightRounding: c.round(), Layout: l}
	}}
}

// class makes one form of a family.
func (f family) class(suffix string) *class {
	rule := f.rule
	if suffix == "" {
		rule = f.plain
	}
	k := &class{defaults: f.defaults, lr: f.lr}
	k.defaults.Min8bitSize = DefaultMin8bitSize
	k.wide = func(c Config, l *ops.Layout) update { return ops.Update{Hyper: c.hyper(rule), Layout: l} }
	if suffix == "8bit" {
		k.narrow = func(c Config, l *ops.Layout) update { return ops.Update8bit{Hyper: c.hyper(rule), Layout: l} }
	}
	return k
}

// round is the part that says how parameters are rounded.
func (c Config) round() ops.WeightRounding {
	return ops.WeightRounding{Rounding: c.Rounding, Seed: c.Seed}
}

// hyper translates the configuration for a rule.
func (c Config) hyper(rule ops.Rule) ops.Hyper {
	h := ops.Hyper{Rule: rule, Beta1: c.Betas[0], Beta2: c.Betas[1], Eps: c.Eps, WeightDecay: c.WeightDecay, MaxUnorm: max(c.MaxUnorm, 0),
		SkipZeros: c.SkipZeros, WeightRounding: c.round()}
	switch rule {
	case ops.AdEMAMix:
		h.Beta3, h.Alpha, h.TAlpha, h.TBeta3 = c.Beta3, c.Alpha, c.TAlpha, c.TBeta3
	case ops.Momentum:
		h.Beta1, h.Beta2, h.Dampening, h.Nesterov = c.Momentum, 0, c.Dampening, c.Nesterov
	case ops.RMSprop:
		h.Beta1, h.Beta2 = c.Alpha, 0
	case ops.Adagrad:
		h.Beta1, h.Beta2 = 0, 0
	}
	return h
}

// fill replaces zeros that mean nothing by the defaults.
func (k *class) fill(c Config) Config {
	if c.Betas == [2]float64{} {
		c.Betas = k.defaults.Betas
	}
	for _, f := range []struct{ to, from *float64 }{
		{&c.Beta3, &k.defaults.Beta3}, {&c.Alpha, &k.defaults.Alpha}, {&c.Eps, &k.defaults.Eps}, {&c.MaxUnorm, &k.defaults.MaxUnorm},
		{&c.Momentum, &k.defaults.Momentum}, {&c.DecayRate, &k.defaults.DecayRate}, {&c.Eps2, &k.defaults.Eps2},
		{&c.ClipThreshold, &k.defaults.ClipThreshold},
	} {
		if *f.to == 0 {
			*f.to = *f.from
		}
	}
	if c.NewtonSchulz == 0 {
		c.NewtonSchulz = k.defaults.NewtonSchulz
	}
	return c
}

// check lets the ops check the hyperparameters, on an empty slab.
func (k *class) check(c Config) error {
	if c.Min8bitSize < 0 {
		return fmt.Errorf("optimizer %s: min_8bit_size %d is negative; use 0 to keep every state in 8 bits", k.name, c.Min8bitSize)
	}
	if k.matrices != "" {
		if err := classes[k.matrices].check(c); err != nil {
			return err
		}
	}
	for _, f := range []func(c Config, l *ops.Layout) update{k.wide, k.narrow} {
		if f == nil {
			continue
		}
		l, scalar := ops.NewLayout(), tensor.T(tensor.F32)
		u := f(c, l)
		in := []tensor.Type{l.Type(), l.Type()}
		for _, s := range u.States() {
			in = append(in, s.Type)
		}
		if _, err := u.Infer(append(in, scalar, scalar, scalar, scalar)); err != nil {
			return fmt.Errorf("optimizer %s: %w", k.name, err)
		}
	}
	return nil
}

// Names lists the optimizers in order.
func Names() []string { return slices.Sorted(maps.Keys(classes)) }
