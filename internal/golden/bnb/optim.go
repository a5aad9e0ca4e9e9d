package bnb

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// OptimCase is a case of optim.json: steps of an optimizer with given gradients, and what the library had after some of them.
type OptimCase struct {
	Name, Cls, DType, P0, Grads, Error string // Error: what the library says instead of doing the steps
	Informative                        any    // why a difference is no fault of ours; nil for most
	N                                  int
	Hyper                              struct {
		LR, Eps, Alpha float64
		Betas          []float64
		Decay          float64 `json:"weight_decay"`
		TAlpha         float64 `json:"t_alpha"`
		TBeta3         float64 `json:"t_beta3"`
	} `json:"group"`
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

// OptimTrial is a case in progress: one parameter, the group that updates it, and the store that holds both.
type OptimTrial struct {
	*OptimCase
	Param *graph.Var
	Group *optim.Group
	Store *plan.Store
}

// difference counts elements that are not equal, of parameters and states apart, and the largest distance of codes.
type difference struct {
	params, states, codes, elements, codeElements int
	far                                           int
}

// Optim replays the steps of bitsandbytes' CUDA optimizers on a device, by class name, through a group. Parameters, moments, codes and scales
// must be equal bit for bit where exact is true: on a GPU, whose approximate arithmetic the kernels share with the library. Elsewhere
// codes may be off by one in 0.1% of all, and the rest is not compared; the tests of package optim do that. Cases whose norms are added up in an order
// that varies are not exact, nor those that the library refuses or that are informative.
func Optim(t *testing.T, d device.Device, exact bool) {
	cases, read := OptimCases(t)
	var all difference
	for _, c := range cases {
		if c.Error != "" || c.Informative != nil && !strings.Contains(fmt.Sprint(c.Informative), "grad[") {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			var y difference
			r := c.Trial(t, d, read)
			r.Run(t, 1, read, func(step int) { r.count(t, step, read, &y) })
			t.Logf("%+v", y)
			all.codes, all.codeElements, all.far = all.codes+y.codes, all.codeElements+y.codeElements, all.far+y.far
			if exact && c.Args.MaxUnorm == 0 {
				assert.Zero(t, y.params, "parameters that differ of %d elements", y.elements)
				assert.Zero(t, y.states, "moments and scales")
				assert.Zero(t, y.codes, "codes")
			}
		})
	}
	require.Zero(t, all.far, "codes off by more than one")
	require.LessOrEqual(t, all.codes*1000, all.codeElements)
}

// OptimCases reads optim.json, and returns a reader of its tensors.
func OptimCases(t testing.TB) (cases []OptimCase, read func(key string) *tensor.Tensor) {
	read = Read(t, "optim", &cases)
	return cases, read
}

// optimizer makes the optimizer of a case from the class name and the hyperparameters that the library reports.
func (c *OptimCase) optimizer(t *testing.T) *optim.Optimizer {
	name := strings.ToLower(c.Cls)
	if !strings.HasSuffix(name, "bit") {
		name += fmt.Sprintf("%dbit", c.Args.Bits)
	}
	h := optim.Config{Eps: c.Hyper.Eps, WeightDecay: c.Hyper.Decay, Min8bitSize: c.Args.Min8, MaxUnorm: c.Args.MaxUnorm}
	if h.MaxUnorm == 0 {
		h.MaxUnorm = -1
	}
	copy(h.Betas[:], c.Hyper.Betas)
	switch {
	case strings.HasPrefix(name, "ademamix"):
		h.Beta3, h.Alpha, h.TAlpha, h.TBeta3 = c.Hyper.Betas[2], c.Hyper.Alpha, c.Hyper.TAlpha, c.Hyper.TBeta3
	case strings.HasPrefix(name, "rmsprop"):
		h.Alpha = c.Hyper.Betas[0]
	case strings.HasPrefix(name, "sgd"), strings.HasPrefix(name, "lars"):
		h.Momentum = c.Hyper.Betas[0]
	}
	o, err := optim.New(name, h)
	require.NoError(t, err)
	return o
}

