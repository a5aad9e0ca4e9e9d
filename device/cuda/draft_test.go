package cuda

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/cudnn"
	"github.com/bitsandbyes/bitsandbyes/device/cuda/nvrtc"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// patience is how long a test waits for what must happen meanwhile.
const patience = 2 * time.Minute

// event is something that happens once.
type event struct {
	once sync.Once
	c    chan struct{}
}

func newEvent() *event { return &event{c: make(chan struct{})} }

func (e *event) happen() { e.once.Do(func() { close(e.c) }) }

func (e *event) wait(what string) error {
	select {
	case <-e.c:
		return nil
	case <-time.After(patience):
		return errors.New("nothing happened beside: " + what)
	}
}

// timed is an op whose draft leaves something to Settle, which calls settle.
type timed struct{ settle func() error }

func (*timed) Name() string { return "timed" }

func (*timed) Infer(in []tensor.Type) ([]tensor.Type, error) { return in, nil }

func init() {
	Register(func(d *Device, o *timed, _ device.Spec) (*Kernel, error) {
		f, err := d.Function(Program{Text: "KERNEL five(float *y) { y[0] = 5; }"}, "five")
		if err != nil {
			return nil, err
		}
		k := &Kernel{ScratchBytes: 1 << 20, Enqueue: func(c *Call) error { return c.Launch(f, Rows(1, 1), c.Out[0]) }}
		if left := d.drafting(); left != nil {
			left.open, left.products = true, append(left.products, "timed")
			return k, nil
		}
		k.ScratchBytes = 256
		return k, o.settle()
	})
}

// packedSpecs are the specs of an attention over packed documents, and of its gradient.
func packedSpecs() (forward, backward device.Spec) {
	op := ops.Attention{Scale: 0.1, Causal: true, Longest: 128}
	q, k, lse, doc := tensor.T(tensor.BF16, 2, 256, 2, 64), tensor.T(tensor.BF16, 2, 256, 1, 64), tensor.T(tensor.F32, 2, 2, 256), tensor.T(tensor.I32, 2, 256)
	lengths, offsets := tensor.T(tensor.I32, 7), tensor.T(tensor.I64, 3, 8)
	forward = device.Spec{Op: op, In: []tensor.Type{q, k, k, doc, {}, {}, lengths, offsets}, Out: []tensor.Type{q, lse}}
	backward = device.Spec{Op: ops.AttentionGrad(op), In: []tensor.Type{q, k, k, q, lse, q, doc, {}, {}, {}, lengths, offsets}, Out: []tensor.Type{q, k, k}}
	return forward, backward
}

// withLibrary gives a device that has none a library whose plans are made by `make`.
func withLibrary(d *Device, make func(cudnn.Attention) (*cudnn.Plan, error)) {
	d.cudnn = attnLibrary{tried: true, version: "of a test", plans: map[cudnn.Attention]*attnPlan{}, make: make}
}

var errNoPlan = errors.New("no engine")

// TestSettleOverlaps: while the device times a product, plans of attention are made on several threads and programs compiled. Each waits for the others to have
// begun, so that one after the other they would never end.
func TestSettleOverlaps(t *testing.T) {
	d := fresh(t)
	if d.Capability() != attnGroupCapability {
		t.Skip("there are no warpgroups")
	}
	t.Setenv(nvrtc.CacheVariable, t.TempDir())
	threads(t, 4)
	forwardPlan, backwardPlan, program := newEvent(), newEvent(), newEvent()
	withLibrary(d, func(g cudnn.Attention) (*cudnn.Plan, error) {
		mine, other := forwardPlan, backwardPlan
		if g.Backward {
			mine, other = backwardPlan, forwardPlan
		}
		mine.happen()
		return nil, errors.Join(errNoPlan, other.wait("a plan, another plan"), program.wait("a plan, programs"))
	})
	op := &timed{settle: func() error {
		return errors.Join(forwardPlan.wait("a product, a plan"), backwardPlan.wait("a product, the other plan"), program.wait("a product, programs"))
	}}
	_, err := d.arch() // opens the compiler
	require.NoError(t, err)
	d.compile.begins = func(s nvrtc.Source) { program.happen() }
	one := tensor.T(tensor.F32, 1)
	forward, backward := packedSpecs()
	var kernels []device.Kernel
	for _, s := range []device.Spec{forward, backward, {Op: op, In: []tensor.Type{one}, Out: []tensor.Type{one}}} {
		k, err := d.Draft(s)
		require.NoError(t, err)
		kernels = append(kernels, k)
	}
	require.Zero(t, first(compiled(d)), "a draft compiles nothing")
	of := map[string]int{}
	settle := op.settle
	op.settle = func() error {
		for _, s := range d.Spent() {
			of[s.What] = s.Of
		}
		return settle()
	}
	require.Nil(t, d.Settle(context.Background(), kernels))
	require.Equal(t, 2, of[spentPlans], "how much there is to do is told")
	require.Equal(t, 1, of[spentProducts])
	require.Equal(t, 1, of[spentWays])
	require.GreaterOrEqual(t, of[spentPrograms], 5)
	require.Nil(t, d.Settle(context.Background(), kernels), "what is settled stays so")
	for _, g := range []bool{false, true} {
		for of, p := range d.cudnn.plans {
			if of.Backward == g {
				require.ErrorIs(t, p.err, errNoPlan)
				require.Equal(t, errNoPlan.Error(), p.err.Error(), "nothing waited in vain")
			}
		}
	}
	require.EqualValues(t, 256, kernels[2].Scratch())
	require.Equal(t, "attention_group_grad", kernels[1].(device.Named).KernelName(), "own kernels do what the library does not")
	require.Nil(t, d.Prepare(context.Background(), kernels[2:]))
}

