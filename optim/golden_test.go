package optim_test

import (
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/internal/golden/bnb"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestGoldenBNBOptim replays the steps of bitsandbytes' CUDA optimizers, by class name, through a group: parameters in their dtype and
// every state. A parameter behind an 8-bit code that differs, perhaps only at a step that was not recorded, may be far off.
// Informative cases and those that the library refuses are run and logged.
func TestGoldenBNBOptim(t *testing.T) {
	cases, read := bnb.OptimCases(t)
	dev := cpu.New(cpu.Options{Threads: 2})
	defer func() { require.NoError(t, dev.Close()) }()
	var all tally
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			y := run(t, c.Trial(t, dev, read), 1, read)
			switch {
			case c.Error != "":
				t.Logf("the library: %.60s; here: finite parameters", c.Error)
			case c.Informative != nil:
				t.Logf("informative: %v: %+v", c.Informative, y)
			default:
				t.Logf("%+v", y)
				all.add(y)
			}
		})
	}
	t.Logf("%d cases: %+v", len(cases), all)
	all.check(t)
}

// TestGoldenBNBOptimResume loads what the library recorded after a step and compares the steps that follow.
func TestGoldenBNBOptimResume(t *testing.T) {
	cases, read := bnb.OptimCases(t)
	dev := cpu.New(cpu.Options{Threads: 2})
	defer func() { require.NoError(t, dev.Close()) }()
	var all tally
	ran := 0
	for _, c := range cases {
		if c.Error != "" || c.Informative != nil {
			continue
		}
		ran++
		t.Run(c.Name, func(t *testing.T) {
			from := 3
			r := c.Trial(t, dev, read)
			want := c.Steps[strconv.Itoa(from)]
			d, err := r.Group.StateDict(r.Store, c.Hyper.LR)
			require.NoError(t, err)
			for key, from := range map[string]string{"state1": want.State1, "state2": want.State2, "absmax1": want.Absmax1, "absmax2": want.Absmax2} {
				name := "state.0.__bnb_optimizer_quant_state__." + key
				if from != "" {
					x, err := tensor.FromBytes(d.Tensors[name].Type(), read(from).Bytes())
					require.NoError(t, err)
					d.Tensors[name] = x
				}
			}
			d.Document = []byte(strings.Replace(string(d.Document), `"step":0`, `"step":`+strconv.Itoa(from), 1))
			require.NoError(t, r.Group.LoadStateDict(d, r.Store))
			require.NoError(t, r.Store.Set(r.Param, read(want.Param)))
			all.add(run(t, r, from+1, read))
		})
	}
	t.Logf("%d cases: %+v", ran, all)
	all.check(t)
}

// check applies the limits of the whole set.
func (y *tally) check(t *testing.T) {
	require.Positive(t, y.Codes*y.Params)
	require.Zero(t, y.CodesFar+y.StatesFar+y.ScalesFar+y.UnormsFar)
	require.LessOrEqual(t, y.CodesOff*1000, y.Codes)
	require.Zero(t, y.ParamsFar)
	require.Zero(t, y.HalvesFar)
}

// tally counts elements compared, off by one index or unit in the last place, and beyond the limits; and the largest differences: of
// float32 parameters as a share of lr, of 32-bit states of their largest value, of scales and norms relative.
type tally struct {
	Codes, CodesOff, CodesFar, Scales, ScalesFar, States, StatesFar int
	Params, ParamsFar, Halves, HalvesOff, HalvesFar                 int
	Unorms, UnormsFar                                               int
	Param, State, Scale, Unorm                                      float64
}

func (y *tally) add(o tally) {
	y.Codes, y.CodesOff, y.CodesFar = y.Codes+o.Codes, y.CodesOff+o.CodesOff, y.CodesFar+o.CodesFar
	y.Scales, y.ScalesFar = y.Scales+o.Scales, y.ScalesFar+o.ScalesFar
	y.States, y.StatesFar = y.States+o.States, y.StatesFar+o.StatesFar
	y.Params, y.ParamsFar = y.Params+o.Params, y.ParamsFar+o.ParamsFar
	y.Halves, y.HalvesOff, y.HalvesFar = y.Halves+o.Halves, y.HalvesOff+o.HalvesOff, y.HalvesFar+o.HalvesFar
	y.Unorms, y.UnormsFar = y.Unorms+o.Unorms, y.UnormsFar+o.UnormsFar
	y.Param, y.State, y.Scale, y.Unorm = max(y.Param, o.Param), max(y.State, o.State), max(y.Scale, o.Scale), max(y.Unorm, o.Unorm)
}

