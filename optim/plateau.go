package optim

import (
	"fmt"
	"math"
)

// PlateauOptions of a Plateau; zero values take the defaults of torch's ReduceLROnPlateau, but for MinScale.
type PlateauOptions struct {
	Factor    float64 // the rate is multiplied by it, in (0, 1); 0: 0.1
	Patience  int     // measurements without progress that are borne; the next one reduces. 0: none
	Cooldown  int     // measurements after a reduction that are not counted
	Threshold float64 // progress is a loss below best·(1-Threshold); 0: 1e-4
	MinScale  float64 // the scale does not fall below it, in [0, 1]
}

// DefaultPatience is torch's.
const DefaultPatience = 10

// PlateauState is what a Plateau remembers between measurements. The zero value is that of a new one. It is saved with the run, so
// that a resumed run reduces the rate where the undisturbed one does.
type PlateauState struct {
	Scale    float64  `json:"scale"`          // factor of the rate; 0 stands for 1
	Best     *float64 `json:"best,omitempty"` // least loss so far, nil before the first
	Bad      int      `json:"bad"`            // measurements in a row without progress
	Cooldown int      `json:"cooldown"`       // measurements left that are not counted
}

// Plateau reduces the learning rate when a loss has stopped falling, as torch's ReduceLROnPlateau does in its mode min with a
// relative threshold. It is the one schedule with a memory: its rate is that of a Schedule times Scale.
type Plateau struct {
	PlateauState
	o PlateauOptions
}

// NewPlateau continues from a state, which is zero for a new run.
func NewPlateau(o PlateauOptions, s PlateauState) (*Plateau, error) {
	o.Factor, o.Threshold = or(o.Factor, 0.1), or(o.Threshold, 1e-4)
	switch {
	case !(o.Factor > 0 && o.Factor < 1):
		return nil, fmt.Errorf("plateau: the factor %v must be above 0 and below 1", o.Factor)
	case o.Patience < 0 || o.Cooldown < 0:
		return nil, fmt.Errorf("plateau: patience %d and cooldown %d must not be negative", o.Patience, o.Cooldown)
	case !(o.Threshold >= 0 && o.Threshold < 1):
		return nil, fmt.Errorf("plateau: the threshold %v must be in [0, 1)", o.Threshold)
	case !(o.MinScale >= 0 && o.MinScale <= 1):
		return nil, fmt.Errorf("plateau: the lowest scale %v must be in [0, 1]", o.MinScale)
	}
	s.Scale = or(s.Scale, 1)
	if !(s.Scale > 0 && s.Scale <= 1) || s.Bad < 0 || s.Cooldown < 0 || s.Best != nil && math.IsNaN(*s.Best) {
		return nil, fmt.Errorf("plateau: the saved state %+v is damaged: scale must be in (0, 1], counts not negative", s)
	}
	return &Plateau{PlateauState: s, o: o}, nil
}

// State returns a copy of the memory, to be saved.
func (p *Plateau) State() PlateauState {
	s := p.PlateauState
	if s.Best != nil {
		best := *s.Best
		s.Best = &best
	}
	return s
}

// Observe takes a measurement and reports whether the rate was reduced. A loss that is not a finite number is no progress.
func (p *Plateau) Observe(loss float64) (reduced bool) {
	if p.progress(loss) {
		p.Best, p.Bad = &loss, 0
	} else {
		p.Bad++
	}
	if p.Cooldown > 0 {
		p.Cooldown, p.Bad = p.Cooldown-1, 0
	}
	if p.Bad <= p.o.Patience {
		return false
	}
	p.Cooldown, p.Bad = p.o.Cooldown, 0
	next := max(p.Scale*p.o.Factor, p.o.MinScale)
	if next > p.Scale*(1-leastReduction) {
		return false
	}
	p.Scale = next
	return true
}

// leastReduction is the share below which a change is rounding at the floor, not a reduction.
const leastReduction = 1e-8

func (p *Plateau) progress(loss float64) bool {
	switch {
	case math.IsNaN(loss) || math.IsInf(loss, 0):
		return false
	case p.Best == nil:
		return true
	}
	// Of a negative loss the threshold asks for more, not for less.
	return loss < *p.Best-math.Abs(*p.Best)*p.o.Threshold
}
