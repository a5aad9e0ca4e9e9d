package plan_test

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// single is a device that counts how often two goroutines use its queue at a time, which streams do not allow.
type single struct {
	device.Device
	inside, collisions atomic.Int32
}

func (d *single) Stream(i int) device.Stream { return singleStream{d.Device.Stream(i), d} }

func (d *single) alone(f func() error) error {
	defer d.inside.Add(-1)
	if d.inside.Add(1) > 1 {
		d.collisions.Add(1)
	}
	for range 10 {
		runtime.Gosched()
	}
	return f()
}

type singleStream struct {
	device.Stream
	dev *single
}

func (s singleStream) Upload(dst device.Ptr, src []byte) error {
	return s.dev.alone(func() error { return s.Stream.Upload(dst, src) })
}

func (s singleStream) Download(dst []byte, src device.Ptr) error {
	return s.dev.alone(func() error { return s.Stream.Download(dst, src) })
}

// TestStoreIsSafeForLoaders: goroutines set, read and drop variables of their own while others ask what there is.
func TestStoreIsSafeForLoaders(t *testing.T) {
	dev := &single{Device: cpu.New(cpu.Options{Threads: 1})}
	store := plan.NewStore(dev)
	var loaders sync.WaitGroup
	for l := range 4 {
		v := graph.NewVar(fmt.Sprint("v", l), tensor.T(tensor.F32, 3))
		loaders.Go(func() {
			for i := range 200 {
				want, err := tensor.Of([]float32{float32(l), float32(i), 1})
				if err == nil {
					err = store.Set(v, want)
				}
				got, err2 := store.Get(v)
				if err != nil || err2 != nil || got.At(0) != float64(l) || got.At(1) != float64(i) {
					t.Errorf("loader %d, value %d: %v, %v, %v", l, i, got, err, err2)
					return
				}
				if i%50 == 49 {
					err = store.Drop(v)
				}
				if n := len(store.Vars()); err != nil || n > 4 || store.Bytes() > 4*64 {
					t.Errorf("%d variables: %v", n, err)
					return
				}
			}
		})
	}
	loaders.Wait()
	require.Zero(t, dev.collisions.Load(), "the queue belongs to one goroutine at a time")
	require.NoError(t, store.Close())
	require.NoError(t, dev.Close())
}

// TestStoreNil: what a forgotten error left nil is refused.
func TestStoreNil(t *testing.T) {
	store := plan.NewStore(cpu.New(cpu.Options{}))
	v := graph.NewVar("w", tensor.T(tensor.F32, 2))
	require.ErrorContains(t, store.Set(v, nil), `the tensor for variable w f32[2] is nil`)
	require.ErrorContains(t, store.Set(nil, tensor.New(v.Type)), "variable is nil")
	require.ErrorContains(t, store.SetBytes(nil, 0, nil), "variable is nil")
	_, err := store.Get(nil)
	require.ErrorContains(t, err, "variable is nil")
}

// TestNoDevice: a store that was made without a device says so when it is used.
func TestNoDevice(t *testing.T) {
	v := graph.NewVar("v", tensor.T(tensor.F32))
	for _, s := range []*plan.Store{plan.NewStore(nil), {}, nil} {
		require.False(t, s.Has(v))
		require.Zero(t, s.Bytes())
		require.Empty(t, s.Vars())
		require.Nil(t, s.Device())
		require.NoError(t, s.Drop(v))
		require.ErrorContains(t, s.SetBytes(v, math.MaxInt64, make([]byte, 1)), "do not fit variable")
		require.ErrorContains(t, s.Set(v, tensor.New(v.Type)), "has no device; make it with NewStore(device)")
		_, err := s.Get(v)
		require.ErrorContains(t, err, "has no device")
		_, err = plan.Compile([]graph.Value{graph.New("g").Read(v)}, plan.Options{Store: s})
		require.ErrorContains(t, err, "device.Open")
		_, err = plan.Compile([]graph.Value{graph.New("g").Read(v)}, plan.Options{Session: plan.NewSession(s)})
		require.ErrorContains(t, err, "has no store")
		require.NoError(t, plan.NewSession(s).Close())
	}
}

// TestNoContext: nothing ends a run that was given no context.
func TestNoContext(t *testing.T) {
	g := graph.New("g")
	y := ops.AddScalar(g.Input("x", tensor.T(tensor.F32)), 1)
	p, err := plan.Compile([]graph.Value{y}, plan.Options{Device: cpu.New(cpu.Options{Threads: 1})})
	require.NoError(t, err)
	var none context.Context
	r, err := p.Run(none, plan.Feed{y.Node().In[0]: 2})
	require.NoError(t, err)
	require.Equal(t, 3.0, r.Float(y))
	require.NoError(t, p.Close())
}

