package cpu

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// meeting lets goroutines exchange float32 data: each ranks' contribution is seen by all.
type meeting struct {
	mu      sync.Mutex
	cond    *sync.Cond
	parts   [][]float32
	arrived int
	round   int
	last    [][]float32
}

func newMeeting(size int) *meeting {
	m := &meeting{parts: make([][]float32, size)}
	m.cond = sync.NewCond(&m.mu)
	return m
}

// exchange blocks until every rank has brought its part and returns all of them.
func (m *meeting) exchange(rank int, part []float32) [][]float32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	round := m.round
	m.parts[rank] = append([]float32{}, part...)
	if m.arrived++; m.arrived == len(m.parts) {
		m.last, m.parts, m.arrived = m.parts, make([][]float32, len(m.parts)), 0
		m.round++
		m.cond.Broadcast()
	}
	for m.round == round {
		m.cond.Wait()
	}
	return m.last
}

// testComm is one rank of a meeting, for float32.
type testComm struct {
	*meeting
	rank int
}

func (c testComm) Rank() int { return c.rank }
func (c testComm) Size() int { return len(c.parts) }

func floatsAt(p device.Ptr, n int) ([]float32, error) {
	b, err := HostBytes(p, int64(4*n))
	return tensor.View[float32](b), err
}

// combined is the reduction of all parts, in rank order.
func combined(parts [][]float32, r device.Reduce) []float32 {
	out := append([]float32{}, parts[0]...)
	for _, p := range parts[1:] {
		for i, x := range p {
			if r == device.Max {
				out[i] = max(out[i], x)
				continue
			}
			out[i] += x
		}
	}
	for i := range out {
		if r == device.Mean {
			out[i] /= float32(len(parts))
		}
	}
	return out
}

func (c testComm) AllReduce(_ device.Stream, p device.Ptr, t tensor.Type, r device.Reduce) error {
	x, err := floatsAt(p, t.Size())
	if err == nil {
		copy(x, combined(c.exchange(c.rank, x), r))
	}
	return err
}

func (c testComm) AllGather(_ device.Stream, dst, src device.Ptr, each tensor.Type) error {
	x, err := floatsAt(src, each.Size())
	if err != nil {
		return err
	}
	y, err := floatsAt(dst, each.Size()*c.Size())
	if err != nil {
		return err
	}
	for r, part := range c.exchange(c.rank, x) {
		copy(y[r*each.Size():], part)
	}
	return nil
}

func (c testComm) ReduceScatter(_ device.Stream, dst, src device.Ptr, each tensor.Type, r device.Reduce) error {
	n := each.Size()
	x, err := floatsAt(src, n*c.Size())
	if err != nil {
		return err
	}
	y, err := floatsAt(dst, n)
	if err == nil {
		copy(y, combined(c.exchange(c.rank, x), r)[c.rank*n:])
	}
	return err
}

func (c testComm) Broadcast(_ device.Stream, p device.Ptr, t tensor.Type, root int) error {
	x, err := floatsAt(p, t.Size())
	if err == nil {
		copy(x, c.exchange(c.rank, x)[root])
	}
	return err
}

