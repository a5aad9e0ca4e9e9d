package ops

import (
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Rounding is how an update brings a parameter of 16 bits back to its type. Float32 parameters need none.
type Rounding uint8

// The ways to round.
const (
	// Nearest rounds to the nearest value, ties to even, after the step and after the decay, as bitsandbytes' kernels do. Steps and
	// decays of less than half a unit in the last place change nothing.
	Nearest Rounding = iota
	// Stochastic rounds once, at the end, as StochasticRound does.
	Stochastic
	// Kahan keeps what rounding lost in a state of the parameters' type, comp, and adds it before the next step (Kahan 1965; for training in
	// bfloat16: Zamirai et al. 2020): the two together hold about twice the type's digits.
	Kahan
	numRoundings
)

// WeightRounding is how an update rounds: part of every one.
type WeightRounding struct {
	Rounding Rounding
	Seed     uint64 // of Stochastic
}

// Compensated reports whether a state holds what rounding lost: its own, last one.
func (r WeightRounding) Compensated(l *Layout) bool {
	return r.Rounding == Kahan && l != nil && l.dtype() != tensor.F32
}

// comp is the state of the compensation, if there is one.
func (r WeightRounding) comp(l *Layout) []StateSpec {
	if !r.Compensated(l) {
		return nil
	}
	return []StateSpec{{"comp", l.Type(), EachElement}}
}

// store rounds the new parameters, float32, to their type: the first pair for keepUnless, and that of the compensation if there is one.
func (r WeightRounding) store(l *Layout, u updateIn, p1, used Value) (pairs, comp [][2]Value) {
	d := u.p.Type().DType
	rounded := Cast(p1, d)
	switch {
	case r.Rounding == Stochastic && d != tensor.F32:
		rounded = RoundStep(StochasticRound{r.Seed, l}, p1, u.step)
	case r.Compensated(l):
		old := u.states[len(u.states)-1]
		lost := Cast(Sub(p1, Cast(rounded, tensor.F32)), d)
		comp = [][2]Value{{old, Where(used, lost, old)}}
	}
	return [][2]Value{{u.p, Where(used, rounded, u.p)}}, comp
}

// wide is the parameters in float32, with what rounding lost of them.
func (r WeightRounding) wide(l *Layout, u updateIn) Value {
	p := Cast(u.p, tensor.F32)
	if r.Compensated(l) {
		p = Add(p, Cast(u.states[len(u.states)-1], tensor.F32))
	}
	return p
}
