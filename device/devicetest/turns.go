package devicetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// RunTurns trains on one device from several goroutines at once, each with a session and a plan of its own, which it compiles, reads and sets variables of,
// and closes: every step gives the bits that it gives alone, and all memory is given back. Run it under the race detector too.
func RunTurns(t *testing.T, dev device.Device) {
	const sessions, steps = 4, 12
	want := make([][]float64, sessions)
	for i := range want {
		var err error
		want[i], err = takeTurn(dev, i, steps)
		require.NoError(t, err)
	}
	meter, metered := dev.(device.Meter)
	var before int64
	if metered {
		before = meter.Allocated()
	}
	got := make([][]float64, sessions)
	errs := make([]error, sessions)
	var all sync.WaitGroup
	for i := range got {
		all.Go(func() { got[i], errs[i] = takeTurn(dev, i, steps) })
	}
	all.Wait()
	require.NoError(t, errors.Join(errs...))
	require.Equal(t, want, got)
	if metered {
		require.Equal(t, before, meter.Allocated())
	}
}

// RunShared runs plans of one session from several goroutines at once: no step is lost, and none sees half of another's.
func RunShared(t *testing.T, dev device.Device) {
	const runs = 20
	v := graph.NewVar("v", tensor.T(tensor.F32, 300))
	session := plan.NewSession(plan.NewStore(dev))
	errs := make([]error, 3)
	var all sync.WaitGroup
	for i := range errs {
		g := graph.New("shared")
		old := g.Read(v)
		now := ops.AddScalar(old, float64(i+1))
		g.Write(v, now)
		same := ops.Sub(ops.Max(old, ops.BroadcastTo(ops.Sum(old), 300)), ops.BroadcastTo(ops.Sum(old), 300)) // 0: all elements are one number, and none negative
		spread := ops.Sum(same)
		p, err := plan.Compile([]graph.Value{spread}, plan.Options{Device: dev, Session: session})
		require.NoError(t, err)
		all.Go(func() {
			for range runs {
				r, err := p.Run(context.Background(), nil)
				if err == nil && r.Float(spread) != 0 {
					err = errors.New("a step saw half of another's")
				}
				errs[i] = errors.Join(errs[i], err)
			}
		})
	}
	all.Wait()
	require.NoError(t, errors.Join(errs...))
	end, err := session.Store().Get(v)
	require.NoError(t, err)
	for _, x := range end.Float32s() {
		require.Equal(t, float32(runs*(1+2+3)), x)
	}
	require.NoError(t, session.Close())
}

// RunOnePlan runs one plan from several goroutines at once: each gets the outputs of what it fed.
func RunOnePlan(t *testing.T, dev device.Device) {
	const goroutines, runs, n = 4, 30, 100
	g := graph.New("one")
	x := g.Input("x", tensor.T(tensor.F32, n))
	next := ops.AddScalar(x, 1)
	sum := ops.Sum(next)
	p, err := plan.Compile([]graph.Value{next, sum}, plan.Options{Device: dev})
	require.NoError(t, err)
	errs := make([]error, goroutines)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() {
			in := tensor.New(x.Type())
			for k := range runs {
				v := i*runs + k
				for j := range n {
					in.Set(j, float64(v))
				}
				r, err := p.Run(context.Background(), plan.Feed{x: in})
				if err == nil && (r.Tensor(next).At(n-1) != float64(v+1) || r.Float(sum) != float64(n*(v+1))) {
					err = fmt.Errorf("fed %d, got %v and the sum %v", v, r.Tensor(next).At(n-1), r.Float(sum))
				}
				errs[i] = errors.Join(errs[i], err)
			}
		})
	}
	all.Wait()
	require.NoError(t, errors.Join(errs...))
	require.NoError(t, p.Close())
}

// turn is a small training: a matrix that is fitted to a target by steps of gradient descent.
type turn struct {
	session *plan.Session
	plan    *plan.Plan
	w       *graph.Var
	x, loss graph.Value
	rows    *tensor.Tensor
}

// takeTurn is a training from its beginning to its end.
func takeTurn(dev device.Device, seed, steps int) (losses []float64, err error) {
	r, err := newTurn(dev, seed)
	if err != nil {
		return nil, err
	}
	losses, err = r.train(steps)
	return losses, errors.Join(err, r.plan.Close(), r.session.Close())
}

func newTurn(dev device.Device, seed int) (*turn, error) {
	const n = 48
	r := &turn{session: plan.NewSession(plan.NewStore(dev)), w: graph.NewVar("w", tensor.T(tensor.F32, n, n)), rows: tensor.New(tensor.T(tensor.F32, n, n))}
	for i := range n * n {
		r.rows.Set(i, math.Sin(float64(i*(seed+1))))
	}
	g := graph.New("turn")
	w := g.Read(r.w)
	r.x = g.Input("x", r.rows.Type())
	off := ops.Sub(ops.Dot(r.x, w), g.Const(r.rows)) // a constant is memory of the plan alone
	r.loss = ops.Sum(ops.Square(off))
	g.Write(r.w, ops.Sub(w, ops.Scale(ops.Dot(ops.Transpose(r.x), off), 0.01)))
	var err error
	r.plan, err = plan.Compile([]graph.Value{r.loss}, plan.Options{Device: dev, Session: r.session})
	return r, err
}

// train returns the losses, and sums of the weight between steps.
func (r *turn) train(steps int) ([]float64, error) {
	var out []float64
	for range steps {
		pending, err := r.plan.Start(context.Background(), plan.Feed{r.x: r.rows})
		if err != nil {
			return nil, err
		}
		res, err := pending.Wait()
		if err != nil {
			return nil, err
		}
		w, err := r.session.Store().Get(r.w)
		if err != nil {
			return nil, err
		}
		out = append(out, res.Float(r.loss), w.At(7))
		if err := r.session.Store().Set(r.w, w); err != nil {
			return nil, err
		}
	}
	return out, nil
}
