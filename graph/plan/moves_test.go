package plan_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/device/devicetest/queued"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// tower is residual blocks, and the gradients of their weights added to variables.
type tower struct {
	x, loss graph.Value
	sums    []*graph.Var
	plan    *plan.Plan
	store   *plan.Store
}

const (
	towerBlocks = 6
	towerRows   = 64
	towerWidth  = 32
	towerInput  = 4 * towerRows * towerWidth // bytes of a block's input
)

func newTower(t require.TestingT, o plan.Options, recomputed bool) *tower {
	g := graph.New("tower")
	w := &tower{x: g.Input("x", tensor.T(tensor.F32, towerRows, towerWidth)), store: plan.NewStore(o.Device)}
	var weights []*graph.Var
	x := ops.Tanh(w.x)
	for i := range towerBlocks {
		up, down := graph.NewVar(fmt.Sprint("up", i), tensor.T(tensor.F32, 4*towerWidth, towerWidth)), graph.NewVar(fmt.Sprint("down", i), tensor.T(tensor.F32, towerWidth, 4*towerWidth))
		weights = append(weights, up, down)
		block := func() {
			h := ops.Tanh(ops.Linear(x, g.Read(up)))
			x = ops.Add(x, ops.Linear(ops.Mul(h, ops.Sigmoid(h)), g.Read(down)))
		}
		if recomputed {
			autograd.Checkpoint(g, block)
		} else {
			block()
		}
	}
	w.loss = ops.Sum(ops.Square(x))
	grads, err := autograd.Grad(w.loss, weights...)
	require.NoError(t, err)
	for i, v := range weights {
		require.NoError(t, w.store.Set(v, filled(v.Type, uint64(i))))
		sum := graph.NewVar("sum "+v.Name, v.Type)
		g.Write(sum, ops.Add(g.Read(sum), grads[i]))
		w.sums = append(w.sums, sum)
	}
	o.Store, o.Verify = w.store, true
	w.plan, err = plan.Compile([]graph.Value{w.loss}, o)
	require.NoError(t, err)
	require.NoError(t, w.plan.CheckArena())
	require.Zero(t, w.plan.EarlyWaits())
	return w
}

// run does n steps and returns all losses and sums of gradients, as bytes.
func (w *tower) run(t require.TestingT, n int) []byte {
	var out []byte
	for i := range n {
		r, err := w.plan.Run(context.Background(), plan.Feed{w.x: filled(w.x.Type(), uint64(50+i))})
		require.NoError(t, err)
		out = append(out, r.Tensor(w.loss).Bytes()...)
	}
	for _, v := range w.sums {
		x, err := w.store.Get(v)
		require.NoError(t, err)
		out = append(out, x.Bytes()...)
	}
	return out
}

// orders are devices that do the work of several streams in different orders.
func orders() (out []*queued.Device) {
	for i := range 4 {
		out = append(out, queued.New(cpu.New(cpu.Options{Threads: 1}), queued.Options{Total: 64 << 20, Order: uint64(i)}))
	}
	return out
}

// TestMoveInputs: the inputs of recomputed blocks wait in host memory. The plan is smaller by what it says, nothing else changes.
func TestMoveInputs(t *testing.T) {
	for _, dev := range orders() {
		plain := newTower(t, plan.Options{Device: dev}, true)
		want := plain.run(t, 4)
		base := plain.plan.Report()
		require.Zero(t, base.Away+base.Moved)
		for _, launch := range []plan.Launching{plan.Captured, plan.Plain, plan.Synced} {
			beside := dev.Beside
			w := newTower(t, plan.Options{Device: dev, Move: plan.MoveInputs, Launch: launch}, true)
			r := w.plan.Report()
			require.Equal(t, int64((towerBlocks-1)*towerInput), r.Away, "all but the last, which is needed again at once")
			require.Equal(t, 2*r.Away, r.Moved)
			require.LessOrEqual(t, r.Arena, base.Arena-int64((towerBlocks-3)*towerInput), "one block's is in use, one on its way")
			require.Equal(t, base.Launches+2*(towerBlocks-1), r.Launches)
			require.True(t, bytes.Equal(want, w.run(t, 4)), "%v", launch)
			require.Equal(t, launch != plan.Synced, dev.Beside > beside, "copies ran on a stream of their own")
			require.NoError(t, w.plan.Close())
			require.NoError(t, w.store.Close())
		}
		require.NoError(t, plain.plan.Close())
		require.NoError(t, plain.store.Close())
		require.Zero(t, dev.Allocated())
	}
}

