// Package lora adds low-rank adapters to a frozen model (Hu et al. 2021): y = Wx + s·B(Ax), with s = α/r, or α/√r for
// rank-stabilised adapters (Kalajdzievski 2023). Names, initial values, target patterns and files are PEFT's, so that an adapter
// made here loads there and the other way round.
package lora

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Config says which projections get an adapter and of what kind.
type Config struct {
	Rank    int     // r; 0 = 16
	Alpha   float64 // α; 0 = 2r
	Dropout float32 // on the adapter's input, while training
	RSLoRA  bool    // scale α/√r instead of α/r
	Targets Targets
	Exclude []string // suffixes of module paths that stay as they are
	Seed    uint64   // of the initial A

	Param tensor.DType // how A and B are stored: float32 if not set, bfloat16 or float16
}

// Scale is the factor of the adapter's output.
func (c Config) Scale() float64 {
	if c.RSLoRA {
		return c.Alpha / math.Sqrt(float64(c.Rank))
	}
	return c.Alpha / float64(c.Rank)
}

func (c Config) withDefaults() Config {
	if c.Rank == 0 {
		c.Rank = DefaultRank
	}
	if c.Alpha == 0 {
		c.Alpha = 2 * float64(c.Rank)
	}
	return c
}

// DefaultRank is the rank when none is given.
const DefaultRank = 16

// Linear is a projection with an adapter. A and B are float32 and trainable; they are cast to x's dtype in the graph.
type Linear struct {
	Base layers.Projection `name:"."`
	A    *graph.Var        `name:"lora_A.weight"` // (r, in)
	B    *graph.Var        `name:"lora_B.weight"` // (out, r)

	Scale   float64
	Dropout layers.Dropout
	merged  bool
	set     *Adapter
}

// Forward implements layers.Projection.
func (l *Linear) Forward(x graph.Value) graph.Value {
	y := l.Base.Forward(x)
	if l.merged || !y.Valid() || l.set != nil && l.set.Off {
		return y
	}
	g := x.Graph()
	defer g.Scope("lora")()
	in := x
	if l.set != nil {
		in = l.Dropout.Forward(x, l.set.Random)
	}
	a := ops.Cast(g.Read(l.A), x.DType())
	b := ops.Cast(g.Read(l.B), x.DType())
	h := ops.Scale(ops.Linear(in, a), l.Scale) // the narrow side, in both directions
	return ops.Add(y, ops.Linear(h, b))
}

// Features implements layers.Projection.
func (l *Linear) Features() (in, out int) { return l.Base.Features() }

// Adapter is a set of adapters on one model.
type Adapter struct {
	Config  Config
	Modules []Module
	// Random is what dropout draws from in the graph under construction; set it before the model's Forward. The zero value means
	// no dropout.
	Random layers.Random
	// Off leaves the adapter out of the graph under construction: the model's Forward is that of the base, as with PEFT's
	// disable_adapter. It has no effect on a merged adapter.
	Off bool

	targets []string // what the adapted modules have in common: names that match them and no other linear layer
	saved   *Saved   // the files it was loaded from; nil for a new adapter
}

// Module is one adapted projection under its path in the model.
type Module struct {
	Path   string
	Linear *Linear
}

// Attach freezes the model and puts an adapter on every projection that the targets match. The output head is left out of
// all-linear, as PEFT does. Init gives the adapters their values.
func Attach(model any, cfg Config) (*Adapter, error) {
	cfg = cfg.withDefaults()
	if cfg.Rank < 1 || cfg.Alpha <= 0 || cfg.Dropout < 0 || cfg.Dropout >= 1 {
		return nil, fmt.Errorf("lora: rank %d, alpha %v and dropout %v must satisfy r >= 1, alpha > 0 and 0 <= dropout < 1", cfg.Rank, cfg.Alpha, cfg.Dropout)
	}
	match, err := cfg.Targets.matcher()
	if err != nil {
		return nil, err
	}
	layers.SetTrainable(model, false)
	a := &Adapter{Config: cfg}
	var paths []string
	var failed error
	layers.Modules(model, func(path string, p layers.Projection, replace func(layers.Projection)) {
		paths = append(paths, path)
		if failed != nil || !match(path) || excluded(path, cfg.Exclude) {
			return
		}
		if _, already := p.(*Linear); already {
			failed = fmt.Errorf("lora: %s already has an adapter", path)
			return
		}
		replace(a.newLinear(path, p, cfg.Rank, cfg.Scale()))
	})
	if failed != nil {
		return nil, failed
	}
	if len(a.Modules) == 0 {
		return nil, fmt.Errorf("lora: the targets %v match none of the %d linear layers; their names end in: %s", cfg.Targets, len(paths), suffixes(paths))
	}
	a.targets = commonNames(a.Modules, paths)
	return a, nil
}

func (a *Adapter) newLinear(path string, base layers.Projection, rank int, scale float64) *Linear {
	in, out := base.Features()
	param := a.Config.Param
	if param == tensor.Invalid {
		param = tensor.F32
	}
	l := &Linear{Base: base, Scale: scale, set: a}
	l.A = graph.NewVar(path+".lora_A.weight", tensor.T(param, rank, in))
	l.B = graph.NewVar(path+".lora_B.weight", tensor.T(param, out, rank))
	l.A.Trainable, l.B.Trainable = true, true
	l.Dropout = layers.Dropout{Rate: a.Config.Dropout, Site: uint32(len(a.Modules))}
	a.Modules = append(a.Modules, Module{path, l})
	return l
}

// Init gives every adapter its initial value: A Kaiming-uniform with a = √5, B zero, so that the model begins unchanged; an
// adapter that was loaded begins with what was saved.
func (a *Adapter) Init(values layers.Values) error {
	if a.saved != nil {
		return a.initSaved(values)
	}
	for _, m := range a.Modules {
		l := m.Linear
		in, _ := l.Features()
		if err := values.Set(l.A, layers.LinearInit(in).Value(a.Config.Seed, l.A)); err != nil {
			return err
		}
		if err := values.Set(l.B, tensor.New(l.B.Type)); err != nil {
			return err
		}
	}
	return nil
}

// Vars returns A and B of every module, in order.
func (a *Adapter) Vars() []*graph.Var {
	var out []*graph.Var
	for _, m := range a.Modules {
		out = append(out, m.Linear.A, m.Linear.B)
	}
	return out
}
