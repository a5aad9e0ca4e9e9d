package plan_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// recorded keeps a copy of each run's timing.
type recorded struct{ runs []plan.Timing }

func (r *recorded) Recorded(_ *plan.Plan, t *plan.Timing) {
	c := *t
	c.Marks = append([]device.Mark(nil), t.Marks...)
	r.runs = append(r.runs, c)
}

// sgd is a step with every phase: a recomputed block, a gradient, an update.
func sgd(t testing.TB, dev device.Device) (*plan.Plan, plan.Feed) {
	t.Helper()
	g := graph.New("sgd")
	x := g.Input("x", tensor.T(tensor.F32, 8, 16))
	w := graph.NewVar("w", tensor.T(tensor.F32, 16, 16))
	leave := g.Scope("layer")
	y := x
	autograd.Checkpoint(g, func() { y = ops.Tanh(ops.Linear(ops.Sin(y), g.Read(w))) })
	leave()
	loss := ops.Sum(ops.Square(y))
	grads, err := autograd.Grad(loss, w)
	require.NoError(t, err)
	g.Write(w, ops.Sub(g.Read(w), ops.Scale(ops.Tanh(grads[0]), 0.1)))
	p, err := plan.Compile([]graph.Value{loss}, plan.Options{Device: dev})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p, plan.Feed{x: tensor.New(x.Type())}
}

// noTimer hides the timer of a stream.
type noTimer struct{ device.Device }

func (d noTimer) Stream(i int) device.Stream {
	return struct{ device.Stream }{d.Device.Stream(i)}
}

// TestRecord: a recorder sees every run with marks in order, on devices with and without a timer; a detached one sees none.
func TestRecord(t *testing.T) {
	for name, dev := range map[string]device.Device{"timer": cpu.New(cpu.Options{Threads: 1}), "host": noTimer{cpu.New(cpu.Options{Threads: 1})}} {
		p, feed := sgd(t, dev)
		var r recorded
		p.Record(&r)
		for range 2 {
			_, err := p.Run(context.Background(), feed)
			require.NoError(t, err)
		}
		p.Record(nil)
		_, err := p.Run(context.Background(), feed)
		require.NoError(t, err)
		require.Len(t, r.runs, 2, name)
		launches := p.Launches()
		for _, run := range r.runs {
			require.Equal(t, name == "timer", run.Exact)
			require.Len(t, run.Marks, 2*len(launches)+3, name)
			for i := range run.Marks[1:] {
				require.GreaterOrEqual(t, run.Marks[i+1].At, run.Marks[i].At, name)
			}
			from, to := run.Launch(len(launches) - 1)
			require.Equal(t, run.Marks[len(run.Marks)-3:len(run.Marks)-1], []device.Mark{from, to})
			require.Equal(t, run.Marks[1], run.Fed())
		}
		_, err = p.Run(context.Background(), plan.Feed{})
		require.Error(t, err)
		require.Len(t, r.runs, 2, "a run that fails is not recorded")
	}
}

// paired counts the timings that were begun and not ended.
type paired struct {
	device.Device
	open int
}

type pairedStream struct {
	device.Stream
	device.Timer
	of *paired
}

func (d *paired) Stream(i int) device.Stream {
	s := d.Device.Stream(i)
	return pairedStream{s, s.(device.Timer), d}
}

func (s pairedStream) Reserve(n int) error {
	s.of.open++
	return s.Timer.Reserve(n)
}

func (s pairedStream) Marks() ([]device.Mark, error) {
	s.of.open--
	return s.Timer.Marks()
}

// TestFailedRunEndsItsTiming: a device that measures its threads would go on with it.
func TestFailedRunEndsItsTiming(t *testing.T) {
	dev := &paired{Device: cpu.New(cpu.Options{Threads: 1})}
	p, feed := sgd(t, dev)
	p.Record(&recorded{})
	stopped, stop := context.WithCancel(t.Context())
	stop()
	_, err := p.Run(stopped, feed)
	require.ErrorIs(t, err, context.Canceled)
	_, err = p.Run(t.Context(), plan.Feed{})
	require.ErrorContains(t, err, "is not fed")
	require.Zero(t, dev.open)
	_, err = p.Run(t.Context(), feed)
	require.NoError(t, err)
	require.Zero(t, dev.open)
}

