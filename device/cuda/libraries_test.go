package cuda

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/cudnn"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/emulator"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/nvrtc"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// strict is a device with libraries that watch over their rules, until the test ends, and compute nothing. Nothing of what they chose is on disk.
func strict(t *testing.T) *Device {
	testDevice(t) // finds the driver
	if !onEmulator() {
		t.Skip("the libraries that watch are the emulator's")
	}
	emulator.UseLibraries(t)
	t.Setenv(nvrtc.CacheVariable, t.TempDir())
	d := fresh(t)
	if d.Capability() != attnGroupCapability {
		t.Skip("there are no warpgroups")
	}
	return d
}

// layer is products, and attention forward and backward, of dense rows of so many tokens and, where it is asked for, of packed documents.
func layer(tokens int, packed bool) (out []graph.Value, feed plan.Feed) {
	g := graph.New("layer")
	feed = plan.Feed{}
	input := func(name string, typ tensor.Type) graph.Value {
		v := g.Input(name, typ)
		feed[v] = tensor.New(typ)
		return v
	}
	x := input("x", tensor.T(tensor.BF16, 2*tokens, 64))
	q := ops.Reshape(ops.Linear(x, input("wq", tensor.T(tensor.BF16, 128, 64))), 2, tokens, 2, 64)
	k := ops.Reshape(ops.Linear(x, input("wk", tensor.T(tensor.BF16, 64, 64))), 2, tokens, 1, 64)
	doc := input("doc", tensor.T(tensor.I32, 2, tokens))
	list := g.Apply(ops.Documents{Slots: 6, Longest: 128, Heads: 2, KeyHeads: 1, HeadDim: 64}, doc)
	none := graph.Value{}
	for _, c := range []struct {
		op        ops.Attention
		doc       graph.Value
		documents []graph.Value
	}{
		{ops.Attention{Scale: 0.1, Causal: true}, none, []graph.Value{none, none}},
		{ops.Attention{Scale: 0.1, Causal: true, Longest: 128}, doc, list},
	} {
		if c.op.Longest > 0 && !packed {
			break
		}
		y := g.Apply(c.op, append([]graph.Value{q, k, k, c.doc, none, none}, c.documents...)...)
		grads := g.Apply(ops.AttentionGrad(c.op), append([]graph.Value{q, k, k, y[0], y[1], q, c.doc, none, none, none}, c.documents...)...)
		out = append(append(out, y[0]), grads...)
	}
	return out, feed
}

// TestLibrariesAreUsedRight: plans that are compiled at once, run and recorded keep the libraries' rules, and so does a device that opens after it with what
// they chose on disk.
func TestLibrariesAreUsedRight(t *testing.T) {
	d := strict(t)
	threads(t, 4)
	run := func(d *Device, tokens int, packed bool) error {
		outs, feed := layer(tokens, packed)
		store := plan.NewStore(d)
		p, err := plan.Compile(outs, plan.Options{Store: store})
		if err != nil {
			return err
		}
		for range 3 { // the second is recorded
			if _, err := p.Run(context.Background(), feed); err != nil {
				return err
			}
		}
		return errors.Join(p.Close(), store.Close())
	}
	var sessions sync.WaitGroup
	errs := make([]error, 3)
	for i := range errs {
		sessions.Go(func() { errs[i] = run(d, []int{256, 256, 128}[i], i < 2) })
	}
	sessions.Wait()
	require.NoError(t, errors.Join(errs...))
	require.Len(t, d.cudnn.plans, 6, "each is made once")
	require.Greater(t, emulator.HandlesAtOnce(t), 2, "plans were made beside each other")
	require.Empty(t, d.cudnn.more, "what they were made with is closed")
	later, err := New(Options{})
	require.NoError(t, err)
	require.NoError(t, run(later, 256, true))
	require.Equal(t, 2, emulator.HandlesAtOnce(t), "plans are found on disk: each device has a handle")
	require.NoError(t, later.Close())
}

// planOf makes the plan of an attention.
func planOf(d *Device, tokens int64) error {
	_, err := d.cudnnPlan(oneHead(tokens))
	return err
}

// oneHead is an attention of one head of 64.
func oneHead(tokens int64) cudnn.Attention {
	return cudnn.Attention{DType: cudnn.BF16, B: 1, Tq: tokens, Tk: tokens, Hq: 1, Hkv: 1, D: 64, Scale: 1, Causal: true,
		KeyBatch: tokens * 64, KeyHead: 64, KeyStep: 64}
}

// TestPlansThatAskForTooMuch are freed on a thread that has the device's context, which that of a goroutine that has left it need not be.
func TestPlansThatAskForTooMuch(t *testing.T) {
	d := strict(t)
	emulator.SetPlanWorkspace(t, cudnnWorkspace+1)
	defer emulator.SetPlanWorkspace(t, 1024)
	_, err := d.cudnnVersion() // opens it
	require.NoError(t, err)
	d.cudnn.make = func(g cudnn.Attention) (*cudnn.Plan, error) {
		p, err := d.makePlan(g)
		return p, errors.Join(err, d.api.MakeCurrent(0))
	}
	require.ErrorContains(t, planOf(d, 128), "of workspace")
}

