package optim

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// Schedule is the learning rate as a pure function of the step. The zero Kind is constant, and every other zero is a usual value.
// Which kinds read which fields is written at each; others ignore them.
type Schedule struct {
	Kind   string  // one of ScheduleNames
	LR     float64 // the highest rate
	Warmup float64 // below 1 a share of Total, rounded up, else steps. In onecycle it is the whole rise; 0 there: 0.3
	Total  int     // steps of the run

	MinLR     float64 // the rate that the fall of linear, cosine, polynomial, wsd and rex ends at, and the least of inverse_sqrt and plateau
	Cycles    int     // of cosine: times that the rate falls; each fall but the first begins with a restart at LR. 0: 1
	CycleMult float64 // of cosine: length of a cycle relative to the one before; 0: 1
	Power     float64 // of polynomial; 0: 1
	Timescale float64 // of inverse_sqrt, in steps: the rate is LR·√(Timescale/(step-w+Timescale)); 0: the warm-up, without any 10,000
	Decay     float64 // of wsd: the fall at the end, below 1 a share of Total, rounded up, else steps; 0: 0.1
	Shape     string  // of wsd: how it falls, linear (""), cosine or sqrt, which is 1-√x (Hägele et al. 2024, arXiv 2405.18392)
	StartDiv  float64 // of onecycle: the first rate is LR/StartDiv; 0: 25
	EndDiv    float64 // of onecycle: the last rate is LR/StartDiv/EndDiv; 0: 10,000
}

// schedules make the shapes after the warm-up: the share of the way from MinLR to LR that is left at progress x in [0, 1], the
// progress from step w to step Total.
var schedules = map[string]func(s Schedule) func(x float64) float64{
	"":         flat,
	"constant": flat,
	"plateau":  flat, // what Plateau scales
	"linear":   func(Schedule) func(float64) float64 { return linearFall },
	"cosine": func(s Schedule) func(float64) float64 {
		return func(x float64) float64 { return cosineFall(s.inCycle(x)) }
	},
	"polynomial": func(s Schedule) func(float64) float64 {
		return func(x float64) float64 { return math.Pow(1-x, or(s.Power, 1)) }
	},
	"inverse_sqrt": Schedule.inverseSqrt,
	"onecycle":     func(Schedule) func(float64) float64 { return nil }, // has a warm-up of its own, see oneCycle
	"wsd":          Schedule.warmupStableDecay,
	"rex":          func(Schedule) func(float64) float64 { return rexFall },
}

// falls are the shapes of wsd's end.
var falls = map[string]func(x float64) float64{"": linearFall, "linear": linearFall, "cosine": cosineFall, "sqrt": sqrtFall}

func flat(Schedule) func(float64) float64 { return func(float64) float64 { return 1 } }

func linearFall(x float64) float64 { return 1 - x }
func cosineFall(x float64) float64 { return (1 + math.Cos(math.Pi*x)) / 2 }
func sqrtFall(x float64) float64   { return 1 - math.Sqrt(x) }

// rexFall is the reflected exponential of Chen, Wolfe and Kyrillidis (2021, arXiv 2107.04197).
func rexFall(x float64) float64 { return (1 - x) / (0.5 + 0.5*(1-x)) }

func or(v, usual float64) float64 {
	if v == 0 {
		return usual
	}
	return v
}

// ScheduleNames lists the kinds in order.
func ScheduleNames() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(schedules)), func(s string) bool { return s == "" })
}

// Check returns what is wrong with the schedule.
func (s Schedule) Check() error {
	switch {
	case schedules[s.Kind] == nil:
		return fmt.Errorf("schedule %q is unknown%s; there are: %s", s.Kind, didYouMean(s.Kind, ScheduleNames()),
			strings.Join(ScheduleNames(), ", "))
	case falls[s.Shape] == nil:
		return fmt.Errorf("the shape %q of wsd's decay is unknown; there are: linear, cosine, sqrt", s.Shape)
	case s.Total < 0:
		return fmt.Errorf("%d steps in all is negative", s.Total)
	case s.Cycles < 0 || s.Cycles > maxCycles:
		return fmt.Errorf("%d cycles are not from 1 to %d", s.Cycles, maxCycles)
	case s.MinLR > s.LR:
		return fmt.Errorf("the lowest rate %v is above the learning rate %v; it is a rate, not a share of it", s.MinLR, s.LR)
	}
	for _, f := range []struct {
		what string
		v    float64
	}{
		{"learning rate", s.LR}, {"warm-up (a share below 1, else steps)", s.Warmup}, {"lowest rate", s.MinLR},
		{"length of a cycle relative to the one before", s.CycleMult}, {"power", s.Power}, {"timescale", s.Timescale},
		{"decay (a share below 1, else steps)", s.Decay}, {"divisor of the first rate", s.StartDiv}, {"divisor of the last rate", s.EndDiv},
	} {
		if !(f.v >= 0) || math.IsInf(f.v, 1) {
			return fmt.Errorf("the %s is %v; it must be a finite number that is not negative", f.what, f.v)
		}
	}
	if !(s.shortestCycle() >= 1-1e-9) {
		return fmt.Errorf("%d cycles, each %v times as long as the one before, do not fit in %d steps: one would be shorter than a step",
			s.Cycles, or(s.CycleMult, 1), s.Total-s.WarmupSteps())
	}
	if s.StartDiv > 0 && s.StartDiv < 1 || s.EndDiv > 0 && s.EndDiv < 1 {
		return fmt.Errorf("the divisors %v and %v of onecycle must be at least 1", s.StartDiv, s.EndDiv)
	}
	return nil
}