// TestSupplied: a plan does not read zeros where weights belong. A value is what was set, alone or with the slab it is a view of, and what
// another plan wrote.
func TestSupplied(t *testing.T) {
	g := graph.New("step")
	slab := graph.NewVar("slab", tensor.T(tensor.F32, 4))
	a, b := graph.NewVar("a", tensor.T(tensor.F32, 2)), graph.NewVar("b", tensor.T(tensor.F32, 2))
	a.Supplied, b.Supplied = true, true
	a.Slab, b.Slab, b.Offset = slab, slab, 2
	y := ops.Sum(ops.Add(ops.Add(g.Read(a), g.Read(b)), g.Read(graph.NewVar("state", a.Type))))
	open := func() (*plan.Store, *plan.Plan) {
		store := plan.NewStore(cpu.New(cpu.Options{Threads: 1}))
		p, err := plan.Compile([]graph.Value{y}, plan.Options{Store: store})
		require.NoError(t, err)
		return store, p
	}
	runs := func(p *plan.Plan) error {
		_, err := p.Run(t.Context(), nil)
		return err
	}
	store, p := open()
	_, err := store.Get(a)
	require.ErrorContains(t, err, "store: variable a f32[2] has no value; load the weights into it")
	require.ErrorContains(t, runs(p), `plan "step": variable a f32[2] has no value in the plan's store (and 1 more like it); load the weights`)
	require.NoError(t, store.Set(a, tensor.New(a.Type)))
	require.ErrorContains(t, runs(p), `variable b f32[2] has no value in the plan's store; load`)
	require.NoError(t, store.Set(b, tensor.New(b.Type)))
	require.NoError(t, runs(p))
	require.NoError(t, store.Drop(slab))
	require.ErrorContains(t, runs(p), "variable a", "what was dropped is no value any more")

	alone := graph.NewVar("alone", a.Type)
	alone.Supplied = true
	require.NoError(t, store.Set(alone, tensor.New(a.Type)))
	alone.Slab = slab // as optim.NewGroup does
	late, err := plan.Compile([]graph.Value{g.Read(alone)}, plan.Options{Store: store})
	require.NoError(t, err)
	require.ErrorContains(t, runs(late), "set before the variable became part of a slab")

	store, p = open()
	require.NoError(t, store.Set(slab, tensor.New(slab.Type)))
	require.NoError(t, runs(p))

	store, p = open()
	draw := graph.New("draw")
	one := ops.Fill(draw, tensor.F32, 1)
	draw.Write(a, ops.BroadcastTo(one, 2))
	draw.Write(b, ops.BroadcastTo(one, 2))
	q, err := plan.Compile([]graph.Value{one}, plan.Options{Store: store})
	require.NoError(t, err)
	require.NoError(t, runs(q))
	require.NoError(t, runs(p))
}

// TestSuppliedInParts: what the parts of a variable were given, as those of a large weight that is drawn, is the variable's.
func TestSuppliedInParts(t *testing.T) {
	store := plan.NewStore(cpu.New(cpu.Options{Threads: 1}))
	whole := graph.NewVar("whole", tensor.T(tensor.F32, 2))
	whole.Supplied = true
	read, draw := graph.New("read"), graph.New("draw")
	one := ops.Fill(draw, tensor.F32, 1)
	for i := range 2 {
		part := graph.NewVar("part", tensor.T(tensor.F32, 1))
		part.Slab, part.Offset = whole, int64(i)
		draw.Write(part, ops.BroadcastTo(one, 1))
	}
	y := ops.Sum(read.Read(whole))
	for _, v := range []graph.Value{one, y} {
		p, err := plan.Compile([]graph.Value{v}, plan.Options{Store: store})
		require.NoError(t, err)
		out, err := p.Run(t.Context(), nil)
		require.NoError(t, err)
		require.InDelta(t, map[graph.Value]float64{one: 1, y: 2}[v], out.Float(v), 0)
	}
}

// TestOptionsComplete: a plan computes on the device that its variables are on.
func TestOptionsComplete(t *testing.T) {
	g := graph.New("g")
	x := ops.Fill(g, tensor.F32, 2)
	dev := cpu.New(cpu.Options{Threads: 1})
	store := plan.NewStore(dev)
	for _, o := range []plan.Options{{Device: dev}, {Store: store}, {Session: plan.NewSession(store)}, {Device: dev, Store: store}} {
		p, err := plan.Compile([]graph.Value{x}, o)
		require.NoError(t, err)
		out, err := p.Run(t.Context(), nil)
		require.NoError(t, err)
		require.InDelta(t, 2.0, out.Float(x), 0)
		require.True(t, math.IsNaN(out.Float(ops.Neg(x))), "it is none of the outputs")
		require.NoError(t, p.Close())
	}
	for want, o := range map[string]plan.Options{
		"Options.Device is not set": {}, "has no store": {Device: dev, Session: plan.NewSession(nil)},
	} {
		_, err := plan.Compile([]graph.Value{x}, o)
		require.ErrorContains(t, err, want)
	}
}
