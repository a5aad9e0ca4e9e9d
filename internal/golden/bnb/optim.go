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

// optimCase is a case of optim.json: steps of an optimizer with given gradients.
type optimCase struct {
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
	Steps map[string]struct{ Param, State1, State2, Absmax1, Absmax2 string }
}

// difference counts elements that are not equal, of parameters and states apart, and the largest distance of codes.
type difference struct {
	params, states, codes, elements, codeElements int
	far                                           int
}

// Optim replays the steps of bitsandbytes' CUDA optimizers on a device, by class name, through a group. Parameters, moments, codes and scales
// must be equal bit for bit where exact is true: on a GPU, whose approximate arithmetic the kernels share with the library. Elsewhere
// codes may be off by one in 0.1% of all, and the rest is not compared; package optim does that. Cases whose norms are added up in an order
// that varies are not exact, nor those that the library refuses or that are informative.
func Optim(t *testing.T, d device.Device, exact bool) {
	var cases []optimCase
	read := Read(t, "optim", &cases)
	var all difference
	for _, c := range cases {
		if c.Error != "" || c.Informative != nil && !strings.Contains(fmt.Sprint(c.Informative), "grad[") {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			y := c.replay(t, d, read)
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

// optimizer makes the optimizer of a case from the class name and the hyperparameters that the library reports.
func (c *optimCase) optimizer(t *testing.T) *optim.Optimizer {
	name := strings.ToLower(c.Cls)
	if !strings.HasSuffix(name, "bit") {
		name += fmt.Sprintf("%dbit", c.Args.Bits)
	}
	h := optim.Config{Eps: c.Group.Eps, WeightDecay: c.Group.Decay, Min8bitSize: c.Args.Min8, MaxUnorm: c.Args.MaxUnorm}
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
	o, err := optim.New(name, h)
	require.NoError(t, err)
	return o
}

func (c *optimCase) replay(t *testing.T, d device.Device, read func(string) *tensor.Tensor) (y difference) {
	p0 := read(c.P0)
	p, store := graph.NewVar("p", p0.Type()), plan.NewStore(d)
	defer func() { require.NoError(t, store.Close()) }()
	group, err := optim.NewGroup([]*graph.Var{p}, optim.Options{Optimizer: c.optimizer(t), GradDType: p0.DType()})
	require.NoError(t, err)
	require.NoError(t, store.Set(p, p0))
	g := graph.New("step")
	group.Apply(g, optim.Scalars{LR: ops.Fill(g, tensor.F32, c.Group.LR)})
	step, err := plan.Compile([]graph.Value{ops.Fill(g, tensor.F32, 0)}, plan.Options{Device: d, Store: store})
	require.NoError(t, err)
	defer func() { require.NoError(t, step.Close()) }()
	grads := read(c.Grads)
	width := int(p.Type.Bytes())
	for i := 1; i <= grads.Shape().Dim(0); i++ {
		grad, err := tensor.FromBytes(p.Type, grads.Bytes()[(i-1)*width:i*width])
		require.NoError(t, err)
		grad = grad.Clone()
		c.spoil(t, grad, i)
		require.NoError(t, store.Set(group.GradVars()[0], grad))
		_, err = step.Run(context.Background(), nil)
		require.NoError(t, err)
		c.compare(t, i, p, group, store, read, &y)
	}
	return y
}

var spoilt = regexp.MustCompile(`\[(\d+)\]=(-?inf|nan)`)

// spoil puts the non-finite gradients that a case describes ("step 2: grad[5]=nan, [300]=inf") into the gradient of a step.
func (c *optimCase) spoil(t *testing.T, grad *tensor.Tensor, step int) {
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

// compare counts what differs from what was recorded of a step.
func (c *optimCase) compare(t *testing.T, step int, p *graph.Var, group *optim.Group, store *plan.Store, read func(string) *tensor.Tensor, y *difference) {
	want, ok := c.Steps[strconv.Itoa(step)]
	if !ok {
		return
	}
	blocks := (c.N + ops.SlabAlign - 1) / ops.SlabAlign
	got, err := store.Get(p)
	require.NoError(t, err)
	y.elements += c.N
	y.params += unequal(got, read(want.Param), 0, c.N)
	for _, s := range []struct {
		name, key string
		at, n     int
	}{
		{"state1", want.State1, 0, c.N}, {"state2", want.State2, 0, c.N}, {"state3", want.State1, c.N, c.N},
		{"absmax1", want.Absmax1, 0, blocks}, {"absmax2", want.Absmax2, 0, blocks}, {"absmax3", want.Absmax1, blocks, blocks},
	} {
		for _, v := range group.StateVars() {
			if s.key == "" || !strings.HasSuffix(v.Name, "."+s.name) {
				continue
			}
			got, err := store.Get(v)
			require.NoError(t, err)
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
