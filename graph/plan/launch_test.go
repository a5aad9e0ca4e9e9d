package plan_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/device/devicetest"
	"github.com/bitsandbyes/bitsandbyes/device/devicetest/queued"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestQueued: the double itself keeps the contract of a device.
func TestQueued(t *testing.T) {
	devicetest.RunQueues(t, queued.New(cpu.New(cpu.Options{Threads: 1}), queued.Options{}))
}

// counter adds what is fed to a variable and returns the sum and its square.
type counter struct {
	plan    *plan.Plan
	x, y, z graph.Value
	v       *graph.Var
}

func newCounter(t testing.TB, o plan.Options, v *graph.Var, width int) counter {
	t.Helper()
	g := graph.New("counter")
	c := counter{x: g.Input("x", tensor.T(tensor.F32)), v: v}
	c.y = ops.Add(g.Read(v), c.x)
	wide := ops.Exp(ops.BroadcastTo(c.y, width, width))
	c.z = ops.Add(ops.Square(c.y), ops.Scale(ops.Sum(ops.Dot(wide, wide)), 0))
	g.Write(v, c.y)
	var err error
	c.plan, err = plan.Compile([]graph.Value{c.y, c.z}, o)
	require.NoError(t, err)
	return c
}

func (c counter) add(t testing.TB, x, want float64) {
	t.Helper()
	r, err := c.plan.Run(context.Background(), plan.Feed{c.x: x})
	require.NoError(t, err)
	require.Equal(t, []float64{want, want * want}, []float64{r.Float(c.y), r.Float(c.z)})
}

// TestCapture: the first run is plain, the second is recorded, later ones are replayed with new inputs; what changes addresses records
// again, and a plan that joins the session does not.
func TestCapture(t *testing.T) {
	dev := queued.New(cpu.New(cpu.Options{Threads: 1}), queued.Options{Total: 1 << 20})
	session := plan.NewSession(plan.NewStore(dev))
	v := graph.NewVar("v", tensor.T(tensor.F32))
	c := newCounter(t, plan.Options{Device: dev, Session: session}, v, 4)
	for i := range 5 {
		c.add(t, 1, float64(i+1))
		require.Equal(t, []int{min(i, 1), i}, []int{dev.Captures, dev.Replays}, "run %d", i)
	}
	big := newCounter(t, plan.Options{Device: dev, Session: session}, v, 100)
	big.add(t, 2, 7)
	c.add(t, 1, 8)
	require.Equal(t, 1, dev.Captures, "the arena grew in its place")
	one, err := tensor.Of([]float32{1})
	require.NoError(t, err)
	one, err = tensor.FromBytes(v.Type, one.Bytes())
	require.NoError(t, err)
	require.NoError(t, session.Store().Drop(v))
	require.NoError(t, session.Store().Set(v, one))
	c.add(t, 1, 2)
	c.add(t, 1, 3)
	require.Equal(t, 2, dev.Captures, "the variable has new storage")
	require.NoError(t, errors.Join(big.plan.Close(), c.plan.Close(), session.Close()))
	require.Zero(t, dev.Allocated())
}

// pageless is a device whose driver does not let pages be mapped.
type pageless struct{ *queued.Device }

func (pageless) Reserve(int64) (device.Growable, error) { return nil, errors.New("no pages") }

func (pageless) PageBytes() int64 { return 0 }

// paged is a device that maps whole pages.
type paged struct{ *queued.Device }

func (paged) PageBytes() int64 { return 4096 }