// maxCycles keeps a typing error from becoming a schedule that restarts every step.
const maxCycles = 1 << 16

// shortestCycle is the length in steps of the shortest cycle of a cosine with several, else 1.
func (s Schedule) shortestCycle() float64 {
	left := float64(s.Total - s.WarmupSteps())
	if s.Kind != "cosine" || s.Cycles < 2 || s.Total == 0 {
		return 1
	}
	first := left * s.firstCycle()
	return min(first, first*math.Pow(or(s.CycleMult, 1), float64(s.Cycles-1)))
}

// firstCycle is the share of the first cycle.
func (s Schedule) firstCycle() float64 {
	cycles, mult := float64(max(s.Cycles, 1)), or(s.CycleMult, 1)
	if mult == 1 {
		return 1 / cycles
	}
	return (mult - 1) / (math.Pow(mult, cycles) - 1)
}

// WarmupSteps is the number of steps of the warm-up, at most Total.
func (s Schedule) WarmupSteps() int { return s.steps(s.Warmup) }

// steps turns a share below 1, rounded up, or a number of steps into steps of the run.
func (s Schedule) steps(v float64) int {
	if v < 1 {
		v = math.Ceil(v * float64(s.Total))
	}
	if !(v >= 0) {
		return 0
	}
	return int(min(v, float64(max(s.Total, 0))))
}

// At is the learning rate of step 0 to Total-1. With w steps of warm-up it is
//
//	LR·(step+1)/w                                        for step < w: the first step has a rate and step w-1 has LR
//	MinLR + (LR-MinLR)·f(x), x = (step-w)/(Total-w)      after, so that step w has LR and MinLR would be reached at step Total
//
// with f by Kind: 1 (constant, plateau), 1-x (linear), (1+cos πx)/2 (cosine; x within its cycle), (1-x)^Power (polynomial),
// (1-x)/(1/2+(1-x)/2) (rex), 1 and then a fall over the last Decay steps (wsd). inverse_sqrt has no end and onecycle is that of
// torch. Later steps get the rate of step Total; an unknown kind gets 0.
func (s Schedule) At(step int) float64 {
	shape := schedules[s.Kind]
	switch {
	case shape == nil || falls[s.Shape] == nil:
		return 0
	case s.Kind == "onecycle":
		return s.oneCycle(step)
	}
	w := s.WarmupSteps()
	if step < w {
		return s.LR * (float64(max(step, 0)+1) / float64(w))
	}
	x := min(float64(step-w)/float64(max(s.Total-w, 1)), 1)
	f := min(max(shape(s)(x), 0), 1)
	if s.Kind == "inverse_sqrt" {
		return max(s.LR*f, s.MinLR)
	}
	return float64(s.LR*f) + float64(s.MinLR*(1-f))
}

// inCycle is the progress within the cycle that holds x (SGDR: Loshchilov and Hutter 2017, arXiv 1608.03983).
func (s Schedule) inCycle(x float64) float64 {
	start, length, mult := 0.0, s.firstCycle(), or(s.CycleMult, 1)
	// A border that lies on a step belongs to the cycle that begins there, also when rounding puts it a little behind.
	for range s.Cycles - 1 {
		if x < start+length-1e-12 {
			break
		}
		start += length
		length *= mult
	}
	return min(max((x-start)/length, 0), 1)
}

// inverseSqrt falls as the square root of the steps (Vaswani et al. 2017; Raffel et al. 2020).
func (s Schedule) inverseSqrt() func(x float64) float64 {
	w := s.WarmupSteps()
	scale := or(s.Timescale, or(float64(w), 10000))
	return func(x float64) float64 { return math.Sqrt(scale / (x*float64(max(s.Total-w, 1)) + scale)) }
}

// warmupStableDecay stays at the top until the last Decay steps (Hu et al. 2024, arXiv 2404.06395).
func (s Schedule) warmupStableDecay() func(x float64) float64 {
	whole := float64(max(s.Total-s.WarmupSteps(), 1))
	decay := min(float64(s.steps(or(s.Decay, 0.1))), whole)
	return func(x float64) float64 {
		if done := x*whole - (whole - decay); done > 0 {
			return falls[s.Shape](min(done/max(decay, 1), 1))
		}
		return 1
	}
}

// oneCycle rises along a cosine from LR/StartDiv to LR, at step Warmup-1, and falls along another to LR/StartDiv/EndDiv at step
// Total-1: the policy of Smith and Topin (2018, arXiv 1708.07120) with the numbers of torch's OneCycleLR, whose pct_start is Warmup.
func (s Schedule) oneCycle(step int) float64 {
	top := or(s.Warmup, 0.3)
	if top < 1 {
		top *= float64(s.Total) // not rounded, as in torch
	}
	last := float64(max(s.Total, 1) - 1)
	top = min(max(top-1, 0), last)
	first := s.LR / or(s.StartDiv, 25)
	t := min(float64(max(step, 0)), last)
	switch {
	case t < top:
		return first + (s.LR-first)*cosineFall(1-t/top)
	case t == top:
		return s.LR
	}
	end := first / or(s.EndDiv, 1e4)
	return end + (s.LR-end)*cosineFall((t-top)/(last-top))
}
