package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// pairDevice builds the kernel however small X is.
func pairDevice(t *testing.T) *Device {
	testDevice(t) // the emulator where there is no GPU
	d, err := New(Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	d.pairBytes = 0
	if d.Capability() < 80 {
		t.Skip("the kernel is for compute capability 8.0 and later")
	}
	return d
}

// pairOf is a pair of products, its operands and what they give in float64.
type pairOf struct {
	op    ops.MatMulPair
	in    []*tensor.Tensor
	wantT []float64
	wantD []float64
	out   []tensor.Type
}

// newPair draws operands by value.
func newPair(op ops.MatMulPair, m, n, rank int, dt, to tensor.DType, value func() float64) pairOf {
	draw := func(dt tensor.DType, dims ...int) *tensor.Tensor {
		x := tensor.New(tensor.T(dt, dims...))
		for i := range x.Type().Size() {
			x.Set(i, value())
		}
		return x
	}
	x, b, s := draw(dt, m, n), draw(dt, n, rank), draw(dt, m, rank)
	if op.TransS {
		s = draw(dt, rank, m)
	}
	p := pairOf{op: op, in: []*tensor.Tensor{x, b, s}, out: []tensor.Type{tensor.T(dt, m, rank), tensor.T(to, n, rank)}}
	p.wantT = naive(x, b, m, rank, n, ops.MatMul{})
	p.wantD = naive(x, s, n, rank, m, ops.MatMul{TransA: true, TransB: op.TransS})
	for i := range p.wantT {
		p.wantT[i] *= float64(op.AlphaT)
	}
	for i := range p.wantD {
		p.wantD[i] *= float64(op.AlphaD)
	}
	if op.Add {
		c := draw(to, n, rank)
		p.in = append(p.in, c)
		for i := range p.wantD {
			p.wantD[i] += c.At(i)
		}
	}
	return p
}

func (p pairOf) spec() device.Spec {
	s := device.Spec{Op: p.op, Out: p.out}
	for _, x := range p.in {
		s.In = append(s.In, x.Type())
	}
	return s
}

// run launches the kernel on operands that lie off elements into their buffers, with scratch full of NaN.
func (p pairOf) run(t *testing.T, d *Device, off int64) []*tensor.Tensor {
	t.Helper()
	k, err := d.Kernel(p.spec())
	require.NoError(t, err)
	require.Equal(t, "thin_pair", k.(*Kernel).KernelName())
	s := d.Stream(0)
	place := func(x tensor.Type) device.Ptr {
		skip := off * int64(x.DType.Size())
		b, err := d.Alloc(x.Bytes() + skip)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, b.Free()) })
		return device.Ptr{Buf: b, Off: skip}
	}
	var in, out []device.Ptr
	for _, x := range p.in {
		at := place(x.Type())
		require.NoError(t, s.Upload(at, x.Bytes()))
		in = append(in, at)
	}
	for _, o := range p.out {
		out = append(out, place(o))
	}
	scratch, err := d.Alloc(k.Scratch())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, scratch.Free()) })
	spoilt := make([]byte, k.Scratch())
	for i := range spoilt {
		spoilt[i] = 0xff
	}
	require.NoError(t, s.Upload(device.Ptr{Buf: scratch}, spoilt))
	require.NoError(t, k.Launch(s, in, out, device.Ptr{Buf: scratch}))
	got := make([]*tensor.Tensor, len(out))
	for i, o := range p.out {
		got[i] = tensor.New(o)
		require.NoError(t, s.Download(got[i].Bytes(), out[i]))
	}
	return got
}

// Integers have exact products and sums, whatever the order: units and groups with edges, blocks whose units begin and end within groups or hold
// several, all ranks and types, with something to add, operands that are not aligned, blocks of eight warps and of four.
func TestThinPair(t *testing.T) {
	d := pairDevice(t)
	for _, shared := range []int{d.shared, 149 << 10} {
		d.shared = shared
		t.Run(fmt.Sprintf("%d KB", shared>>10), func(t *testing.T) { testThinPair(t, d) })
	}
}

func testThinPair(t *testing.T, d *Device) {
	rng := rand.New(rand.NewPCG(3, 4))
	small := func() float64 { return float64(rng.IntN(5) - 2) }
	for i, s := range [][3]int{{136, 16, 8}, {168, 1032, 16}, {240, 520, 24}, {264, 264, 32}, {129, 8, 8}, {159, 8, 16}, {160, 512, 24}, {225, 1096, 16}, {162, 520, 32}, {136, 8200, 8}, {263, 1544, 16}, {1100, 72, 16}} {
		dt := []tensor.DType{tensor.BF16, tensor.F16}[i%2]
		op := ops.MatMulPair{AlphaT: 1, AlphaD: []float32{1, 2, -0.5}[i%3], Add: i%4 != 0, TransS: i < 4}
		to := []tensor.DType{tensor.F32, dt}[i/2%2]
		t.Run(fmt.Sprintf("%vx%v rank %v %v", s[0], s[1], s[2], dt), func(t *testing.T) {
			p := newPair(op, s[0], s[1], s[2], dt, to, small)
			for _, off := range []int64{0, 1} {
				for k, got := range p.run(t, d, off) {
					want := [][]float64{p.wantT, p.wantD}[k]
					exact := tensor.New(p.out[k]) // 16-bit types round
					for i, v := range want {
						exact.Set(i, v)
					}
					require.Equal(t, floats(exact), floats(got), "result %d, %d elements off", k, off)
				}
			}
		})
	}
}