// TestFewHandles: where the library has no room for another handle, plans are made one after the other.
func TestFewHandles(t *testing.T) {
	d := strict(t)
	emulator.SetHandles(t, 2)
	defer emulator.SetHandles(t, 1000)
	var all sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		all.Go(func() { errs[i] = planOf(d, int64(128*(i+1))) })
	}
	all.Wait()
	require.NoError(t, errors.Join(errs...))
	require.Equal(t, 2, emulator.HandlesAtOnce(t))
	require.Empty(t, d.cudnn.more)
}

// TestPlansWithoutTexts: a plan that cannot be made again with the first handle keeps that which it was made with, which makes others, too.
func TestPlansWithoutTexts(t *testing.T) {
	d := strict(t)
	emulator.SetPlanTexts(t, false)
	for i := range int64(3) {
		require.NoError(t, planOf(d, 128*(i+1)))
	}
	require.Len(t, d.cudnn.more, 1)
	require.Equal(t, d.cudnn.more, d.cudnn.free)
	require.False(t, d.cudnn.more[0].Idle())
	require.True(t, d.cudnn.handle.Idle())
	emulator.SetPlanTexts(t, true)
	require.NoError(t, planOf(d, 1024))
	require.Len(t, d.cudnn.more, 1)
	require.False(t, d.cudnn.handle.Idle())
}

// TestLostWhilePlanning: the context of a device that is lost is not given back while a plan is being made in it.
func TestLostWhilePlanning(t *testing.T) {
	testDevice(t)
	d, err := New(Options{})
	require.NoError(t, err)
	begun, ended := newEvent(), false
	withLibrary(d, func(cudnn.Attention) (*cudnn.Plan, error) {
		begun.happen()
		time.Sleep(50 * time.Millisecond)
		ended = true
		return nil, errNoPlan
	})
	_, err = d.arch() // opens the compiler
	require.NoError(t, err)
	go func() { _ = planOf(d, 128) }()
	require.NoError(t, begun.wait("a plan"))
	lost := errors.New("a fault")
	d.lost.Store(&lost)
	require.NoError(t, d.Close())
	require.True(t, ended)
}

// TestFirstStarts: other ways to begin keep the rules, too: one processor, a folder that cannot be written, a deterministic device, one library only,
// no room for handles or plans.
func TestFirstStarts(t *testing.T) {
	for name, begin := range map[string]func(t *testing.T, d *Device){
		"one processor": func(t *testing.T, _ *Device) { threads(t, 1) },
		"no folder":     func(t *testing.T, _ *Device) { t.Setenv(nvrtc.CacheVariable, "/dev/null/none") },
		"deterministic": func(t *testing.T, d *Device) {
			require.NoError(t, d.SetArithmetic(device.Arithmetic{Deterministic: true}))
		},
		"without cuDNN": func(_ *testing.T, d *Device) { d.cudnn.off = true },
		"little memory": func(t *testing.T, _ *Device) {
			emulator.SetHandles(t, 1)
			t.Cleanup(func() { emulator.SetHandles(t, 1000) })
		},
		"large plans": func(t *testing.T, _ *Device) {
			emulator.SetPlanWorkspace(t, cudnnWorkspace+1)
			t.Cleanup(func() { emulator.SetPlanWorkspace(t, 1024) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := strict(t)
			begin(t, d)
			outs, feed := layer(128, false)
			store := plan.NewStore(d)
			p, err := plan.Compile(outs, plan.Options{Store: store})
			require.NoError(t, err)
			for range 3 {
				_, err := p.Run(context.Background(), feed)
				require.NoError(t, err)
			}
			require.NoError(t, errors.Join(p.Close(), store.Close()))
		})
	}
}

// TestClosedWhilePlanning: a plan whose context ends, and whose device is closed at once, leaves nothing behind.
func TestClosedWhilePlanning(t *testing.T) {
	d := strict(t)
	threads(t, 4)
	_, err := d.cudnnVersion()
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	d.cudnn.make = func(g cudnn.Attention) (*cudnn.Plan, error) {
		cancel()
		return d.makePlan(g)
	}
	outs, _ := layer(256, true)
	_, err = plan.Compile(outs, plan.Options{Device: d, Context: ctx})
	require.ErrorIs(t, err, context.Canceled)
}

// TestTwoDevicesAtOnce: what threads do for one device is done in its context, whichever they were in before.
func TestTwoDevicesAtOnce(t *testing.T) {
	one := strict(t)
	require.NoError(t, emulator.Set("devices=2"))
	defer func() { require.NoError(t, emulator.Reset()) }()
	two, err := New(Options{Index: 1})
	require.NoError(t, err)
	defer func() { require.NoError(t, two.Close()) }()
	var both sync.WaitGroup
	errs := make([]error, 2)
	for i, d := range []*Device{one, two} {
		both.Go(func() {
			outs, feed := layer(128*(i+1), false)
			p, err := plan.Compile(outs, plan.Options{Device: d})
			for range 3 {
				if err == nil {
					_, err = p.Run(context.Background(), feed)
				}
			}
			if err == nil {
				err = p.Close()
			}
			errs[i] = err
		})
	}
	both.Wait()
	require.NoError(t, errors.Join(errs...))
}
