package trainer

import (
	"regexp"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// optimizerOf makes the optimizer that the configuration names.
func optimizerOf(t config.Train) (*optim.Optimizer, error) {
	a := t.OptimizerArgs
	c := optim.Config{Eps: t.Eps, WeightDecay: t.WeightDecay, Min8bitSize: t.Min8bitSize, Momentum: a.Momentum, Dampening: a.Dampening,
		Nesterov: a.Nesterov, Alpha: a.Alpha, TAlpha: a.TAlpha, TBeta3: a.TBeta3, MaxUnorm: a.MaxUnorm, SkipZeros: a.SkipZeros,
		DecayRate: a.DecayRate, Eps2: a.Eps2, ClipThreshold: a.ClipThreshold, Relative: a.Relative, Absolute: a.Absolute,
		NewtonSchulz: a.NewtonSchulz, SpectralScale: a.SpectralScale, Seed: t.Seed}
	_, c.Rounding = storageOf(t)
	for i, b := range t.Betas {
		switch i {
		case 0, 1:
			c.Betas[i] = b
		case 2:
			c.Beta3 = b
		}
	}
	return optim.New(t.Optimizer, c)
}

// groupOptions turns train.groups and train.no_decay into settings of single parameters.
func groupOptions(t config.Train, params []*graph.Var) (optim.Options, error) {
	o := optim.Options{LRScale: map[*graph.Var]float64{}, Decay: map[*graph.Var]float64{}}
	for _, p := range params {
		if t.NoDecay == "vectors" && p.Type.Rank() < 2 {
			o.Decay[p] = 0
		}
	}
	for i, g := range t.Groups {
		re, err := regexp.Compile(g.Match)
		if err != nil {
			return o, badConfig("train.groups", "entry %d: %v", i+1, err)
		}
		bits := optim.Override{Bits: g.Bits}
		for _, p := range params {
			if !re.MatchString(p.Name) {
				continue
			}
			bits.Vars = append(bits.Vars, p)
			if g.LRScale != nil {
				o.LRScale[p] = *g.LRScale
			}
			if g.WeightDecay != nil {
				o.Decay[p] = *g.WeightDecay
			}
		}
		if len(bits.Vars) == 0 {
			return o, badConfig("train.groups", "entry %d: %q is found in none of the %d trained parameters, such as %s", i+1, g.Match,
				len(params), someNames(params))
		}
		if g.Bits != 0 {
			o.Overrides = append(o.Overrides, bits)
		}
	}
	return o, nil
}

// someNames lists a few parameters from all over the model.
func someNames(params []*graph.Var) string {
	var names []string
	for i := 0; i < len(params); i += max(len(params)/shownNames, 1) {
		names = append(names, params[i].Name)
	}
	return strings.Join(names[:min(len(names), shownNames)], ", ")
}

// shownNames is how many parameters a message names.
const shownNames = 3

// scheduleOf is the learning rate of a run of so many steps, 0 while the number is not known.
func scheduleOf(t config.Train, total int) optim.Schedule {
	a := t.ScheduleArgs
	return optim.Schedule{Kind: t.Schedule, LR: t.LR, Warmup: t.Warmup, Total: total, MinLR: a.MinLR, Cycles: a.Cycles, CycleMult: a.CycleMult,
		Power: a.Power, Timescale: a.Timescale, Decay: a.Decay, Shape: a.DecayShape, StartDiv: a.StartDiv, EndDiv: a.EndDiv}
}

// makePlateau goes on with the memory of the schedule plateau, zero in a new run.
func (j *job) makePlateau() error {
	t := j.cfg.Train
	if t.Schedule != "plateau" {
		return nil
	}
	if j.evalLoader == nil {
		return badConfig("train.schedule", "plateau follows the loss of held-out rows, and no row is held out; raise data.val")
	}
	a, s := t.ScheduleArgs, optim.PlateauState{}
	if j.state.Plateau != nil {
		s = *j.state.Plateau
	}
	o := optim.PlateauOptions{Factor: a.Factor, Patience: a.Patience, Cooldown: a.Cooldown, Threshold: a.Threshold}
	if t.LR > 0 {
		o.MinScale = a.MinLR / t.LR
	}
	var err error
	if j.plateau, err = optim.NewPlateau(o, s); err != nil {
		return badConfig("train.schedule_args", "%v", err)
	}
	return nil
}

// rate is the learning rate of a step, counted from 0.
func (j *job) rate(step int) float64 {
	lr := j.sched.At(step)
	if j.plateau != nil {
		lr *= j.plateau.Scale
	}
	return lr
}