func first(n, _ int) int { return n }

// TestDraftNames: a draft has named what its kernel will need, and nothing for operands at odd addresses; a kernel that needs no choice is no draft.
func TestDraftNames(t *testing.T) {
	d := fresh(t)
	if d.Capability() != attnGroupCapability {
		t.Skip("there are no warpgroups")
	}
	withLibrary(d, func(cudnn.Attention) (*cudnn.Plan, error) { return nil, errNoPlan })
	forward, backward := packedSpecs()
	names := func(s device.Spec) string {
		k, err := d.Draft(s)
		require.NoError(t, err)
		left := k.(*Kernel).draft
		require.NotNil(t, left)
		require.Len(t, left.plans, 1)
		require.ErrorContains(t, k.Launch(d.Stream(0), nil, nil, device.Ptr{}), "is a draft")
		var list []string
		for _, m := range modulesOf(needsOf(k)) {
			require.Zero(t, m.handle, "named only")
			list = append(list, m.src.Name)
		}
		return strings.Join(list, " ")
	}
	got := names(backward)
	for _, file := range []string{"attention_group_grad.cu", "attention_flash_grad.cu", "warpgroup_check.cu", "attention_turn.cu"} {
		require.Contains(t, got, file)
	}
	require.NotContains(t, got, "simt")
	got = names(forward)
	require.Contains(t, got, "attention_flash.cu")
	require.NotContains(t, got, "attention_group", "the library is faster forward")
	add, err := d.Draft(device.Spec{Op: ops.Pointwise{F: ops.FnNeg}, In: forward.Out[1:], Out: forward.Out[1:]})
	require.NoError(t, err)
	require.Nil(t, add.(*Kernel).draft)
	require.Nil(t, d.Settle(context.Background(), []device.Kernel{add}))
}

// TestSettleFails: each kernel has its own error, others are settled all the same, and a plan names all nodes.
func TestSettleFails(t *testing.T) {
	d := fresh(t)
	one := tensor.T(tensor.F32, 1)
	fail := func(err error) *timed { return &timed{settle: func() error { return err }} }
	draft := func(o *timed) device.Kernel {
		k, err := d.Draft(device.Spec{Op: o, In: []tensor.Type{one}, Out: []tensor.Type{one}})
		require.NoError(t, err)
		return k
	}
	kernels := []device.Kernel{draft(fail(errors.New("first"))), draft(fail(nil)), draft(fail(errors.New("third")))}
	errs := d.Settle(context.Background(), append(kernels, kernels[0]))
	require.ErrorContains(t, errs[0], "first")
	require.NoError(t, errs[1])
	require.ErrorContains(t, errs[2], "third")
	require.Equal(t, errs[0], errs[3])
	require.Nil(t, d.Prepare(context.Background(), kernels[1:2]))

	g := graph.New("failing")
	x := g.Input("x", one)
	y := g.Apply(fail(errors.New("no memory for the first")), x)[0]
	y = g.Apply(fail(errors.New("no memory for the second")), y)[0]
	_, err := plan.Compile([]graph.Value{y}, plan.Options{Device: d})
	require.ErrorContains(t, err, "for the first")
	require.ErrorContains(t, err, "for the second")
	require.Equal(t, 2, strings.Count(err.Error(), "draft_test.go"))
}