// TestArenaOfPages: what a session counts is what the device will have mapped.
func TestArenaOfPages(t *testing.T) {
	for name, dev := range map[string]device.Device{
		"pages":    paged{queued.New(cpu.New(cpu.Options{Threads: 1}), queued.Options{Total: 1 << 20})},
		"none":     pageless{queued.New(cpu.New(cpu.Options{Threads: 1}), queued.Options{Total: 1 << 20})},
		"too much": paged{queued.New(cpu.New(cpu.Options{Threads: 1}), queued.Options{Total: 1})},
	} {
		t.Run(name, func(t *testing.T) {
			session := plan.NewSession(plan.NewStore(dev))
			require.Zero(t, session.ArenaBytes())
			g := graph.New("pages")
			x := g.Input("x", tensor.T(tensor.F32, 33, 5))
			p, err := plan.Compile([]graph.Value{ops.Sum(ops.Exp(x))}, plan.Options{Device: dev, Session: session})
			require.NoError(t, err)
			need := p.Report().Arena
			require.Positive(t, need)
			if name == "pages" {
				need = (need + 4095) / 4096 * 4096
			}
			require.Equal(t, need, session.ArenaBytes())
			require.Equal(t, need, session.Bytes())
			require.NoError(t, session.Close())
		})
	}
}

// TestArenaWithoutPages: the arena moves when a larger plan joins, and what was recorded is recorded again.
func TestArenaWithoutPages(t *testing.T) {
	dev := pageless{queued.New(cpu.New(cpu.Options{Threads: 1}), queued.Options{Total: 1 << 20})}
	session := plan.NewSession(plan.NewStore(dev))
	v := graph.NewVar("v", tensor.T(tensor.F32))
	c := newCounter(t, plan.Options{Device: dev, Session: session}, v, 4)
	for i := range 3 {
		c.add(t, 1, float64(i+1))
	}
	big := newCounter(t, plan.Options{Device: dev, Session: session}, v, 100)
	big.add(t, 2, 5)
	c.add(t, 1, 6)
	c.add(t, 1, 7)
	require.Equal(t, 2, dev.Captures)
	require.NoError(t, errors.Join(big.plan.Close(), c.plan.Close(), session.Close()))
	require.Zero(t, dev.Allocated())
}

// TestLaunchingWays: what a plan or its session asks for is done, and gives the same numbers.
func TestLaunchingWays(t *testing.T) {
	for i, name := range plan.Launchings {
		dev := queued.New(cpu.New(cpu.Options{Threads: 1}), queued.Options{})
		session := plan.NewSession(plan.NewStore(dev))
		o := plan.Options{Device: dev, Session: session}
		if i%2 == 0 {
			session.SetLaunching(plan.Launching(i))
		} else {
			o.Launch = plan.Launching(i)
		}
		c := newCounter(t, o, graph.NewVar("v", tensor.T(tensor.F32)), 4)
		for k := range 3 {
			c.add(t, 1, float64(k+1))
		}
		require.Equal(t, plan.Launching(i) == plan.Captured, dev.Captures == 1, name)
		if plan.Launching(i) == plan.Synced {
			require.GreaterOrEqual(t, dev.Waits, dev.Launches, name)
		}
		require.NoError(t, errors.Join(c.plan.Close(), session.Close()))
	}
}

// TestParseLaunching: names of configurations are the ways, and nothing is one without being named.
func TestParseLaunching(t *testing.T) {
	for i, name := range append(plan.Launchings, "") {
		way, err := plan.ParseLaunching(name)
		require.NoError(t, err)
		require.Equal(t, plan.Launching(i%len(plan.Launchings)), way)
	}
	_, err := plan.ParseLaunching("eager")
	require.ErrorContains(t, err, "captured, plain, synced")
}

// TestStart: several runs are in the queue before the first result is asked for, and none waits for a later one.
func TestStart(t *testing.T) {
	dev := queued.New(cpu.New(cpu.Options{Threads: 1}), queued.Options{})
	c := newCounter(t, plan.Options{Device: dev}, graph.NewVar("v", tensor.T(tensor.F32)), 4)
	defer func() { require.NoError(t, c.plan.Close()) }()
	var runs []*plan.Pending
	for i := range 4 {
		r, err := c.plan.Start(context.Background(), plan.Feed{c.x: i})
		require.NoError(t, err)
		runs = append(runs, r)
	}
	require.Zero(t, dev.Launches)
	perRun := c.plan.Report().Launches
	for i, want := range []float64{0, 1, 3, 6} {
		r, err := runs[i].Wait()
		require.NoError(t, err)
		require.InDelta(t, want, r.Float(c.y), 0)
		require.LessOrEqual(t, dev.Launches, (i+1)*perRun)
	}
}

