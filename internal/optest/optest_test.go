package optest_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/optest"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// each runs f as one subtest a case, after checking that names are unique.
func each(t *testing.T, f func(t *testing.T, c optest.Case)) {
	t.Helper()
	seen := map[string]bool{}
	for _, c := range optest.All() {
		require.False(t, seen[c.Name], "two cases are named %s", c.Name)
		seen[c.Name] = true
		t.Run(c.Name, func(t *testing.T) { f(t, c) })
	}
}

func TestGradients(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	each(t, func(t *testing.T, c optest.Case) {
		if c.NoGrad != "" {
			t.Logf("no gradient: %s", c.NoGrad)
			return
		}
		require.NoError(t, c.Gradients(dev))
	})
}

// TestBadInputs: what a row lists as bad, and inputs mutated in shape and dtype, give an error that names the op and the line,
// and never a panic.
func TestBadInputs(t *testing.T) {
	each(t, func(t *testing.T, c optest.Case) {
		for i, args := range c.Bad {
			err := build(c, args)
			require.Error(t, err, "bad inputs %d", i)
			checkMessage(t, err)
		}
		for i, a := range c.In {
			for _, m := range mutations(a) {
				args := append([]optest.Arg(nil), c.In...)
				args[i] = m
				if err := build(c, args); err != nil {
					checkMessage(t, err)
				}
			}
		}
	})
}

func build(c optest.Case, args []optest.Arg) error {
	c.In = args
	d := tensor.F32
	if types := c.Types(); len(types) > 0 {
		d = types[0]
	}
	g := graph.New("bad")
	var in []graph.Value
	for i, a := range args {
		in = append(in, g.Input(fmt.Sprint(i), a.Type(d)))
	}
	out := c.Build(g, in)
	if err := g.Err(); err != nil {
		return err
	}
	for _, v := range out {
		if !v.Valid() {
			return fmt.Errorf("no error is recorded and an output is %v", v)
		}
	}
	return nil
}

func checkMessage(t *testing.T, err error) {
	t.Helper()
	text := err.Error()
	require.Regexp(t, `(?m)^[a-z_0-9]+\.go:\d+`, text)
	require.Regexp(t, `: [a-z_0-9 "]+\(`, text)
	require.NotContains(t, text, "\n", "one mistake gives one error")
}

func mutations(a optest.Arg) []optest.Arg {
	with := func(dims []int, d tensor.DType) optest.Arg {
		b := a
		b.Dims = dims
		if d != tensor.Invalid {
			b.DType = d
		}
		return b
	}
	out := []optest.Arg{
		with(nil, 0), with([]int{2}, 0), with(append([]int{2}, a.Dims...), 0), with([]int{1, 1, 1, 1, 1, 1, 1, 1}, 0),
		with(a.Dims, tensor.Bool), with(a.Dims, tensor.U8), with(a.Dims, tensor.I32), with(a.Dims, tensor.F16),
	}
	for i := range a.Dims {
		longer := append([]int(nil), a.Dims...)
		longer[i]++
		empty := append([]int(nil), a.Dims...)
		empty[i] = 0
		out = append(out, with(longer, 0), with(empty, 0))
	}
	return out
}

// TestPlans: fusing, lowering, in-place execution and the number of threads change no bit, adding products in place no more than a rounding.
func TestPlans(t *testing.T) {
	one, two := cpu.New(cpu.Options{Threads: 1}), cpu.New(cpu.Options{Threads: 2})
	each(t, func(t *testing.T, c optest.Case) {
		for _, d := range c.Types() {
			if d != tensor.F32 && d != tensor.BF16 && d != tensor.I32 && d != tensor.Bool {
				continue // the machinery is the same
			}
			b, grads, err := c.Backward(d)
			require.NoError(t, err)
			b.Out = append(b.Out, grads...)
			fused, err := b.Plan(plan.Options{Device: one, Verify: true, Exact: true})
			require.NoError(t, err)
			added, err := b.Plan(plan.Options{Device: one})
			require.NoError(t, err)
			plain, err := b.Plan(plan.Options{Device: one, NoFuse: true})
			require.NoError(t, err)
			wide, err := b.Plan(plan.Options{Device: two})
			require.NoError(t, err)
			for i := range fused {
				require.Equal(t, plain[i].Bytes(), fused[i].Bytes(), "%v: fusion changes output %d", d, i)
				require.Equal(t, added[i].Bytes(), wide[i].Bytes(), "%v: two threads change output %d", d, i)
				require.NoError(t, optest.Compare(added[i], plain[i], c.Limit(d)), "%v: adding products in place changes output %d", d, i)
			}
		}
	})
}

func TestDecompositions(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	total := 0
	each(t, func(t *testing.T, c optest.Case) {
		for _, d := range c.Types() {
			n, err := c.Decomposed(dev, d)
			require.NoError(t, err, d.String())
			total += n
		}
	})
	t.Logf("%d kernels compared with their decomposition", total)
}

func TestExclusionsHaveReasons(t *testing.T) {
	each(t, func(t *testing.T, c optest.Case) {
		for d, why := range c.Exclude {
			require.NotEmpty(t, strings.TrimSpace(why), d.String())
			t.Logf("%v is not run: %s", d, why)
		}
	})
}

// TestCheckAgrees: the option that compares kernels with decompositions while a plan runs finds nothing in the table's cases.
func TestCheckAgrees(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	each(t, func(t *testing.T, c optest.Case) {
		if strings.Contains(c.Name, "edges") {
			t.Skip("infinite values, which Check reports")
		}
		b, grads, err := c.Backward(c.Types()[0])
		require.NoError(t, err)
		b.Out = append(b.Out, grads...)
		_, err = b.Plan(plan.Options{Device: dev, Check: true})
		require.NoError(t, err)
	})
}