// TestMoveSaved: without recomputation all that is kept may wait there.
func TestMoveSaved(t *testing.T) {
	for _, dev := range orders() {
		plain := newTower(t, plan.Options{Device: dev}, false)
		w := newTower(t, plan.Options{Device: dev, Move: plan.MoveSaved}, false)
		require.Less(t, 2*w.plan.Report().Arena, plain.plan.Report().Arena)
		require.True(t, bytes.Equal(plain.run(t, 3), w.run(t, 3)))
	}
}

// TestMoveWatched: checks and probes see every launch in order, profiles every copy.
func TestMoveWatched(t *testing.T) {
	dev := orders()[0]
	plain, seen := newTower(t, plan.Options{Device: dev}, true), 0
	for _, o := range []plan.Options{{Check: true}, {Probe: func(*graph.Node, []*tensor.Tensor) { seen++ }}} {
		o.Device, o.Move = dev, plan.MoveInputs
		require.True(t, bytes.Equal(plain.run(t, 2), newTower(t, o, true).run(t, 2)))
		plain = newTower(t, plan.Options{Device: dev}, true)
	}
	require.Positive(t, seen)
	w := newTower(t, plan.Options{Device: dev, Move: plan.MoveInputs}, true)
	var to, from int
	for _, l := range w.plan.Launches() {
		switch l.Kernel {
		case "copy to host":
			to++
			require.Equal(t, []any{graph.Copy, graph.Forward, int64(2 * towerInput)}, []any{l.Lane, l.Phase, l.Bytes})
		case "copy from host":
			from++
			require.Equal(t, []any{graph.Copy, graph.Backward}, []any{l.Lane, l.Phase})
		}
	}
	require.Equal(t, []int{towerBlocks - 1, towerBlocks - 1}, []int{to, from})
	var away int64
	for _, l := range w.plan.Lifetimes() {
		if l.Holding == plan.HoldsAway {
			away += l.Bytes
			require.True(t, l.Host && l.Birth < l.End)
		}
	}
	require.Equal(t, w.plan.Report().Away, away)
}

// TestMoveSession: plans of a session share the host memory; a recording made before it grew is made again.
func TestMoveSession(t *testing.T) {
	dev := orders()[1]
	session := plan.NewSession(plan.NewStore(dev))
	compile := func(rows int) func() float64 {
		g := graph.New("squares")
		x := g.Input("x", tensor.T(tensor.F32, rows, 16))
		v := graph.NewVar(fmt.Sprint("v", rows), tensor.T(tensor.F32, 16))
		y := ops.Mul(ops.Tanh(x), g.Read(v))
		for range 8 {
			y = ops.Tanh(ops.Dot(ops.Transpose(ops.Dot(y, ops.Transpose(y))), y))
		}
		loss := ops.Sum(y)
		grads, err := autograd.Grad(loss, v)
		require.NoError(t, err)
		norm := ops.Sum(ops.Square(grads[0]))
		require.NoError(t, session.Store().Set(v, filled(v.Type, 4)))
		p, err := plan.Compile([]graph.Value{norm}, plan.Options{Device: dev, Session: session, Move: plan.MoveSaved})
		require.NoError(t, err)
		require.Positive(t, p.Report().Away)
		return func() float64 {
			r, err := p.Run(context.Background(), plan.Feed{x: filled(x.Type(), 7)})
			require.NoError(t, err)
			return r.Float(norm)
		}
	}
	small := compile(8)
	want := small()
	for range 3 {
		require.Equal(t, want, small())
	}
	host := session.HostBytes()
	large := compile(32)
	require.Greater(t, session.HostBytes(), host)
	first := large()
	for range 3 {
		require.Equal(t, want, small())
		require.Equal(t, first, large())
	}
	require.NoError(t, session.Close())
}