// TestLaunches: every launch has its phase, scope, kernel and work.
func TestLaunches(t *testing.T) {
	p, _ := sgd(t, cpu.New(cpu.Options{Threads: 1}))
	seen := map[graph.Phase]int{}
	var flops int64
	for _, l := range p.Launches() {
		seen[l.Phase]++
		require.NotEmpty(t, l.Kernel)
		require.Positive(t, l.Bytes, "%s", l.Node)
		flops += l.Flops
		if l.Node.Op.Name() == "matmul" {
			require.Equal(t, int64(2*8*16*16), l.Flops)
			require.Equal(t, int64(4*(8*16+16*16+8*16)), l.Bytes)
			require.Equal(t, "layer", l.Node.Scope())
			require.True(t, l.Told)
		}
		if l.Phase == graph.Update {
			require.Equal(t, "sub", lastName(l.Node), "the hand-written update follows from the gradient")
		}
	}
	for _, ph := range graph.Phases {
		require.Positive(t, seen[ph], "%v", ph)
	}
	require.Equal(t, p.Report().Flops, flops)
}

// TestSumOfProductBelongsToTheProduct: an update that is added within the product that makes the gradient counts as that product.
func TestSumOfProductBelongsToTheProduct(t *testing.T) {
	g := graph.New("sgd")
	w := graph.NewVar("w", tensor.T(tensor.F32, 16, 16))
	leave := g.Scope("layer")
	y := ops.Linear(g.Input("x", tensor.T(tensor.F32, 8, 16)), g.Read(w))
	leave()
	grads, err := autograd.Grad(ops.Sum(ops.Square(y)), w)
	require.NoError(t, err)
	g.Write(w, ops.Sub(g.Read(w), ops.Scale(grads[0], 0.1)))
	p, err := plan.Compile([]graph.Value{ops.Sum(y)}, plan.Options{Device: cpu.New(cpu.Options{Threads: 1})})
	require.NoError(t, err)
	found := false
	for _, l := range p.Launches() {
		if l.Node.Op.Name() == "add_matmul" {
			found = true
			require.Equal(t, "layer", l.Node.Scope())
			require.Equal(t, graph.Backward, l.Phase)
		}
	}
	require.True(t, found, "%v", p.Report().Kernels)
	require.NoError(t, p.Close())
}

// lastName is the last operation of a node: of a chain the one whose value it has.
func lastName(n *graph.Node) string {
	if f, ok := n.Op.(graph.Fused); ok {
		return f.Prog.Instrs[len(f.Prog.Instrs)-1].Op.Name()
	}
	return n.Op.Name()
}

// TestRecordCostsNothingWhenOff: a run without a recorder allocates what it did before a recorder was attached, and one with a recorder
// allocates nothing for its marks once it is warm.
func TestRecordCostsNothingWhenOff(t *testing.T) {
	p, feed := sgd(t, cpu.New(cpu.Options{Threads: 1}))
	run := func() {
		_, err := p.Run(context.Background(), feed)
		require.NoError(t, err)
	}
	before := testing.AllocsPerRun(20, run)
	p.Record(silent{})
	run()
	on := testing.AllocsPerRun(20, run)
	p.Record(nil)
	require.Equal(t, before, testing.AllocsPerRun(20, run))
	require.LessOrEqual(t, on, before+1, "the Timing itself")
}

type silent struct{}

func (silent) Recorded(*plan.Plan, *plan.Timing) {}

// BenchmarkRecord is a run of small launches without and with a recorder.
func BenchmarkRecord(b *testing.B) {
	for name, r := range map[string]plan.Recorder{"off": nil, "on": silent{}} {
		b.Run(name, func(b *testing.B) {
			p, feed := sgd(b, cpu.New(cpu.Options{Threads: 1}))
			p.Record(r)
			for b.Loop() {
				if _, err := p.Run(context.Background(), feed); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(p.Launches())), "ns/launch")
		})
	}
}
