package optim

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestScheduleNumbers compares with numbers that the formulas of transformers' optimization.py (after the warm-up, where the two
// agree on what a step is) and torch's OneCycleLR gave when written anew in Python.
func TestScheduleNumbers(t *testing.T) {
	base := Schedule{LR: 0.8, Warmup: 4, Total: 20}
	with := func(kind string, f func(s *Schedule)) Schedule {
		s := base
		s.Kind = kind
		f(&s)
		return s
	}
	nop := func(*Schedule) {}
	usual := []int{4, 5, 10, 15, 19, 20}
	wsd := []int{4, 13, 14, 15, 17, 19}
	for name, c := range map[string]struct {
		s     Schedule
		steps []int
		want  []float64
	}{
		"linear": {with("linear", nop), usual, []float64{0.8, 0.75, 0.5, 0.25, 0.05, 0}},
		"cosine with floor": {with("cosine", func(s *Schedule) { s.MinLR = 0.08 }), usual,
			[]float64{0.8, 0.793082700945163, 0.5777660356514324, 0.23999471611294332, 0.08691729905483705, 0.08}},
		"cosine with restart": {with("cosine", func(s *Schedule) { s.Cycles = 2 }), []int{4, 8, 11, 12, 16, 19},
			[]float64{0.8, 0.4, 0.030448186995485307, 0.8, 0.4, 0.030448186995485307}},
		"polynomial": {with("polynomial", func(s *Schedule) { s.Power, s.MinLR = 2, 0.01 }), usual,
			[]float64{0.8, 0.7043359375, 0.31859375, 0.0871484375, 0.0130859375, 0.01}},
		"inverse_sqrt": {with("inverse_sqrt", nop), usual,
			[]float64{0.8, 0.7155417527999327, 0.5059644256269407, 0.4131182235954578, 0.3670651741928988, 0.35777087639996635}},
		"inverse_sqrt timescale": {with("inverse_sqrt", func(s *Schedule) { s.Timescale = 9 }), usual,
			[]float64{0.8, 0.758946638440411, 0.6196773353931867, 0.5366563145999496, 0.48989794855663565, 0.48}},
		"inverse_sqrt floor": {with("inverse_sqrt", func(s *Schedule) { s.MinLR = 0.6 }), usual, []float64{0.8, 0.7155417527999327, 0.6, 0.6, 0.6, 0.6}},
		"wsd linear":         {with("wsd", func(s *Schedule) { s.Decay, s.MinLR = 6, 0.08 }), wsd, []float64{0.8, 0.8, 0.8, 0.68, 0.44, 0.2}},
		"wsd cosine": {with("wsd", func(s *Schedule) { s.Decay, s.MinLR, s.Shape = 0.3, 0.08, "cosine" }), wsd,
			[]float64{0.8, 0.8, 0.8, 0.751769145362398, 0.44, 0.12823085463760206}},
		"wsd sqrt": {with("wsd", func(s *Schedule) { s.Decay, s.MinLR, s.Shape = 6, 0.08, "sqrt" }), wsd,
			[]float64{0.8, 0.8, 0.8, 0.5060612308660186, 0.29088311754568574, 0.14273293099380063}},
		"rex": {with("rex", nop), usual, []float64{0.8, 0.7741935483870968, 0.6153846153846154, 0.38095238095238093, 0.09411764705882353, 0}},
		"onecycle": {Schedule{Kind: "onecycle", LR: 0.8, Total: 10}, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 99},
			[]float64{0.032, 0.416, 0.8, 0.7603877056107791, 0.6493965231598104, 0.48900961754903144, 0.3109935824509686, 0.1506066768401896,
				0.03961549438922103, 3.2e-6, 3.2e-6}},
		"onecycle apex between steps": {Schedule{Kind: "onecycle", LR: 1, Warmup: 0.25, StartDiv: 10, EndDiv: 100, Total: 7}, []int{0, 1, 2, 3, 4, 5, 6},
			[]float64{0.1, 0.9944209976994517, 0.8666594099789982, 0.611649206511179, 0.31801215832898566, 0.08779373222916066, 0.001}},
		// Cycles of 2, 4 and 8 steps after the warm-up.
		"growing cycles": {Schedule{Kind: "cosine", LR: 1, Warmup: 2, Total: 16, Cycles: 3, CycleMult: 2}, []int{2, 3, 4, 6, 8, 12, 16},
			[]float64{1, 0.5, 1, 0.5, 1, 0.5, 0}},
		"shrinking cycles": {Schedule{Kind: "cosine", LR: 1, Total: 12, Cycles: 2, CycleMult: 0.5}, []int{0, 4, 8, 10, 12}, []float64{1, 0.5, 1, 0.5, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, c.s.Check())
			for i, step := range c.steps {
				require.InDelta(t, c.want[i], c.s.At(step), 1e-14, "step %d", step)
			}
		})
	}
}