// onRanks builds the same graph on every rank, with its own x, and returns the results by rank. size 0 has no communicator.
func onRanks(t *testing.T, size int, x func(rank int) []float32, dims []int, build func(x graph.Value) []graph.Value) [][][]float32 {
	t.Helper()
	meet, out, errs := newMeeting(size), make([][][]float32, max(size, 1)), make([]error, max(size, 1))
	var wg sync.WaitGroup
	for rank := range out {
		wg.Go(func() { out[rank], errs[rank] = onRank(size, testComm{meet, rank}, x(rank), dims, build) })
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	return out
}

func onRank(size int, comm device.Comm, data []float32, dims []int, build func(x graph.Value) []graph.Value) (out [][]float32, err error) {
	dev := New(Options{Threads: 1})
	defer func() { _ = dev.Close() }()
	if size == 0 {
		comm = nil
	}
	g := graph.New("ranks")
	x := g.Input("x", tensor.T(tensor.F32, dims...))
	vals := build(x)
	p, err := plan.Compile(vals, plan.Options{Device: dev, Comm: comm})
	if err != nil {
		return nil, err
	}
	defer func() { _ = p.Close() }()
	fed, err := tensor.FromBytes(x.Type(), tensor.AsBytes(data))
	if err != nil {
		return nil, err
	}
	for range 2 { // a second run must see the input as it was
		res, err := p.Run(context.Background(), plan.Feed{x: fed})
		if err != nil {
			return nil, err
		}
		out = out[:0]
		for _, v := range vals {
			out = append(out, append([]float32{}, tensor.Data[float32](res.Tensor(v))...))
		}
	}
	return out, nil
}

// TestCollectives runs each collective on three ranks. The inputs are used again after the call: in-place kernels must not spoil
// them.
func TestCollectives(t *testing.T) {
	const ranks = 3
	x := func(r int) []float32 { return []float32{float32(r), 10, float32(-r), 4, 5, float32(6 * r)} }
	got := onRanks(t, ranks, x, []int{3, 2}, func(x graph.Value) []graph.Value {
		return []graph.Value{
			ops.ReduceAll(x, ops.CombineSum), ops.ReduceAll(x, ops.CombineMean), ops.ReduceAll(x, ops.CombineMax), ops.EnterParallel(x),
			ops.GatherAll(x, ranks), ops.ScatterReduced(x, ops.CombineSum, ranks), ops.ScatterReduced(x, ops.CombineMax, ranks),
			ops.FromRank(x, 1), ops.Neg(x),
		}
	})
	sum, top := []float32{3, 30, -3, 12, 15, 18}, []float32{2, 10, 0, 4, 5, 12}
	for r := range ranks {
		require.Equal(t, sum, got[r][0])
		require.Equal(t, []float32{1, 10, -1, 4, 5, 6}, got[r][1])
		require.Equal(t, top, got[r][2])
		require.Equal(t, x(r), got[r][3])
		require.Equal(t, append(append(x(0), x(1)...), x(2)...), got[r][4])
		require.Equal(t, sum[2*r:2*r+2], got[r][5])
		require.Equal(t, top[2*r:2*r+2], got[r][6])
		require.Equal(t, x(1), got[r][7])
		for i, v := range x(r) {
			require.Equal(t, -v, got[r][8][i])
		}
	}
}

// TestCollectivesAlone: on a single rank, with and without a communicator, collectives are the identity.
func TestCollectivesAlone(t *testing.T) {
	data := []float32{1, -2, 3, 4}
	for _, size := range []int{0, 1} {
		for n := range 2 {
			x := func(int) []float32 { return data[:4*n] }
			got := onRanks(t, size, x, []int{2 * n, 2}, func(x graph.Value) []graph.Value {
				return []graph.Value{ops.ReduceAll(x, ops.CombineMean), ops.EnterParallel(x), ops.GatherAll(x, 1),
					ops.ScatterReduced(x, ops.CombineMax, 1), ops.FromRank(x, 0)}
			})
			for _, y := range got[0] {
				require.Equal(t, append([]float32{}, x(0)...), y, "size %d", size)
			}
		}
	}
}

// TestCollectiveGradients: what leaves by one collective comes back by its mate. A column- and a row-split product between Enter and
// AllReduce has, on every rank, the gradient of the whole product.
func TestCollectiveGradients(t *testing.T) {
	const ranks = 2
	x := func(r int) []float32 { return []float32{1, 2, float32(r), 4} }
	grad := func(f func(x graph.Value) graph.Value) [][][]float32 {
		return onRanks(t, ranks, x, []int{4}, func(x graph.Value) []graph.Value {
			gs, err := autograd.GradValues(ops.Sum(f(x)), x)
			require.NoError(t, err)
			return gs
		})
	}
	square := func(x graph.Value) graph.Value { return ops.Mul(x, x) }
	for r, got := range grad(func(x graph.Value) graph.Value { return square(ops.ReduceAll(x, ops.CombineSum)) }) {
		require.Equal(t, []float32{4, 8, 2, 16}, got[0], "rank %d: passes through", r)
	}
	for r, got := range grad(func(x graph.Value) graph.Value { return square(ops.EnterParallel(x)) }) {
		require.Equal(t, []float32{4, 8, 2, 16}, got[0], "rank %d: summed over ranks", r)
	}
	for r, got := range grad(func(x graph.Value) graph.Value { return square(ops.GatherAll(x, ranks)) }) {
		require.Equal(t, []float32{4, 8, float32(4 * r), 16}, got[0], "rank %d: both ranks use its part", r)
	}
	for r, got := range grad(func(x graph.Value) graph.Value { return square(ops.ScatterReduced(x, ops.CombineSum, ranks)) }) {
		require.Equal(t, []float32{4, 8, 2, 16}, got[0], "rank %d: gathered", r)
	}
}

func TestCollectiveErrors(t *testing.T) {
	f, b, i := tensor.T(tensor.F32, 3, 2), tensor.T(tensor.Bool, 3), tensor.T(tensor.I32, 3)
	for _, c := range []struct {
		op   graph.Op
		in   tensor.Type
		want string
	}{
		{ops.AllReduce{Combine: 9}, f, "unknown combination"}, {ops.AllReduce{}, b, "bool"}, {ops.AllReduce{Combine: ops.CombineMean}, i, "mean"},
		{ops.AllGather{}, f, "at least one rank"}, {ops.AllGather{Ranks: 2}, tensor.T(tensor.F32), "axis"},
		{ops.ReduceScatter{Ranks: 2}, f, "does not divide"}, {ops.ReduceScatter{}, f, "does not divide"},
		{ops.Broadcast{Root: -1}, f, "does not exist"}, {ops.Enter{}, tensor.Type{}, "absent"},
	} {
		_, err := c.op.Infer([]tensor.Type{c.in})
		require.ErrorContains(t, err, c.want, "%+v", c.op)
	}
	dev := New(Options{Threads: 1})
	defer func() { require.NoError(t, dev.Close()) }()
	for _, op := range []graph.Op{ops.AllGather{Ranks: 3}, ops.ReduceScatter{Ranks: 3}, ops.Broadcast{Root: 1}} {
		for _, comm := range []device.Comm{nil, testComm{newMeeting(1), 0}} {
			out, err := op.Infer([]tensor.Type{f})
			require.NoError(t, err)
			_, err = dev.Kernel(device.Spec{Op: op, In: []tensor.Type{f}, Out: out, Comm: comm})
			require.ErrorContains(t, err, "cpu: ", fmt.Sprint(op))
		}
	}
	x := graph.New("frozen").Input("x", f)
	for _, y := range []graph.Value{ops.ReduceAll(x, ops.CombineMax), ops.ScatterReduced(x, ops.CombineMean, 3), ops.FromRank(x, 0)} {
		_, err := autograd.GradValues(ops.Sum(y), x)
		require.Error(t, err)
	}
}