// TestMoveWithoutRoom: where the host has no memory for what should wait there, the error says how to do without, and a plan that moves less runs.
func TestMoveWithoutRoom(t *testing.T) {
	const output = 256 // of a run, pinned too
	dev := queued.New(cpu.New(cpu.Options{Threads: 1}), queued.Options{Total: 64 << 20, Host: (towerBlocks-1)*towerInput + output})
	w := newTower(t, plan.Options{Device: dev, Move: plan.MoveSaved}, false)
	for range 2 {
		_, err := w.plan.Run(context.Background(), plan.Feed{w.x: filled(w.x.Type(), 1)})
		require.ErrorContains(t, err, "train.offload: off")
		require.ErrorContains(t, err, "do not fit beside 0 of")
	}
	require.NoError(t, w.plan.Close())
	require.NoError(t, w.store.Close())
	require.Zero(t, dev.Allocated())
	w = newTower(t, plan.Options{Device: dev, Move: plan.MoveInputs}, true)
	w.run(t, 2)
	require.NoError(t, w.plan.Close())
	require.NoError(t, w.store.Close())
}

// faulty is a device that refuses one of its copies to and from host memory, or forgets those to it.
type faulty struct {
	*queued.Device
	at      int // counts down to the one
	forgets bool
}

func (f *faulty) Stream(i int) device.Stream {
	if i == int(graph.Copy) {
		return faultyStream{f.Device.Stream(i), f}
	}
	return f.Device.Stream(i)
}

type faultyStream struct {
	device.Stream
	dev *faulty
}

func (s faultyStream) Copy(dst, src device.Ptr, n int64) error {
	if s.dev.at--; s.dev.at == 0 {
		return errors.New("no copy today")
	}
	if h, ok := dst.Buf.(device.HostBuffer); ok && h.Bytes() != nil && s.dev.forgets {
		return nil
	}
	return s.Stream.Copy(dst, src, n)
}

// TestMoveFails: a copy that is refused ends the run, or the recording, with an error that says which it was; the next one is as if nothing had happened.
func TestMoveFails(t *testing.T) {
	for _, at := range []int{1, 2, towerBlocks, 2*towerBlocks - 2} {
		for before := range 3 { // a plain run, a recording, and none left to fail
			dev := &faulty{Device: queued.New(cpu.New(cpu.Options{Threads: 1}), queued.Options{Total: 64 << 20, Order: uint64(at)})}
			w := newTower(t, plan.Options{Device: dev, Move: plan.MoveInputs}, true)
			loss := func() (float64, error) {
				r, err := w.plan.Run(context.Background(), plan.Feed{w.x: filled(w.x.Type(), 50)})
				return r.Float(w.loss), err
			}
			var want float64
			for range before {
				got, err := loss()
				require.NoError(t, err)
				want = got
			}
			dev.at = at
			got, err := loss()
			if before < 2 {
				require.ErrorContains(t, err, "host of the value of ")
				require.ErrorContains(t, err, "no copy today")
				got, err = loss()
			}
			require.NoError(t, err)
			if before > 0 {
				require.Equal(t, want, got)
			}
			again, err := loss()
			require.NoError(t, err)
			require.Equal(t, got, again)
			require.NoError(t, w.plan.Close())
			require.NoError(t, w.store.Close())
			require.Zero(t, dev.Allocated())
		}
	}
}

// TestMoveVerified: with Verify nothing comes back from host memory that the same run has not put there.
func TestMoveVerified(t *testing.T) {
	dev := &faulty{Device: orders()[0]}
	w := newTower(t, plan.Options{Device: dev, Move: plan.MoveInputs, Launch: plan.Plain}, true)
	w.run(t, 1)
	dev.forgets = true
	w.run(t, 1)
	sum, err := w.store.Get(w.sums[0])
	require.NoError(t, err)
	require.True(t, math.IsNaN(sum.At(0)))
}