func TestScheduleRefuses(t *testing.T) {
	for want, s := range map[string]Schedule{
		"above the learning rate":   {Kind: "cosine", LR: 1e-3, MinLR: 0.1},
		"lowest rate":               {Kind: "cosine", LR: 1, MinLR: -1},
		"cycles":                    {Kind: "cosine", Cycles: -1},
		"shorter than a step":       {Kind: "cosine", LR: 1, Total: 20, Cycles: 30},
		"relative to the one":       {Kind: "cosine", CycleMult: math.Inf(1)},
		"power":                     {Kind: "polynomial", Power: -1},
		"timescale":                 {Kind: "inverse_sqrt", Timescale: math.NaN()},
		"decay (a share":            {Kind: "wsd", Decay: -0.1},
		"linear, cosine, sqrt":      {Kind: "wsd", Shape: "steep"},
		"divisors":                  {Kind: "onecycle", StartDiv: 0.5},
		`did you mean "polynomial"`: {Kind: "polynomal"},
	} {
		require.ErrorContains(t, s.Check(), want)
	}
	require.Error(t, Schedule{Kind: "cosine", LR: 1, Total: 2000, Cycles: 1000, CycleMult: 1e9}.Check())
	require.Zero(t, Schedule{Kind: "wsd", Shape: "steep", LR: 1, Total: 3}.At(2), "unchecked")
}

func drawSchedule(t *rapid.T) Schedule {
	s := Schedule{Kind: rapid.SampledFrom(ScheduleNames()).Draw(t, "kind"), LR: rapid.Float64Range(1e-9, 1).Draw(t, "lr"),
		Total: rapid.IntRange(1, 300).Draw(t, "total"), Cycles: rapid.IntRange(0, 5).Draw(t, "cycles"),
		CycleMult: rapid.SampledFrom([]float64{0, 0.5, 1, 1.5, 2}).Draw(t, "mult"), Power: rapid.Float64Range(0, 4).Draw(t, "power"),
		Timescale: rapid.Float64Range(0, 1e5).Draw(t, "timescale"), Shape: rapid.SampledFrom([]string{"", "linear", "cosine", "sqrt"}).Draw(t, "shape"),
		StartDiv: rapid.Float64Range(1, 100).Draw(t, "start_div"), EndDiv: rapid.Float64Range(1, 1e5).Draw(t, "end_div")}
	share := func(name string) float64 {
		if rapid.Bool().Draw(t, name+" is a share") {
			return rapid.Float64Range(0, 0.999).Draw(t, name)
		}
		return float64(rapid.IntRange(0, 400).Draw(t, name))
	}
	s.Warmup, s.Decay = share("warmup"), share("decay")
	s.MinLR = s.LR * rapid.Float64Range(0, 1).Draw(t, "floor")
	return s
}

// TestScheduleInvariants holds every kind to: finite, within [0, LR], up through the warm-up, never up after it but at a restart, no
// jump down, above the floor, and near it at the end.
func TestScheduleInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSchedule(t)
		if s.Check() != nil {
			t.Skip("cycles too short")
		}
		w := s.WarmupSteps()
		peak := 0.0
		for i := range s.Total + 3 {
			lr := s.At(i)
			if math.IsNaN(lr) || lr < 0 || lr > s.LR*(1+1e-12) {
				t.Fatalf("step %d has the rate %v", i, lr)
			}
			if again := s.At(i); again != lr {
				t.Fatalf("step %d has the rates %v and %v", i, lr, again)
			}
			peak = max(peak, lr)
			if i == 0 {
				continue
			}
			before := s.At(i - 1)
			switch restart := s.Kind == "cosine" && s.Cycles > 1; {
			case s.Kind == "onecycle":
			case i < w && !(lr > before):
				t.Fatalf("the warm-up falls at step %d: %v after %v", i, lr, before)
			case i >= w && i > 0 && lr > before*(1+1e-12) && !restart && i != w:
				t.Fatalf("the rate rises at step %d: %v after %v", i, lr, before)
			}
			if floor := s.MinLR; s.Kind != "onecycle" && i >= w && lr < floor*(1-1e-12) {
				t.Fatalf("step %d has the rate %v, below the floor %v", i, lr, floor)
			}
		}
		if s.Kind != "onecycle" && w < s.Total && peak < s.LR*(1-1e-12) {
			t.Fatalf("the highest rate is %v, not %v", peak, s.LR)
		}
		switch s.Kind {
		case "linear", "cosine", "rex":
			if d := math.Abs(s.At(s.Total) - s.MinLR); w < s.Total && d > 1e-9*s.LR {
				t.Fatalf("the end is %v, not %v", s.At(s.Total), s.MinLR)
			}
		}
	})
}

