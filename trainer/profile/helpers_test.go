package profile

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// clocked is a processor whose clock advances by a microsecond more with every mark, and whose limits are round: its reports are the
// same everywhere.
type clocked struct {
	*cpu.Device
	stream *clockedStream
}

func newClocked() clocked {
	d := cpu.New(cpu.Options{Threads: 2})
	return clocked{d, &clockedStream{Stream: d.Stream(0)}}
}

func (d clocked) Stream(int) device.Stream { return d.stream }

func (d clocked) Info() device.Info {
	return device.Info{Name: "a clocked device", Kind: "cpu", Threads: 2}
}

func (d clocked) Limits(context.Context) (device.Limits, error) {
	return device.Limits{Flops: map[tensor.DType]float64{tensor.F32: 1e10}, Memory: []device.Bandwidth{
		{Bytes: 1 << 10, Read: 2e9, Copy: 1e9}, {Bytes: 1 << 30, Read: 1e9, Copy: 1e9}}}, nil
}

type clockedStream struct {
	device.Stream
	marks []device.Mark
}

func (s *clockedStream) Reserve(int) error { s.marks = nil; return nil }

func (s *clockedStream) Mark() error {
	n := time.Duration(len(s.marks))
	at := n * (n + 1) / 2 * time.Microsecond
	s.marks = append(s.marks, device.Mark{At: at, Busy: at * 3 / 2})
	return nil
}

func (s *clockedStream) Marks() ([]device.Mark, error) { return s.marks, nil }

// training is a small step of two plans in one session: gradients and an update.
type training struct {
	session *plan.Session
	grads   *plan.Plan
	update  *plan.Plan
	w, grad *graph.Var
	feed    plan.Feed
}

func newTraining(t testing.TB, dev device.Device) *training {
	t.Helper()
	s := &training{session: plan.NewSession(plan.NewStore(dev)), feed: plan.Feed{}}
	s.w, s.grad = graph.NewVar("w", tensor.T(tensor.F32, 16, 16)), graph.NewVar("w.grad", tensor.T(tensor.F32, 16, 16))
	s.w.Trainable = true
	g := graph.New("gradients")
	x := g.Input("x", tensor.T(tensor.F32, 32, 16))
	for _, name := range []string{"layers.0", "layers.1"} {
		leave := g.Scope(name)
		autograd.Checkpoint(g, func() { x = ops.Tanh(ops.Linear(x, g.Read(s.w))) })
		leave()
	}
	loss := ops.Sum(ops.Square(ops.Transpose(x)))
	grads, err := autograd.Grad(loss, s.w)
	require.NoError(t, err)
	g.Write(s.grad, grads[0])
	s.grads, err = plan.Compile([]graph.Value{loss}, plan.Options{Device: dev, Session: s.session})
	require.NoError(t, err)
	g = graph.New("update")
	leave, out := g.Scope("optimizer"), g.InPhase(graph.Update)
	g.Write(s.w, ops.Sub(g.Read(s.w), ops.Scale(g.Read(s.grad), 0.1)))
	norm := ops.SumOfSquares(g.Read(s.grad))
	out()
	leave()
	s.update, err = plan.Compile([]graph.Value{norm}, plan.Options{Device: dev, Session: s.session})
	require.NoError(t, err)
	for _, n := range s.grads.Lifetimes() {
		if n.Holding == plan.HoldsInput {
			s.feed[n.Node.Output(0)] = tensor.New(n.Type)
		}
	}
	t.Cleanup(func() {
		require.NoError(t, s.grads.Close())
		require.NoError(t, s.update.Close())
		require.NoError(t, s.session.Close())
	})
	return s
}

// step runs the gradients twice and then the update.
func (s *training) step() error {
	for range 2 {
		if _, err := s.grads.Run(context.Background(), s.feed); err != nil {
			return err
		}
	}
	_, err := s.update.Run(context.Background(), nil)
	return err
}

// profiled profiles a few steps, measured ones of a clocked device.
func profiled(t testing.TB, dev device.Device, steps int) (*Profile, *training) {
	t.Helper()
	s := newTraining(t, dev)
	p, err := New(Options{Device: dev, Title: "a small step", Warmup: 1})
	require.NoError(t, err)
	p.Watch("gradients", s.grads)
	p.Watch("update", s.update)
	require.NoError(t, s.step(), "a run outside of a step leaves no trace")
	if _, ok := dev.(clocked); ok {
		require.NoError(t, p.Measure(context.Background()))
		began := time.Unix(0, 0)
		n := 0
		p.now = func() time.Time { n++; return began.Add(time.Duration(n*n) * 5 * time.Millisecond) }
	}
	for range steps {
		require.NoError(t, p.Step(s.step))
	}
	return p, s
}
