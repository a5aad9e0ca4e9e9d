package cpu

import (
	"fmt"
	"math"
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

func TestPackAndSumSquares(t *testing.T) {
	one, two := New(Options{Threads: 1}), New(Options{Threads: 2})
	defer func() { require.NoError(t, one.Close()); require.NoError(t, two.Close()) }()
	r := nnRand(2)
	sizes := []int{0, 1, 255, 256, 257, 100003}
	var in []*tensor.Tensor
	for _, n := range sizes {
		in = append(in, nnRandom(r, tensor.F32, 1, n))
	}
	l := ops.NewLayout(sizes...)
	g := graph.New("pack")
	vals, feed := nnFeed(g, in)
	slab := ops.PackSlab(l, vals...)
	sum := ops.SumOfSquares(slab)
	grads, err := autograd.GradValues(sum, vals...)
	require.NoError(t, err)
	outs := append([]graph.Value{slab, ops.Pack{Layout: l}.Decompose(vals)[0], sum}, grads...)
	a, err := plan.Eval(one, feed, outs...)
	require.NoError(t, err)
	b, err := plan.Eval(two, feed, outs...)
	require.NoError(t, err)
	require.Equal(t, a[1].Bytes(), a[0].Bytes())
	want := 0.0
	for i, x := range in {
		for j := range x.Type().Size() {
			want += x.At(j) * x.At(j)
			require.Equal(t, 2*x.At(j), a[3+i].At(j))
		}
	}
	require.InEpsilon(t, want, a[2].At(0), 1e-7)
	for i := range a {
		require.Equal(t, a[i].Bytes(), b[i].Bytes(), "threads change nothing")
	}
}

func TestLayoutCheck(t *testing.T) {
	for want, l := range map[string]*ops.Layout{
		"no layout":    nil,
		"differ":       {Offsets: []int{0}, Total: 256},
		"multiple":     {Total: 255},
		"tensor 1":     {Offsets: []int{0, 0}, Sizes: []int{1, 1}, Total: 256},
		"tensor 0":     {Offsets: []int{0}, Sizes: []int{257}, Total: 256},
		"or leaves":    {Offsets: []int{0}, Sizes: []int{math.MaxInt}, Total: 256},
		"another, is":  {Offsets: []int{8}, Sizes: []int{1}, Total: 256},
		"lists differ": {Offsets: []int{0}, Sizes: []int{1}, Decay: []float64{1, 2}, Total: 256},
	} {
		require.ErrorContains(t, l.Check(), want)
		_, err := ops.Pack{Layout: l}.Infer(nil)
		require.Error(t, err)
	}
	require.NotContains(t, graph.OpText(ops.AdamW{Layout: ops.NewLayout(3)}), "0x")
}

// meeting joins goroutines as ranks: each hands in its bytes and gets those of all, in rank order.
type meeting struct {
	mu    sync.Mutex
	cond  *sync.Cond
	ranks int
	parts [][]byte
	in    int
	round int
	all   [][]byte
}

func newMeeting(ranks int) *meeting {
	m := &meeting{ranks: ranks, parts: make([][]byte, ranks)}
	m.cond = sync.NewCond(&m.mu)
	return m
}

func (m *meeting) exchange(rank int, b []byte) [][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.parts[rank] = append([]byte(nil), b...)
	round := m.round
	if m.in++; m.in == m.ranks {
		m.all, m.parts, m.in = m.parts, make([][]byte, m.ranks), 0
		m.round++
		m.cond.Broadcast()
	}
	for m.round == round {
		m.cond.Wait()
	}
	return m.all
}

// rankComm is a device.Comm of float32 sums.
type rankComm struct {
	m    *meeting
	rank int
}

func (c rankComm) Rank() int { return c.rank }
func (c rankComm) Size() int { return c.m.ranks }

func (c rankComm) sum(src []byte, r device.Reduce) []float32 {
	out := make([]float32, len(src)/4)
	for i, part := range c.m.exchange(c.rank, src) {
		for j, v := range tensor.View[float32](part) {
			if r == device.Max {
				if i == 0 || v > out[j] {
					out[j] = v
				}
				continue
			}
			out[j] += v
		}
	}
	for j := range out {
		if r == device.Mean {
			out[j] /= float32(c.m.ranks)
		}
	}
	return out
}

func (c rankComm) AllReduce(_ device.Stream, p device.Ptr, t tensor.Type, r device.Reduce) error {
	b, err := HostBytes(p, t.Bytes())
	if err == nil {
		copy(tensor.View[float32](b), c.sum(b, r))
	}
	return err
}

func (c rankComm) AllGather(_ device.Stream, dst, src device.Ptr, each tensor.Type) error {
	s, err := HostBytes(src, each.Bytes())
	if err != nil {
		return err
	}
	d, err := HostBytes(dst, each.Bytes()*int64(c.m.ranks))
	if err != nil {
		return err
	}
	for i, part := range c.m.exchange(c.rank, s) {
		copy(d[i*len(part):], part)
	}
	return nil
}

func (c rankComm) ReduceScatter(_ device.Stream, dst, src device.Ptr, each tensor.Type, r device.Reduce) error {
	s, err := HostBytes(src, each.Bytes()*int64(c.m.ranks))
	if err != nil {
		return err
	}
	d, err := HostBytes(dst, each.Bytes())
	if err == nil {
		copy(tensor.View[float32](d), c.sum(s, r)[c.rank*each.Size():])
	}
	return err
}

func (c rankComm) Broadcast(_ device.Stream, p device.Ptr, t tensor.Type, root int) error {
	b, err := HostBytes(p, t.Bytes())
	if err == nil {
		copy(b, c.m.exchange(c.rank, b)[root])
	}
	return err
}

// collectiveValues builds one of each collective and a gradient through some.
func collectiveValues(t *testing.T, x graph.Value, ranks int) []graph.Value {
	sum := ops.ReduceAll(ops.EnterParallel(x), ops.CombineSum)
	part := ops.ScatterReduced(ops.GatherAll(x, ranks), ops.CombineSum, ranks)
	grads, err := autograd.GradValues(ops.Sum(ops.Square(ops.Add(sum, part))), x)
	require.NoError(t, err)
	return []graph.Value{sum, ops.ReduceAll(x, ops.CombineMean), ops.ReduceAll(x, ops.CombineMax), ops.GatherAll(x, ranks), part,
		ops.FromRank(x, ranks-1), grads[0]}
}

func TestCollectives(t *testing.T) {
	for _, ranks := range []int{1, 2, 3} {
		m := newMeeting(ranks)
		results := make([][]float64, ranks)
		errs := make([]error, ranks)
		var wg sync.WaitGroup
		for rank := range ranks {
			d := New(Options{Threads: 1})
			g := graph.New("ranks")
			x := g.Input("x", tensor.T(tensor.F32, 2))
			outs := collectiveValues(t, x, ranks)
			wg.Go(func() {
				p, err := plan.Compile(outs, plan.Options{Device: d, Comm: rankComm{m, rank}, Verify: true})
				if errs[rank] = err; err != nil {
					return
				}
				in, _ := tensor.Of([]float32{float32(rank + 1), float32(10 * (rank + 1))})
				res, err := p.Run(t.Context(), plan.Feed{x: in})
				errs[rank] = err
				for _, v := range outs {
					for i := range v.Type().Size() {
						results[rank] = append(results[rank], res.Tensor(v).At(i))
					}
				}
			})
		}
		wg.Wait()
		for rank, got := range results {
			require.NoError(t, errs[rank])
			require.Equal(t, wantCollectives(rank, ranks), got, fmt.Sprintf("rank %d of %d", rank, ranks))
		}
	}
}

func wantCollectives(rank, ranks int) (want []float64) {
	n := float64(ranks)
	total := n * (n + 1) / 2
	own := float64(rank + 1)
	pair := func(x float64) { want = append(want, x, 10*x) }
	pair(total)
	pair(total / n)
	pair(n)
	for i := range ranks {
		pair(float64(i + 1))
	}
	pair(n * own)
	pair(n)
	// Each rank's loss is the square of total + n·own: the sum's cotangent is summed over the ranks by Enter, the scattered one is
	// gathered and then summed over ranks again.
	entered := 0.0
	for i := range ranks {
		entered += 2 * (total + n*float64(i+1))
	}
	pair(entered + n*2*(total+n*own))
	return want
}

func TestCollectiveErrors(t *testing.T) {
	d := New(Options{Threads: 1})
	defer func() { require.NoError(t, d.Close()) }()
	for want, build := range map[string]func(x graph.Value) graph.Value{
		"built for 2":    func(x graph.Value) graph.Value { return ops.GatherAll(x, 2) },
		"does not divid": func(x graph.Value) graph.Value { return ops.ScatterReduced(x, ops.CombineSum, 3) },
		"rank 1 of 1":    func(x graph.Value) graph.Value { return ops.FromRank(x, 1) },
		"does not exist": func(x graph.Value) graph.Value { return ops.FromRank(x, -1) },
		"unknown combin": func(x graph.Value) graph.Value { return ops.ReduceAll(x, 9) },
		"on bool":        func(x graph.Value) graph.Value { return ops.ReduceAll(ops.IsFinite(x), ops.CombineSum) },
		"needs at least": func(x graph.Value) graph.Value { return ops.GatherAll(x, 0) },
	} {
		g := graph.New("bad")
		x := g.Input("x", tensor.T(tensor.F32, 4))
		_, err := plan.Eval(d, plan.Feed{x: tensor.New(x.Type())}, build(x))
		require.ErrorContains(t, err, want)
	}
	g := graph.New("mean")
	x := g.Input("x", tensor.T(tensor.F32, 4))
	_, err := autograd.GradValues(ops.Sum(ops.ReduceAll(x, ops.CombineMean)), x)
	require.ErrorContains(t, err, "only a sum")
	_, err = autograd.GradValues(ops.Sum(ops.FromRank(x, 0)), x)
	require.ErrorContains(t, err, "broadcast before training")
}

func BenchmarkUpdate(b *testing.B) {
	l := ops.NewLayout(10_000_000)
	for _, name := range []string{"adamw", "adamw8bit", "sgd m"} {
		for _, threads := range []int{1, 2} {
			b.Run(fmt.Sprintf("%s/threads=%d", name, threads), func(b *testing.B) {
				d := New(Options{Threads: threads})
				defer func() { _ = d.Close() }()
				op := updateOps(l)[name]
				var c Call
				s := device.Spec{Op: op}
				for _, x := range updateInputs(nnRand(1), op, l, 3, 1) {
					s.In = append(s.In, x.Type())
					c.In = append(c.In, x.Bytes())
				}
				for _, p := range op.(graph.Aliaser).Alias() {
					s.Out = append(s.Out, s.In[p.In])
					c.Out = append(c.Out, c.In[p.In])
				}
				k, err := d.Kernel(s)
				require.NoError(b, err)
				_, bytes := op.(graph.Coster).Cost(s.In, s.Out)
				b.SetBytes(bytes)
				for b.Loop() {
					require.NoError(b, k.(*Kernel).Run(&c))
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1e7, "ns/elem")
			})
		}
	}
}

func BenchmarkQuantMatMul(b *testing.B) {
	const n, k = 2048, 2048
	d := New(Options{Threads: 2})
	defer func() { _ = d.Close() }()
	parts := quantWeight(b, nnRand(1), 0, 64, n, k, true)
	for _, m := range []int{1, 64, 512} {
		for _, trans := range []bool{false, true} {
			b.Run(fmt.Sprintf("m=%d/trans=%v", m, trans), func(b *testing.B) {
				g := graph.New("bench")
				vals, feed := nnFeed(g, append([]*tensor.Tensor{nnRandom(nnRand(2), tensor.F32, m, k)}, parts...))
				y := ops.QuantLinear(ops.QuantMatMul{Blocksize: 64, N: n, K: k, Nested: true, Trans: trans}, vals[0], vals[1:]...)
				p, err := plan.Compile([]graph.Value{y}, plan.Options{Device: d})
				require.NoError(b, err)
				for b.Loop() {
					_, err = p.Run(b.Context(), feed)
					require.NoError(b, err)
				}
				b.ReportMetric(2*float64(m)*n*k*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
				require.NoError(b, p.Close())
			})
		}
	}
}
