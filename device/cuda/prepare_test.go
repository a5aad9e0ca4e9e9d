package cuda

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/nvrtc"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// broken is an op whose kernel does not compile, told apart by a number.
type broken struct{ n int }

func (broken) Name() string { return "broken" }

func (broken) Infer(in []tensor.Type) ([]tensor.Type, error) { return in, nil }

func init() {
	names := []string{"first_is_wrong", "second_is_wrong"}
	Register(func(d *Device, o broken, s device.Spec) (*Kernel, error) {
		f, err := d.Function(Program{Text: "KERNEL k(float *y) { " + names[o.n] + "; }"}, "k")
		return &Kernel{Enqueue: func(c *Call) error { return c.Launch(f, Rows(1, 1), c.Out[0]) }}, err
	})
}

// compiled is how many of the programs that were asked for are on the device.
func compiled(d *Device) (n, of int) {
	for _, m := range d.compile.order {
		if m.handle != 0 {
			n++
		}
	}
	return n, len(d.compile.order)
}

func fresh(t *testing.T) *Device {
	testDevice(t) // finds the driver
	d, err := New(Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

// A kernel costs a compilation when it is prepared or launched, not when it is chosen.
func TestPrepareCompiles(t *testing.T) {
	d := fresh(t)
	f32 := tensor.T(tensor.F32, 16)
	kernel := func(op device.Op, n int) device.Kernel {
		k, err := d.Kernel(device.Spec{Op: op, In: []tensor.Type{f32, f32}[:n], Out: []tensor.Type{f32}})
		require.NoError(t, err)
		return k
	}
	good := []device.Kernel{kernel(ops.Pointwise{F: ops.FnAdd}, 2), kernel(ops.Pointwise{F: ops.FnExp}, 1), kernel(ops.Pointwise{F: ops.FnTanh}, 1)}
	one, two := kernel(broken{0}, 1), kernel(broken{1}, 1)
	n, of := compiled(d)
	require.Zero(t, n)
	require.GreaterOrEqual(t, of, 5)
	require.Nil(t, d.Prepare(context.Background(), good[:2]))
	n, _ = compiled(d)
	require.Equal(t, 2, n)
	spent := d.Spent()
	require.Len(t, spent, 1)
	require.Equal(t, 2, spent[0].Count)
	require.Positive(t, spent[0].Longest)
	require.GreaterOrEqual(t, spent[0].Time, spent[0].Longest, "somebody waited for the longest")
	require.NotEmpty(t, spent[0].Name)
	for range 3 {
		errs := d.Prepare(context.Background(), []device.Kernel{good[0], two, good[2], one})
		require.Len(t, errs, 4)
		require.NoError(t, errs[0])
		require.ErrorContains(t, errs[1], "second_is_wrong")
		require.NoError(t, errs[2], "others are prepared all the same")
		require.ErrorContains(t, errs[3], "first_is_wrong")
	}
	errs := d.Prepare(context.Background(), []device.Kernel{one, two, kernel(broken{0}, 1)})
	var first, again *nvrtc.CompileError
	require.ErrorAs(t, errs[0], &first)
	require.ErrorAs(t, errs[2], &again)
	require.Same(t, first, again, "a program is compiled once a call, however many kernels need it")
	p, _ := allocate(t, d, 64)
	late := kernel(ops.Pointwise{F: ops.FnNeg}, 1)
	require.NoError(t, late.Launch(d.Stream(0), []device.Ptr{p}, []device.Ptr{p}, device.Ptr{}), "the first launch prepares")
	require.ErrorContains(t, one.Launch(d.Stream(0), []device.Ptr{p}, []device.Ptr{p}, device.Ptr{}), "first_is_wrong")
}

// A plan compiles what it launches: not the single kernels of a chain that became one. What does not compile is named with its place.
func TestPlanPrepares(t *testing.T) {
	d := fresh(t)
	g := graph.New("chain")
	x := g.Input("x", tensor.T(tensor.F32, 300))
	y := ops.Exp(ops.Neg(ops.Tanh(x)))
	p, err := plan.Compile([]graph.Value{y}, plan.Options{Device: d})
	require.NoError(t, err)
	n, of := compiled(d)
	require.Equal(t, 1, n)
	require.Equal(t, 4, of)
	_, err = p.Run(context.Background(), plan.Feed{x: tensor.New(x.Type())})
	require.NoError(t, err)
	require.NoError(t, p.Close())

	g = graph.New("broken")
	x = g.Input("x", tensor.T(tensor.F32, 300))
	y = g.Apply(broken{1}, g.Apply(broken{0}, x)[0])[0]
	_, err = plan.Compile([]graph.Value{y}, plan.Options{Device: d})
	require.ErrorContains(t, err, "first_is_wrong")
	require.ErrorContains(t, err, "prepare_test.go")
	require.ErrorContains(t, err, "broken(")
	require.False(t, errors.Is(err, device.ErrNoKernel))
}

// resides is an op whose first launch asks how many blocks of its kernel the device holds.
type resides struct{}

func (resides) Name() string { return "resides" }

func (resides) Infer(in []tensor.Type) ([]tensor.Type, error) { return in, nil }

func init() {
	Register(func(d *Device, _ resides, s device.Spec) (*Kernel, error) {
		f, err := d.Function(Program{Text: "KERNEL seven(float *y) { if (global_thread() == 0) y[0] = 7; }"}, "seven")
		return &Kernel{Enqueue: func(c *Call) error {
			n, err := c.Resident(f, 32, 0)
			if err != nil {
				return err
			}
			return c.Launch(f, Rows(n, 32), c.Out[0])
		}}, err
	})
}

// TestRecordingCompiles: what was not prepared is compiled by the launch that is recorded, on another thread, as that of a recording may load nothing. A program
// that does not compile ends the recording, and the queue is as before.
func TestRecordingCompiles(t *testing.T) {
	d := fresh(t)
	f32 := tensor.T(tensor.F32, 1)
	p, _ := allocate(t, d, f32.Bytes())
	s := d.Stream(0)
	record := func(op device.Op) (device.Graph, error) {
		k, err := d.Kernel(device.Spec{Op: op, In: []tensor.Type{f32}, Out: []tensor.Type{f32}})
		require.NoError(t, err)
		return d.Capture(s, func() error { return k.Launch(s, []device.Ptr{p}, []device.Ptr{p}, device.Ptr{}) })
	}
	_, err := record(broken{0})
	require.ErrorContains(t, err, "first_is_wrong")
	for _, op := range []device.Op{resides{}, ops.Pointwise{F: ops.FnNeg}} {
		g, err := record(op)
		require.NoError(t, err)
		require.NoError(t, g.Launch(s))
		require.NoError(t, s.Sync())
		require.NoError(t, g.Free())
	}
	got := make([]byte, f32.Bytes())
	require.NoError(t, s.Download(got, p))
	require.Equal(t, float32(-7), tensor.View[float32](got)[0])
}