// TestCompiledAhead: an error of a program that was compiled ahead is told by who needs it, and the next call compiles again.
func TestCompiledAhead(t *testing.T) {
	d := fresh(t)
	t.Setenv(nvrtc.CacheVariable, t.TempDir())
	late, err := seldom(d, func() (*Function, error) { return d.Function(Program{Text: "KERNEL k(float *y) { not_known; }"}, "k") })
	require.NoError(t, err)
	var begun []string
	d.compile.begins = func(s nvrtc.Source) { begun = append(begun, s.Name) }
	d.compileAhead(late.module)
	d.compileAhead(late.module)
	require.Len(t, begun, 1)
	require.True(t, late.module.begun())
	require.ErrorContains(t, late.make(), "not_known")
	require.Len(t, begun, 1)
	require.ErrorContains(t, late.make(), "not_known")
	require.Len(t, begun, 2)
	require.False(t, late.module.begun())
	good, err := seldom(d, func() (*Function, error) {
		return d.Function(Program{Text: echoText, Define: []string{"AHEAD 1"}}, "increment")
	})
	require.NoError(t, err)
	d.compileAhead(good.module)
	require.Zero(t, good.module.handle, "the device is not touched")
	require.NoError(t, good.make())
	spent := d.Spent()
	row := spent[slices.IndexFunc(spent, func(s device.Spent) bool { return s.What == spentPrograms })]
	require.Equal(t, 2, row.Count, "each once")
	require.NoError(t, d.enter(func() error { return d.compile.unload(d.api) }))
	d.compileAhead(good.module)
	require.Nil(t, good.module.ahead, "nothing is begun on a closed device")
}

// TestPlanOnce: a plan that several ask for is made by one of them, and a closed library makes none.
func TestPlanOnce(t *testing.T) {
	d := fresh(t)
	asked := make(chan struct{})
	made := 0
	withLibrary(d, func(cudnn.Attention) (*cudnn.Plan, error) {
		<-asked
		made++
		return new(cudnn.Plan), nil
	})
	plans := make(chan *cudnn.Plan, 2)
	for range 2 {
		go func() {
			p, err := d.cudnnPlan(cudnn.Attention{Tq: 128})
			if err != nil {
				p = nil
			}
			plans <- p
		}()
	}
	close(asked)
	one, two := <-plans, <-plans
	require.NotNil(t, one)
	require.Same(t, one, two)
	require.Equal(t, 1, made)
	require.NoError(t, d.cudnn.close())
	_, err := d.cudnnPlan(cudnn.Attention{Tq: 256})
	require.ErrorIs(t, err, errClosed)
}

// threads sets on how many a test goes on.
func threads(t *testing.T, n int) {
	was := runtime.GOMAXPROCS(n)
	t.Cleanup(func() { runtime.GOMAXPROCS(was) })
}

// TestSettleEnds: once a context has ended no choice is begun, and a plan is not compiled; the error is the context's.
func TestSettleEnds(t *testing.T) {
	d := fresh(t)
	ctx, cancel := context.WithCancel(context.Background())
	var settled int
	op := func() *timed {
		return &timed{settle: func() error { settled++; cancel(); return nil }}
	}
	g := graph.New("ended")
	x := g.Input("x", tensor.T(tensor.F32, 1))
	y := g.Apply(op(), g.Apply(op(), x)[0])[0]
	_, err := plan.Compile([]graph.Value{y}, plan.Options{Device: d, Context: ctx})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 1, settled)
	require.Zero(t, first(compiled(d)))
}

// TestAheadEnds: host work that a context ends before it has begun is left, and no longer expected.
func TestAheadEnds(t *testing.T) {
	threads(t, 2)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ran := 0
	rest := new(ahead).do(ctx, []func(){func() { ran++ }, func() { ran++; cancel() }, func() { ran++ }, func() { ran++ }})
	require.Equal(t, 2, ran)
	require.Equal(t, 2, rest)
	require.Zero(t, new(ahead).do(context.Background(), []func(){func() {}, func() {}}))
	require.Zero(t, new(ahead).do(context.Background(), nil))

	var s spending
	s.expect("work", 5)
	s.one("work", "first", 0)
	s.expect("work", -2)
	require.Equal(t, 3, s.list[0].Of)
	s.expect("work", -9)
	require.Equal(t, 1, s.list[0].Of, "what is done was to be done")
}
