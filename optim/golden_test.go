package optim

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/golden"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// bnbCase is a case of optim.json: steps of an optimizer with given gradients.
type bnbCase struct {
	Name, Cls, DType, P0, Grads, Error string
	Informative                        any
	N                                  int
	Group                              struct {
		LR, Eps, Alpha float64
		Betas          []float64
		Decay          float64 `json:"weight_decay"`
		TAlpha         float64 `json:"t_alpha"`
		TBeta3         float64 `json:"t_beta3"`
	}
	Args struct {
		Bits     int     `json:"optim_bits"`
		Min8     int     `json:"min_8bit_size"`
		MaxUnorm float64 `json:"max_unorm"`
	} `json:"opt_args"`
	Steps map[string]struct {
		Param, State1, State2, Absmax1, Absmax2 string
		Unorm                                   string `json:"unorm_vec"`
	}
}

func bnbOptim(t testing.TB) ([]bnbCase, func(key string) *tensor.Tensor) {
	dir := filepath.Join(golden.Dir(t), "bnb")
	raw, err := os.ReadFile(filepath.Join(dir, "optim.json"))
	require.NoError(t, err)
	var all struct{ Cases []bnbCase }
	require.NoError(t, json.Unmarshal(raw, &all))
	f, err := checkpoint.OpenSafetensors(vfs.OS{}, filepath.Join(dir, "optim.safetensors"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return all.Cases, func(key string) *tensor.Tensor {
		x, err := f.Read(key)
		require.NoError(t, err)
		return x
	}
}

// optimizer makes the optimizer of a case from the class name and the hyperparameters that the library reports.
func (c *bnbCase) optimizer(t *testing.T) *Optimizer {
	name := strings.ToLower(c.Cls)
	if !strings.HasSuffix(name, "bit") {
		name += fmt.Sprintf("%dbit", c.Args.Bits)
	}
	h := Config{Eps: c.Group.Eps, WeightDecay: c.Group.Decay, Min8bitSize: c.Args.Min8, MaxUnorm: c.Args.MaxUnorm}
	if h.MaxUnorm == 0 {
		h.MaxUnorm = -1
	}
	copy(h.Betas[:], c.Group.Betas)
	switch {
	case strings.HasPrefix(name, "ademamix"):
		h.Beta3, h.Alpha, h.TAlpha, h.TBeta3 = c.Group.Betas[2], c.Group.Alpha, c.Group.TAlpha, c.Group.TBeta3
	case strings.HasPrefix(name, "rmsprop"):
		h.Alpha = c.Group.Betas[0]
	case strings.HasPrefix(name, "sgd"), strings.HasPrefix(name, "lars"):
		h.Momentum = c.Group.Betas[0]
	}
	o, err := New(name, h)
	require.NoError(t, err)
	return o
}

// TestGoldenBNBOptim replays the steps of bitsandbytes' CUDA optimizers, by class name, through a group: parameters in their dtype and
// every state. A parameter behind an 8-bit code that differs, perhaps only at a step that was not recorded, may be far off.
// Informative cases and those that the library refuses are run and logged.
func TestGoldenBNBOptim(t *testing.T) {
	cases, read := bnbOptim(t)
	dev := device(t, 2)
	var all tally
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			y := c.replay(t, dev, read)
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

// trial is a case in progress.
type trial struct {
	*bnbCase
	p       *graph.Var
	group   *Group
	store   *plan.Store
	differs []bool // elements behind a code that differs
	tally   tally
}

func (c *bnbCase) replay(t *testing.T, dev *cpu.Device, read func(string) *tensor.Tensor) tally {
	return c.trial(t, dev, read).run(t, 1, read)
}

// trial makes the group of a case and sets the parameters.
func (c *bnbCase) trial(t *testing.T, dev *cpu.Device, read func(string) *tensor.Tensor) *trial {
	p0 := read(c.P0)
	r := &trial{bnbCase: c, p: graph.NewVar("p", p0.Type()), store: plan.NewStore(dev), differs: make([]bool, c.N)}
	t.Cleanup(func() { require.NoError(t, r.store.Close()) })
	var err error
	r.group, err = NewGroup([]*graph.Var{r.p}, Options{Optimizer: c.optimizer(t), GradDType: p0.DType()})
	require.NoError(t, err)
	require.NoError(t, r.store.Set(r.p, p0))
	return r
}

// run makes the steps from a first one on.
func (r *trial) run(t *testing.T, first int, read func(string) *tensor.Tensor) tally {
	g := graph.New("step")
	r.group.Apply(g, Scalars{LR: ops.Fill(g, tensor.F32, r.Group.LR)})
	step, err := plan.Compile([]graph.Value{ops.Fill(g, tensor.F32, 0)}, plan.Options{Device: r.store.Device(), Store: r.store})
	require.NoError(t, err)
	defer func() { require.NoError(t, step.Close()) }()
	grads := read(r.Grads)
	width := int(r.p.Type.Bytes())
	for i := first; i <= grads.Shape().Dim(0); i++ {
		grad, err := tensor.FromBytes(r.p.Type, grads.Bytes()[(i-1)*width:i*width])
		require.NoError(t, err)
		grad = grad.Clone()
		r.spoil(t, grad, i)
		require.NoError(t, r.store.Set(r.group.GradVars()[0], grad))
		_, err = step.Run(context.Background(), nil)
		require.NoError(t, err)
		r.compare(t, i, read)
	}
	return r.tally
}

var spoilt = regexp.MustCompile(`\[(\d+)\]=(-?inf|nan)`)

// spoil puts the non-finite gradients that a case describes ("step 2: grad[5]=nan, [300]=inf") into the gradient of a step.
func (c *bnbCase) spoil(t *testing.T, grad *tensor.Tensor, step int) {
	text, ok := strings.CutPrefix(fmt.Sprint(c.Informative), fmt.Sprintf("step %d: grad", step))
	if !ok {
		return
	}
	for _, m := range spoilt.FindAllStringSubmatch(text, -1) {
		i, err := strconv.Atoi(m[1])
		require.NoError(t, err)
		v, err := strconv.ParseFloat(m[2], 64)
		require.NoError(t, err)
		grad.Set(i, v)
	}
}

// value returns a state by name, nil where the optimizer has none.
func (r *trial) value(t *testing.T, name string) *tensor.Tensor {
	for _, v := range r.group.StateVars() {
		if strings.HasSuffix(v.Name, "."+name) {
			x, err := r.store.Get(v)
			require.NoError(t, err)
			return x
		}
	}
	return nil
}

// compare looks at everything that was recorded of a step.
func (r *trial) compare(t *testing.T, step int, read func(string) *tensor.Tensor) {
	p, err := r.store.Get(r.p)
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
		got := r.value(t, s.name)
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
		limit = max(limit, 3e-4*r.Group.LR)
	}
	y := &r.tally
	for i, d := range r.differs {
		diff := math.Abs(want.At(i) - got.At(i))
		switch {
		case d:
		case got.DType() == tensor.F32:
			y.Params++
			y.ParamsFar += count(!(diff <= limit))
			y.Param = max(y.Param, diff/r.Group.LR)
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