// TestScheduleContinuity halves the steps: the largest change of a step must shrink with them, at every border of phases too.
func TestScheduleContinuity(t *testing.T) {
	for _, kind := range ScheduleNames() {
		jump := func(total int) (most float64) {
			s := Schedule{Kind: kind, LR: 1, Warmup: 0.25, Decay: 0.25, Total: total, MinLR: 0.1, Shape: "sqrt"}
			for i := 1; i <= total; i++ {
				most = max(most, math.Abs(s.At(i)-s.At(i-1)))
			}
			return most
		}
		require.Less(t, jump(4096), max(jump(1024)*0.6, 1e-9), kind)
	}
}

// TestPlateauNumbers compares with torch's ReduceLROnPlateau(mode="min", factor=0.2, patience=1, cooldown=1, min_lr=0.02) on a rate
// of 0.5, its rules written anew in Python.
func TestPlateauNumbers(t *testing.T) {
	losses := []float64{1, .9, .9, .95, .9, .9, .9, .9, .8, .8, .8, .8, .8, .8}
	want := []float64{0.5, 0.5, 0.5, 0.1, 0.1, 0.1, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02}
	p, err := NewPlateau(PlateauOptions{Factor: 0.2, Patience: 1, Cooldown: 1, MinScale: 0.04}, PlateauState{})
	require.NoError(t, err)
	var reduced []int
	for i, l := range losses {
		if p.Observe(l) {
			reduced = append(reduced, i)
		}
		require.InDelta(t, want[i], 0.5*p.Scale, 1e-15, "measurement %d", i)
	}
	require.Equal(t, []int{3, 6}, reduced)
}

// TestPlateauResumes cuts a series of measurements anywhere and goes on from the saved state.
func TestPlateauResumes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := PlateauOptions{Factor: rapid.Float64Range(0.1, 0.9).Draw(t, "factor"), Patience: rapid.IntRange(0, 3).Draw(t, "patience"),
			Cooldown: rapid.IntRange(0, 3).Draw(t, "cooldown"), MinScale: rapid.Float64Range(0, 1).Draw(t, "floor")}
		losses := rapid.SliceOfN(rapid.Float64Range(-2, 2), 1, 40).Draw(t, "losses")
		cut := rapid.IntRange(0, len(losses)).Draw(t, "cut")
		whole, err := NewPlateau(o, PlateauState{})
		require.NoError(t, err)
		parts, err := NewPlateau(o, PlateauState{})
		require.NoError(t, err)
		for i, l := range losses {
			if i == cut {
				raw, err := json.Marshal(parts.State())
				require.NoError(t, err)
				var s PlateauState
				require.NoError(t, json.Unmarshal(raw, &s))
				parts, err = NewPlateau(o, s)
				require.NoError(t, err)
			}
			before := whole.Scale
			require.Equal(t, whole.Observe(l), parts.Observe(l))
			require.Equal(t, whole.State(), parts.State())
			require.LessOrEqual(t, whole.Scale, before)
			require.GreaterOrEqual(t, whole.Scale, min(o.MinScale, before))
		}
	})
}

func TestPlateauRefuses(t *testing.T) {
	for want, c := range map[string]struct {
		o PlateauOptions
		s PlateauState
	}{
		"factor":    {PlateauOptions{Factor: 1}, PlateauState{}},
		"patience":  {PlateauOptions{Patience: -1}, PlateauState{}},
		"threshold": {PlateauOptions{Threshold: 1}, PlateauState{}},
		"lowest":    {PlateauOptions{MinScale: 2}, PlateauState{}},
		"damaged":   {PlateauOptions{}, PlateauState{Scale: math.NaN()}},
	} {
		_, err := NewPlateau(c.o, c.s)
		require.ErrorContains(t, err, want)
	}
	p, err := NewPlateau(PlateauOptions{}, PlateauState{})
	require.NoError(t, err)
	require.True(t, p.Observe(math.NaN()), "no patience, no progress")
}

// TestPlateauOfOverflow: a loss that overflowed is no progress, and the state can be saved.
func TestPlateauOfOverflow(t *testing.T) {
	for _, sign := range []int{1, -1} {
		p, err := NewPlateau(PlateauOptions{Patience: 1}, PlateauState{})
		require.NoError(t, err)
		require.False(t, p.Observe(math.Inf(sign)))
		_, err = json.Marshal(p.State())
		require.NoError(t, err)
		require.Nil(t, p.Best)
		require.False(t, p.Observe(3))
		require.InDelta(t, 3, *p.Best, 0)
	}
}