// Sums in float32 over many rows and columns are as near to the exact ones as numbers of 24 bits allow, and repeat bit for bit.
func TestThinPairAccuracy(t *testing.T) {
	d := pairDevice(t)
	rng := rand.New(rand.NewPCG(5, 6))
	m, n, rank := 640, 1040, 16
	p := newPair(ops.MatMulPair{AlphaT: 1, AlphaD: 2, Add: true}, m, n, rank, tensor.BF16, tensor.F32, rng.NormFloat64)
	got, again := p.run(t, d, 0), p.run(t, d, 0)
	for k := range got {
		require.Equal(t, got[k].Bytes(), again[k].Bytes(), "result %d", k)
	}
	var worst float64
	for i, v := range p.wantD {
		worst = max(worst, math.Abs(got[1].At(i)-v)/math.Sqrt(float64(m)))
	}
	require.Less(t, worst, 4e-6)
	for i, v := range p.wantT {
		require.InDelta(t, v, got[0].At(i), math.Abs(v)/256+1e-4*math.Sqrt(float64(n)), "rounded once to bfloat16")
	}
}

// What the kernel has no case for stays two products.
func TestThinPairRefuses(t *testing.T) {
	d := pairDevice(t)
	for _, c := range []struct {
		m, n, rank int
		dt         tensor.DType
	}{{192, 64, 12, tensor.BF16}, {192, 64, 40, tensor.BF16}, {192, 60, 16, tensor.BF16}, {192, 64, 16, tensor.F32}, {64, 64, 16, tensor.BF16}, {0, 64, 16, tensor.BF16}, {64, 0, 16, tensor.F16}} {
		p := newPair(ops.MatMulPair{AlphaT: 1, AlphaD: 1}, c.m, c.n, c.rank, c.dt, c.dt, func() float64 { return 1 })
		_, err := d.Kernel(p.spec())
		require.ErrorIs(t, err, device.ErrNoKernel, "%+v", c)
	}
	p := newPair(ops.MatMulPair{AlphaT: 1, AlphaD: 1, TransS: true}, 188, 64, 16, tensor.BF16, tensor.BF16, func() float64 { return 1 })
	_, err := d.Kernel(p.spec())
	require.ErrorIs(t, err, device.ErrNoKernel, "rows of S that are no multiple of 16 bytes")
	p = newPair(ops.MatMulPair{AlphaT: 1, AlphaD: 1}, 192, 64, 16, tensor.BF16, tensor.BF16, func() float64 { return 1 })
	_, err = testDevice(t).Kernel(p.spec())
	require.ErrorIs(t, err, device.ErrNoKernel, "what is small is two products")
}

// In a plan the pair adds to gradient variables in their place: a step of adapters in float32 on frozen layers in bfloat16 gives what it gives with
// two products, run after run.
func TestThinPairInPlans(t *testing.T) {
	const rows, dim, rank, layers = 136, 96, 16, 2
	step := func(d *Device) (pairs int, out []*tensor.Tensor) {
		store := plan.NewStore(d)
		rng := rand.New(rand.NewPCG(8, 9))
		drawn := func(ty tensor.Type) *tensor.Tensor {
			x := tensor.New(ty)
			for i := range ty.Size() {
				x.Set(i, rng.NormFloat64()/4)
			}
			return x
		}
		variable := func(name string, dims ...int) *graph.Var {
			v := graph.NewVar(name, tensor.T(tensor.F32, dims...))
			require.NoError(t, store.Set(v, drawn(v.Type)))
			return v
		}
		g := graph.New("adapters")
		x := g.Input("x", tensor.T(tensor.BF16, rows, dim))
		h, factors, sums := x, []graph.Value(nil), []*graph.Var(nil)
		for i := range layers {
			a, b := g.Read(variable(fmt.Sprint("a", i), rank, dim)), g.Read(variable(fmt.Sprint("b", i), dim, rank))
			s := ops.Linear(h, ops.Cast(a, tensor.BF16))
			h = ops.Tanh(ops.Add(ops.Linear(h, g.Const(drawn(tensor.T(tensor.BF16, dim, dim)))), ops.Linear(s, ops.Cast(ops.Scale(b, 2), tensor.BF16))))
			factors = append(factors, a, b)
			sums = append(sums, variable(fmt.Sprint("da", i), rank, dim), variable(fmt.Sprint("db", i), dim, rank))
		}
		grads, err := autograd.GradValues(ops.Sum(ops.Square(ops.Cast(h, tensor.F32))), factors...)
		require.NoError(t, err)
		for i, v := range grads {
			g.Write(sums[i], ops.Add(g.Read(sums[i]), v))
		}
		p, err := plan.Compile([]graph.Value{h}, plan.Options{Device: d, Store: store, Verify: true})
		require.NoError(t, err)
		for _, l := range p.Launches() {
			if l.Node.Op.Name() == "matmul_pair" {
				pairs++
			}
		}
		feed := plan.Feed{x: drawn(x.Type())}
		for range 2 {
			_, err := p.Run(t.Context(), feed)
			require.NoError(t, err)
		}
		for _, v := range sums {
			got, err := store.Get(v)
			require.NoError(t, err)
			out = append(out, got)
		}
		require.NoError(t, p.Close())
		require.NoError(t, store.Close())
		return pairs, out
	}
	d := pairDevice(t)
	pairs, want := step(testDevice(t))
	require.Zero(t, pairs)
	pairs, got := step(d)
	require.Equal(t, layers, pairs)
	for i := range want {
		a, b := floats(want[i]), floats(got[i])
		for k := range a {
			require.InDelta(t, a[k], b[k], 0.02*(1+math.Abs(a[k])), "gradient %d", i)
		}
	}
}