// trial is a case in progress and what was found.
type trial struct {
	*bnb.OptimTrial
	differs []bool // elements behind a code that differs
	tally   tally
}

// run makes the steps of a trial from a first one on and compares them.
func run(t *testing.T, o *bnb.OptimTrial, first int, read func(string) *tensor.Tensor) tally {
	r := &trial{OptimTrial: o, differs: make([]bool, o.N)}
	r.Run(t, first, read, func(step int) { r.compare(t, step, read) })
	return r.tally
}

// compare looks at everything that was recorded of a step.
func (r *trial) compare(t *testing.T, step int, read func(string) *tensor.Tensor) {
	p, err := r.Store.Get(r.Param)
	require.NoError(t, err)
	for i := range r.N {
		require.False(t, r.Error != "" && math.IsNaN(p.At(i)))
	}
	want, ok := r.Steps[strconv.Itoa(step)]
	if !ok {
		return
	}
	blocks := (r.N + ops.SlabAlign - 1) / ops.SlabAlign
	for _, s := range []struct {
		name, key string
		at, n     int
		compare   func(got, want *tensor.Tensor, at, n int)
	}{
		{"state1", want.State1, 0, r.N, r.state}, {"state2", want.State2, 0, r.N, r.state}, {"state3", want.State1, r.N, r.N, r.state},
		{"absmax1", want.Absmax1, 0, blocks, r.scale}, {"absmax2", want.Absmax2, 0, blocks, r.scale},
		{"absmax3", want.Absmax1, blocks, blocks, r.scale}, {"unorm_vec", want.Unorm, 0, 1, r.unorm},
	} {
		got := r.State(t, s.name)
		if s.key == "" || got == nil && strings.HasSuffix(s.name, "3") { // only some rules have a third
			continue
		}
		require.NotNil(t, got, "%s of step %d is not kept", s.name, step)
		s.compare(got, read(s.key), s.at, s.n)
	}
	r.param(p, read(want.Param))
}

func (r *trial) state(got, want *tensor.Tensor, at, n int) {
	y, top := &r.tally, largest(want, at, n)
	for i := range n {
		diff := math.Abs(want.At(at+i) - got.At(i))
		if got.DType() == tensor.U8 {
			y.Codes++
			y.CodesOff += count(diff > 0)
			y.CodesFar += count(diff > 1)
			r.differs[i] = r.differs[i] || diff > 0
			continue
		}
		y.States++
		y.StatesFar += count(!(diff <= 1e-5*top))
		y.State = max(y.State, diff/top)
	}
}

func (r *trial) scale(got, want *tensor.Tensor, at, n int) {
	for i := range n {
		diff := math.Abs(want.At(at+i)-got.At(i)) / max(want.At(at+i), math.SmallestNonzeroFloat32)
		r.tally.Scales++
		r.tally.ScalesFar += count(!(diff <= 1e-5))
		r.tally.Scale = max(r.tally.Scale, diff)
	}
}

// unorm compares sums of squares, which the kernels add up in an order that varies.
func (r *trial) unorm(got, want *tensor.Tensor, _, _ int) {
	diff := math.Abs(want.At(0)-got.At(0)) / want.At(0)
	r.tally.Unorms++
	r.tally.UnormsFar += count(!(diff <= 1e-3))
	r.tally.Unorm = max(r.tally.Unorm, diff)
}

func (r *trial) param(got, want *tensor.Tensor) {
	limit := 1e-5 * largest(want, 0, r.N)
	if strings.HasPrefix(r.Cls, "Ad") && !strings.HasPrefix(r.Cls, "Adagrad") || strings.HasPrefix(r.Cls, "LAMB") {
		limit = max(limit, 3e-4*r.Hyper.LR)
	}
	y := &r.tally
	for i, d := range r.differs {
		diff := math.Abs(want.At(i) - got.At(i))
		switch {
		case d:
		case got.DType() == tensor.F32:
			y.Params++
			y.ParamsFar += count(!(diff <= limit))
			y.Param = max(y.Param, diff/r.Hyper.LR)
		default:
			y.Halves++
			y.HalvesOff += count(diff > 0)
			y.HalvesFar += count(!(diff <= limit+unit(got.DType(), want.At(i))))
		}
	}
}

// unit is the distance of neighbours of a 16-bit type at x.
func unit(d tensor.DType, x float64) float64 {
	_, e := math.Frexp(x)
	if d == tensor.F16 {
		return math.Ldexp(1, max(e-11, -24))
	}
	return math.Ldexp(1, e-8)
}

func largest(x *tensor.Tensor, at, n int) (top float64) {
	for i := range n {
		top = max(top, math.Abs(x.At(at+i)))
	}
	return top
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}