// TestCloseWithPending: a plan can be closed while a run is under way, whose result is then refused and not read from memory that was freed.
func TestCloseWithPending(t *testing.T) {
	dev := queued.New(cpu.New(cpu.Options{Threads: 1}), queued.Options{})
	c := newCounter(t, plan.Options{Device: dev}, graph.NewVar("v", tensor.T(tensor.F32)), 4)
	first, err := c.plan.Start(t.Context(), plan.Feed{c.x: 2})
	require.NoError(t, err)
	second, err := c.plan.Start(t.Context(), plan.Feed{c.x: 1})
	require.NoError(t, err)
	_, err = first.Wait()
	require.NoError(t, err)
	require.NoError(t, c.plan.Close())
	r, err := first.Wait()
	require.NoError(t, err)
	require.InDelta(t, 2.0, r.Float(c.y), 0)
	_, err = second.Wait()
	require.ErrorContains(t, err, `plan "counter": closed before`)
	require.Zero(t, dev.Allocated())
}

// TestFault: a fault of a recorded run says how its op is found, and waiting for every launch finds it.
func TestFault(t *testing.T) {
	for _, way := range []plan.Launching{plan.Captured, plan.Synced} {
		dev := queued.New(cpu.New(cpu.Options{Threads: 1}), queued.Options{})
		c := newCounter(t, plan.Options{Device: dev, Launch: way}, graph.NewVar("v", tensor.T(tensor.F32)), 4)
		c.add(t, 1, 1)
		c.add(t, 1, 2)
		dev.LoseAfter(1)
		_, err := c.plan.Run(context.Background(), plan.Feed{c.x: 1})
		require.ErrorIs(t, err, queued.ErrLost)
		var fault *plan.FaultError
		require.Equal(t, way == plan.Captured, errors.As(err, &fault))
		if way == plan.Captured {
			require.ErrorContains(t, err, "train.launch: synced")
		} else {
			require.ErrorContains(t, err, "launch_test.go:")
		}
	}
}

// TestBigOutputs come without pinned memory of their size.
func TestBigOutputs(t *testing.T) {
	dev := queued.New(cpu.New(cpu.Options{Threads: 1}), queued.Options{Total: 1 << 28})
	g := graph.New("big")
	y := ops.BroadcastTo(ops.Fill(g, tensor.F32, 3), 5<<20)
	out, err := plan.Eval(dev, nil, y)
	require.NoError(t, err)
	require.InDelta(t, 3.0, out[0].At(5<<20-1), 0)
}

// TestNoRoomForOutputs: a run whose outputs find no host memory does not begin, so that variables are as before; a feed that is refused keeps none of it.
func TestNoRoomForOutputs(t *testing.T) {
	const outputs = 512 // two, aligned
	for _, room := range []int64{outputs - 1, outputs} {
		dev := queued.New(cpu.New(cpu.Options{Threads: 1}), queued.Options{Total: 1 << 20, Host: room})
		store := plan.NewStore(dev)
		c := newCounter(t, plan.Options{Device: dev, Store: store}, graph.NewVar("v", tensor.T(tensor.F32)), 4)
		for range 2 {
			_, err := c.plan.Run(context.Background(), plan.Feed{})
			require.Error(t, err)
		}
		if room >= outputs {
			c.add(t, 1, 1)
			c.add(t, 1, 2)
		} else {
			_, err := c.plan.Run(context.Background(), plan.Feed{c.x: 1.0})
			require.ErrorContains(t, err, "host memory for outputs")
			kept, err := store.Get(c.v)
			require.NoError(t, err)
			require.Zero(t, kept.At(0))
		}
		require.NoError(t, c.plan.Close())
		require.NoError(t, store.Close())
	}
}