// TestMoveRefused: where the host's memory is the device's own there is nothing to move to.
func TestMoveRefused(t *testing.T) {
	g := graph.New("g")
	_, err := plan.Compile([]graph.Value{ops.Tanh(g.Input("x", tensor.T(tensor.F32, 4)))}, plan.Options{Device: cpu.New(cpu.Options{Threads: 1}), Move: plan.MoveSaved})
	require.ErrorContains(t, err, "computes in host memory")
	_, err = plan.Compile(lossOf(t, g), plan.Options{Device: orders()[0], Move: func([]plan.Saved) []bool { return nil }})
	require.ErrorContains(t, err, "chose among 0 values")
}

func lossOf(t *testing.T, g *graph.Graph) []graph.Value {
	v := graph.NewVar("v", tensor.T(tensor.F32, 4, 4))
	loss := ops.Sum(ops.Square(ops.Tanh(ops.Dot(g.Read(v), g.Read(v)))))
	grads, err := autograd.Grad(loss, v)
	require.NoError(t, err)
	return grads
}

// TestRandomMoves: whatever is chosen to wait in host memory, however many lanes there are and in whatever order they work, three steps of a random graph
// and its gradients give the bits of the plan without.
func TestRandomMoves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.differentiate(t)
		seed := rapid.Uint64().Draw(t, "choice")
		dev := narrow{queued.New(cpu.New(cpu.Options{Threads: 1}), queued.Options{Order: seed % 4}), rapid.IntRange(1, 3).Draw(t, "lanes")}
		choose := func(saved []plan.Saved) []bool {
			rng, out := rand.New(rand.NewPCG(seed, 1)), make([]bool, len(saved))
			for i := range out {
				out[i] = rng.IntN(3) > 0
			}
			return out
		}
		o := plan.Options{Device: dev, NoFuse: rapid.Bool().Draw(t, "no fuse"), Verify: true}
		want := w.steps(t, o)
		o.Move = choose
		require.Equal(t, want, w.steps(t, o), "%v", w.g)
	})
}

// narrow is a device with fewer lanes than there are kinds of launches.
type narrow struct {
	*queued.Device
	lanes int
}

// Lanes implements device.Parallel.
func (n narrow) Lanes() int { return n.lanes }

// differentiate adds the gradients of the outputs' sum to the outputs.
func (w *world) differentiate(t *rapid.T) {
	loss := ops.Sum(ops.Square(w.outs[0]))
	for _, v := range w.outs[1:] {
		loss = ops.Add(loss, ops.Sum(v))
	}
	var wrt []graph.Value
	for v := range w.feed {
		wrt = append(wrt, v)
	}
	slices.SortFunc(wrt, func(a, b graph.Value) int { return a.Node().ID - b.Node().ID })
	grads, err := autograd.GradValues(loss, wrt...)
	require.NoError(t, err)
	w.outs = append(w.outs, grads...)
}

// steps returns the outputs of three steps and the variables after them.
func (w *world) steps(t *rapid.T, o plan.Options) (out [][]byte) {
	o.Store = plan.NewStore(o.Device)
	store := w.storage()
	for v, x := range store {
		require.NoError(t, o.Store.Set(v, x))
	}
	p, err := plan.Compile(w.outs, o)
	require.NoError(t, err)
	require.NoError(t, p.CheckArena(), "%v", w.g)
	for range 3 {
		res, err := p.Run(context.Background(), w.feed)
		require.NoError(t, err)
		for _, v := range w.outs {
			out = append(out, res.Tensor(v).Bytes())
		}
	}
	for _, v := range slices.SortedFunc(maps.Keys(store), func(a, b *graph.Var) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) }) {
		x, err := o.Store.Get(v)
		require.NoError(t, err)
		out = append(out, x.Bytes())
	}
	require.NoError(t, p.Close())
	require.NoError(t, o.Store.Close())
	return out
}

var _ device.Parallel = (*queued.Device)(nil)