// Trial makes the group of a case on a device and sets the parameter.
func (c *OptimCase) Trial(t *testing.T, d device.Device, read func(string) *tensor.Tensor) *OptimTrial {
	p0 := read(c.P0)
	r := &OptimTrial{OptimCase: c, Param: graph.NewVar("p", p0.Type()), Store: plan.NewStore(d)}
	t.Cleanup(func() { require.NoError(t, r.Store.Close()) })
	var err error
	r.Group, err = optim.NewGroup([]*graph.Var{r.Param}, optim.Options{Optimizer: c.optimizer(t), GradDType: p0.DType()})
	require.NoError(t, err)
	require.NoError(t, r.Store.Set(r.Param, p0))
	return r
}

// Run makes the steps from a first one on, counted from 1, and calls after behind each.
func (r *OptimTrial) Run(t *testing.T, first int, read func(string) *tensor.Tensor, after func(step int)) {
	g := graph.New("step")
	r.Group.Apply(g, optim.Scalars{LR: ops.Fill(g, tensor.F32, r.Hyper.LR)})
	step, err := plan.Compile([]graph.Value{ops.Fill(g, tensor.F32, 0)}, plan.Options{Device: r.Store.Device(), Store: r.Store})
	require.NoError(t, err)
	defer func() { require.NoError(t, step.Close()) }()
	grads := read(r.Grads)
	width := int(r.Param.Type.Bytes())
	for i := first; i <= grads.Shape().Dim(0); i++ {
		grad, err := tensor.FromBytes(r.Param.Type, grads.Bytes()[(i-1)*width:i*width])
		require.NoError(t, err)
		grad = grad.Clone()
		r.spoil(t, grad, i)
		require.NoError(t, r.Store.Set(r.Group.GradVars()[0], grad))
		_, err = step.Run(context.Background(), nil)
		require.NoError(t, err)
		after(i)
	}
}

// State returns a state by its name in the library, nil where the optimizer has none.
func (r *OptimTrial) State(t *testing.T, name string) *tensor.Tensor {
	for _, v := range r.Group.StateVars() {
		if strings.HasSuffix(v.Name, "."+name) {
			x, err := r.Store.Get(v)
			require.NoError(t, err)
			return x
		}
	}
	return nil
}

var spoilt = regexp.MustCompile(`\[(\d+)\]=(-?inf|nan)`)

// spoil puts the non-finite gradients that a case describes ("step 2: grad[5]=nan, [300]=inf") into the gradient of a step.
func (c *OptimCase) spoil(t *testing.T, grad *tensor.Tensor, step int) {
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

// count counts what differs from what was recorded of a step.
func (r *OptimTrial) count(t *testing.T, step int, read func(string) *tensor.Tensor, y *difference) {
	want, ok := r.Steps[strconv.Itoa(step)]
	if !ok {
		return
	}
	got, err := r.Store.Get(r.Param)
	require.NoError(t, err)
	y.elements += r.N
	y.params += unequal(got, read(want.Param), 0, r.N)
	blocks := (r.N + ops.SlabAlign - 1) / ops.SlabAlign
	for _, s := range []struct {
		name, key string
		at, n     int
	}{
		{"state1", want.State1, 0, r.N}, {"state2", want.State2, 0, r.N}, {"state3", want.State1, r.N, r.N},
		{"absmax1", want.Absmax1, 0, blocks}, {"absmax2", want.Absmax2, 0, blocks}, {"absmax3", want.Absmax1, blocks, blocks},
	} {
		got := r.State(t, s.name)
		if s.key == "" || got == nil {
			continue
		}
		w := read(s.key)
		n := unequal(got, w, s.at, s.n)
		if got.DType() != tensor.U8 {
			y.states += n
			continue
		}
		y.codes, y.codeElements = y.codes+n, y.codeElements+s.n
		for i := range s.n {
			if math.Abs(w.At(s.at+i)-got.At(i)) > 1 {
				y.far++
			}
		}
	}
}

// unequal counts elements of got that differ from those of want from `at` on; NaN equals NaN.
func unequal(got, want *tensor.Tensor, at, n int) (bad int) {
	for i := range n {
		if a, b := got.At(i), want.At(at+i); a != b && (a == a || b == b) {
			bad++
		}
	}
	return bad
}