// listing is a kernel that cannot be compared, and preparing a device that counts those it is to prepare.
type listing struct {
	device.Kernel
	_ []string
}

type preparing struct {
	device.Device
	kernels []device.Kernel
}

func (d *preparing) Kernel(s device.Spec) (device.Kernel, error) {
	k, err := d.Device.Kernel(s)
	return listing{Kernel: k}, err
}

func (d *preparing) Prepare(_ context.Context, kernels []device.Kernel) []error {
	d.kernels = kernels
	return nil
}

// TestPrepareEachKernelOnce: what several nodes launch is one of those that are prepared, whatever a kernel's type is.
func TestPrepareEachKernelOnce(t *testing.T) {
	dev := &preparing{Device: cpu.New(cpu.Options{Threads: 1})}
	g := graph.New("g")
	x := g.Input("x", tensor.T(tensor.F32, 4, 4))
	y := ops.Dot(ops.Dot(ops.Dot(x, x), x), x)
	p, err := plan.Compile([]graph.Value{ops.Sum(y)}, plan.Options{Device: dev, NoFuse: true})
	require.NoError(t, err)
	require.Greater(t, p.Report().Launches, len(dev.kernels))
	require.Len(t, dev.kernels, 2)
	require.NoError(t, p.Close())
}

// drafting is a device whose kernels are drafts first.
type drafting struct {
	device.Device
	drafted, settled int
	fail             bool
	begun            context.Context // of what the device has begun
}

// unsettled has no kernel, and scratch that nothing has room for, before it is settled.
type unsettled struct {
	device.Kernel
	spec device.Spec
}

func (u *unsettled) Scratch() int64 {
	if u.Kernel == nil {
		return 1 << 40
	}
	return u.Kernel.Scratch()
}

func (d *drafting) Draft(s device.Spec) (device.Kernel, error) {
	if _, err := d.Kernel(s); err != nil {
		return nil, err
	}
	d.drafted++
	return &unsettled{spec: s}, nil
}

func (d *drafting) Settle(ctx context.Context, kernels []device.Kernel) []error {
	d.begun = ctx
	errs := make([]error, len(kernels))
	for i, k := range kernels {
		d.settled++
		u := k.(*unsettled)
		u.Kernel, errs[i] = d.Kernel(u.spec)
		if d.fail {
			errs[i] = errors.New("not settled")
		}
	}
	return errs
}

// TestDrafts: passes look at drafts; those that are launched are settled at once, each once, before memory is laid out.
func TestDrafts(t *testing.T) {
	dev := &drafting{Device: cpu.New(cpu.Options{Threads: 1})}
	compile := func(budget int64) (*plan.Plan, graph.Value, error) {
		g := graph.New("g")
		x := g.Input("x", tensor.T(tensor.F32, 4, 4))
		y := ops.Dot(ops.Dot(ops.Exp(ops.Neg(ops.Tanh(x))), x), x)
		p, err := plan.Compile([]graph.Value{ops.Sum(y)}, plan.Options{Device: dev, Budget: budget})
		return p, x, err
	}
	p, x, err := compile(0)
	require.NoError(t, err)
	require.Less(t, p.Report().Peak(), int64(1<<30))
	require.Equal(t, 3, dev.settled, "a chain, a product, a sum")
	require.Greater(t, dev.drafted, dev.settled)
	in := tensor.New(x.Type())
	_, err = p.Run(context.Background(), plan.Feed{x: in})
	require.NoError(t, err)
	require.NoError(t, p.Close())
	dev.begun = context.Background()
	_, _, err = compile(1)
	require.ErrorContains(t, err, "budget")
	require.Error(t, dev.begun.Err(), "what was begun for a plan that does not fit is ended")
	dev.fail = true
	_, _, err = compile(0)
	require.ErrorContains(t, err, "not settled")
	require.ErrorContains(t, err, "launch_test.go")
	require.Equal(t, 1, strings.Count(err.Error(), "not settled"), "the same is told once")
}
