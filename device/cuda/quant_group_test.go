package cuda

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// groupCase is products of m rows of x by weights of so many rows.
type groupCase struct {
	m, k               int
	rows, block, ranks []int
	low                tensor.DType // of the adapters' B and the biases, which all but the second and fourth of several rows have; Invalid: that of x
}

var groupsOf = []groupCase{
	{1, 128, []int{40, 16, 8}, []int{64, 64, 64}, []int{0, 0, 0}, 0},
	{1, 1184, []int{33, 100}, []int{64, 64}, []int{16, 16}, tensor.F32},
	{8, 2080, []int{17, 1, 16, 50}, []int{32, 64, 4096, 64}, []int{8, 0, 5, 64}, 0},
	{5, 96, []int{31, 3, 48}, []int{64, 32, 64}, []int{1, 24, 0}, tensor.F32},
	{3, 4096, []int{20, 9}, []int{64, 64}, []int{0, 12}, tensor.F32},
	{2, 6176, []int{19, 33}, []int{64, 32}, []int{0, 3}, tensor.F32},
}

// operands are random inputs of the group; alone are those of each product as a group of one.
func (c groupCase) operands(rng *rand.Rand, dtype tensor.DType, nested bool) (o ops.QuantMatMulGroup, in []*tensor.Tensor, alone [][]*tensor.Tensor, states []*quant.State) {
	low := c.low
	if low == tensor.Invalid {
		low = dtype
	}
	in = []*tensor.Tensor{normal(dtype, rng, c.m, c.k)}
	for i, n := range c.rows {
		state, parts := randomWeight(rng, quant.NF4, c.block[i], n, c.k, nested)
		o.Of[i] = ops.QuantProduct{QuantMatMul: ops.QuantMatMul{Scheme: quant.NF4, Blocksize: c.block[i], N: n, K: c.k, Nested: nested}}
		if o.Of[i].Bias = c.m != 1 && i%2 == 0; o.Of[i].Bias {
			parts = append(parts, normal(low, rng, n))
		}
		if r := c.ranks[i]; r > 0 {
			o.Of[i].Rank, o.Of[i].Alpha = r, 1.25
			parts = append(parts, normal(dtype, rng, c.m, r), normal(low, rng, n, r))
		}
		o.N++
		in = append(in, parts...)
		alone, states = append(alone, append(in[:1:1], parts...)), append(states, state)
	}
	return o, in, alone, states
}

func (c groupCase) out(dtype tensor.DType) (out []tensor.Type) {
	for _, n := range c.rows {
		out = append(out, tensor.T(dtype, c.m, n))
	}
	return out
}

// thinBy builds a group's kernel for so many warps.
func thinBy(d *Device, o ops.QuantMatMulGroup, s device.Spec, warps int, lean bool) (device.Kernel, error) {
	t := newThinGroup(o, s)
	t.lean = lean
	if err := t.build(d, s.In[0].DType, warps); err != nil {
		return nil, err
	}
	return t.kernel().bind(d, s), nil
}

// TestQuantGroup: products of one x in one launch have the bits of launches for each, in which as many warps share the sums, also where operands begin at odd addresses;
// without an adapter and a bias they are those of QuantMatMul; with them they are x·Wᵀ + s·Bᵀ + bias within the rounding of the result.
func TestQuantGroup(t *testing.T) {
	for i, c := range groupsOf {
		for _, dtype := range quantized[1:] {
			nested := (i+b2i(dtype == tensor.F16))%2 == 0
			for _, shift := range []int64{0, 4} {
				for _, lean := range []bool{false, true} {
					c.check(t, dtype, nested, shift, lean)
				}
			}
		}
	}
}

func (c groupCase) check(t *testing.T, dtype tensor.DType, nested bool, shift int64, lean bool) {
	d := testDevice(t)
	if lean && c.m > 2 {
		return
	}
	rng := rand.New(rand.NewPCG(17, uint64(c.k)))
	o, in, alone, states := c.operands(rng, dtype, nested)
	warps := 0
	all := kernelRun{op: o, in: in, out: c.out(dtype), shift: shift}
	got := all.run(t, d, func(s device.Spec) (device.Kernel, error) {
		p := newThinGroup(o, s)
		if warps = p.shared(d); lean {
			return thinBy(d, o, s, warps, true)
		}
		return d.Kernel(s)
	})
	for j := range c.rows {
		what := fmt.Sprintf("%+v %v nested %v shift %d, product %d, lean %v", c, dtype, nested, shift, j, lean)
		one := ops.QuantMatMulGroup{Of: [ops.GroupMost]ops.QuantProduct{o.Of[j]}, N: 1}
		single := kernelRun{op: one, in: alone[j], out: all.out[j : j+1], shift: shift}
		require.Equal(t, single.run(t, d, func(s device.Spec) (device.Kernel, error) { return thinBy(d, one, s, warps, lean) })[0].Bytes(), got[j].Bytes(), what)
		w, err := states[j].Dequantize(dtype)
		require.NoError(t, err)
		sameProduct(t, got[j], in[0], w, lowProduct(alone[j], o.Of[j], dtype), what)
		if o.Of[j].Rank > 0 || o.Of[j].Bias {
			continue
		}
		plain := kernelRun{op: o.Of[j].QuantMatMul, in: alone[j], out: single.out, shift: shift}
		require.Equal(t, plain.run(t, d, func(s device.Spec) (device.Kernel, error) {
			p := &thin{parts: []thinOperands{{w: weight4{quant.NF4, c.block[j], c.rows[j], c.k, nested}, weight: 1, to: -1, s: -1, bias: -1}}, m: c.m, cols: c.k, size: 2, lean: lean}
			if err := p.build(d, dtype, warps); err != nil {
				return nil, err
			}
			return p.kernel().bind(d, s), nil
		})[0].Bytes(), got[j].Bytes(), what)
	}
}

// lowProduct is the bias and s·Bᵀ in float64 of the last two operands, bias and B rounded as the op says; nil without either.
func lowProduct(in []*tensor.Tensor, q ops.QuantProduct, dtype tensor.DType) *tensor.Tensor {
	if q.Rank == 0 && !q.Bias {
		return nil
	}
	s, b := in[len(in)-2], in[len(in)-1]
	m, n := in[0].Type().Dim(0), q.N
	y, v := tensor.New(tensor.T(tensor.F64, m, n)), tensor.New(tensor.T(dtype, 1))
	for i := range m {
		for j := range n {
			sum := 0.0
			if q.Bias {
				v.Set(0, in[1+q.BiasAt()].At(j))
				sum = v.At(0)
			}
			for e := range q.Rank {
				v.Set(0, float64(q.Alpha*float32(b.At(j*q.Rank+e))))
				sum += s.At(i*q.Rank+e) * v.At(0)
			}
			y.Set(i*n+j, sum)
		}
	}
	return y
}

// TestGroupsDeclined: what a launch does not have for all its products stays single products.
func TestGroupsDeclined(t *testing.T) {
	d := testDevice(t)
	rng := rand.New(rand.NewPCG(1, 4))
	kernel := func(op graph.Op, in ...tensor.Type) error {
		out, err := op.Infer(in)
		require.NoError(t, err)
		_, err = d.Kernel(device.Spec{Op: op, In: in, Out: out})
		return err
	}
	types := func(c groupCase, dtype tensor.DType) (ops.QuantMatMulGroup, []tensor.Type) {
		o, in, _, _ := c.operands(rng, dtype, false)
		var out []tensor.Type
		for _, x := range in {
			out = append(out, x.Type())
		}
		return o, out
	}
	good := groupCase{2, 64, []int{16, 8}, []int{64, 64}, []int{0, 0}, 0}
	o, in := types(good, tensor.BF16)
	require.NoError(t, kernel(o, in...))
	for _, change := range []func(c *groupCase){func(c *groupCase) { c.m = 9 }, func(c *groupCase) { c.m = 0 }, func(c *groupCase) { c.k = 48 },
		func(c *groupCase) { c.block = []int{64, 50} }, func(c *groupCase) { c.rows = []int{16, 0} }} {
		c := good
		change(&c)
		o, in := types(c, tensor.BF16)
		require.ErrorIs(t, kernel(o, in...), device.ErrNoKernel, "%+v", c)
	}
	o, in = types(good, tensor.F32)
	require.ErrorIs(t, kernel(o, in...), device.ErrNoKernel, "no tensor cores")
	long := ops.QuantMatMul{Scheme: quant.NF4, Blocksize: 64, N: 1, K: 1 << 31}
	in = []tensor.Type{tensor.T(tensor.BF16, 1, long.K), tensor.T(tensor.U8, long.K/2), tensor.T(tensor.F32, long.K/64)}
	require.ErrorIs(t, kernel(ops.QuantMatMulGroup{Of: [ops.GroupMost]ops.QuantProduct{{QuantMatMul: long}}, N: 1}, in...), device.ErrNoKernel, "counted in 32 bits")
	one, err := d.thinProduct(weight4{quant.NF4, 64, 1, long.K, false}, tensor.BF16, 1, false)
	require.NoError(t, err)
	require.Nil(t, one)
	table := func(tokens int) tensor.Type { return tensor.T(tensor.F32, tokens, 8) }
	require.NoError(t, kernel(ops.RoPEGroup{N: 1}, table(64), table(64), tensor.T(tensor.BF16, 64, 2, 16)))
	require.ErrorIs(t, kernel(ops.RoPEGroup{N: 1}, table(65), table(65), tensor.T(tensor.BF16, 65, 2, 16)), device.ErrNoKernel)
	x, a := tensor.T(tensor.BF16, 2, 64), tensor.T(tensor.BF16, 16, 64)
	group := ops.MatMulGroup{Alpha: [ops.GroupMost]float32{1, 1}, N: 2}
	require.NoError(t, kernel(group, x, a, a))
	for _, in := range [][]tensor.Type{{tensor.T(tensor.BF16, 9, 64), a, a}, {tensor.T(tensor.BF16, 0, 64), a, a}, {x, a, tensor.T(tensor.F32, 16, 64)}, {x, a, tensor.T(tensor.BF16, 0, 64)},
		{x, a, tensor.T(tensor.BF16, 400, 64)}, {tensor.T(tensor.BF16, 1, 1<<31), tensor.T(tensor.BF16, 4, 1<<31), tensor.T(tensor.BF16, 4, 1<<31)}, {tensor.T(tensor.F64, 2, 64), tensor.T(tensor.F64, 16, 64), tensor.T(tensor.F64, 16, 64)}} {
		require.ErrorIs(t, kernel(group, in...), device.ErrNoKernel, "%v", in)
	}
}

// TestThinRows: narrow products of few rows are those of float64 within the rounding of the result, and the same in a group as alone.
func TestThinRows(t *testing.T) {
	d := testDevice(t)
	rng := rand.New(rand.NewPCG(5, 8))
	for i, c := range []struct {
		m, k int
		rows []int
	}{{1, 4096, []int{16, 16, 16}}, {8, 2056, []int{1, 64}}, {5, 43, []int{7, 2, 3, 1}}, {2, 1, []int{4}}, {3, 8200, []int{8, 3}}} {
		for _, dtype := range quantized {
			stored := dtype
			if i%2 == 0 {
				stored = tensor.F32
			}
			o := ops.MatMulGroup{N: int8(len(c.rows))}
			in, out := []*tensor.Tensor{normal(dtype, rng, c.m, c.k)}, []tensor.Type{}
			for j, n := range c.rows {
				o.Alpha[j] = float32(int(1) << j)
				in, out = append(in, normal(stored, rng, n, c.k)), append(out, tensor.T(dtype, c.m, n))
			}
			for _, shift := range []int64{0, 4} {
				got := kernelRun{op: o, in: in, out: out, shift: shift}.run(t, d, nil)
				for j := range c.rows {
					what := fmt.Sprintf("%+v %v of %v, product %d, shift %d", c, dtype, stored, j, shift)
					one := ops.MatMulGroup{Alpha: [ops.GroupMost]float32{o.Alpha[j]}, N: 1}
					alone := kernelRun{op: one, in: []*tensor.Tensor{in[0], in[1+j]}, out: out[j : j+1], shift: shift}.run(t, d, nil)[0]
					require.Equal(t, alone.Bytes(), got[j].Bytes(), what)
					w := tensor.New(tensor.T(dtype, c.rows[j], c.k))
					for e := range w.Type().Size() {
						w.Set(e, in[1+j].At(e))
					}
					for e := range w.Type().Size() { // alpha is a power of two
						w.Set(e, w.At(e)*float64(o.Alpha[j]))
					}
					sameProduct(t, got[j], in[0], w, nil, what)
				}
			}
		}
	}
}

// TestRotationsAtOnce: tensors of other numbers of heads that are turned in one launch have the bits of launches of their own, also at odd addresses and in
// place.
func TestRotationsAtOnce(t *testing.T) {
	d := testDevice(t)
	rng := rand.New(rand.NewPCG(9, 2))
	for _, dtype := range quantized[:2] {
		cos, sin := normal(tensor.F32, rng, 5, 8), normal(tensor.F32, rng, 5, 8)
		xs := []*tensor.Tensor{normal(dtype, rng, 5, 9, 24), normal(dtype, rng, 5, 2, 24), normal(dtype, rng, 5, 1, 24)}
		for _, op := range []ops.RoPEOp{{}, {Interleaved: true, Inverse: true}} {
			for _, shift := range []int64{0, 4} {
				all := kernelRun{op: ops.RoPEGroup{RoPE: op, N: 3}, in: append([]*tensor.Tensor{cos, sin}, xs...), out: []tensor.Type{xs[0].Type(), xs[1].Type(), xs[2].Type()}, shift: shift}
				for _, alias := range [][]int{nil, {2, 3, 4}} {
					all.alias = alias
					for i, got := range all.run(t, d, nil) {
						alone := kernelRun{op: op, in: []*tensor.Tensor{xs[i], cos, sin}, out: all.out[i : i+1]}.run(t, d, nil)[0]
						require.Equal(t, alone.Bytes(), got.Bytes(), "%+v of %v, shift %d, in place %v, tensor %d", op, dtype, shift, alias != nil, i)
					}
				}
			}
		}
	}
}

// TestTokenGroups: a token's projections with adapters are two launches for all that read one input, with biases too; results are those of the processor within rounding, and
// the same each time, recorded or not. Without adapters they are one, and with more rows of x they stay apart.
func TestTokenGroups(t *testing.T) {
	d := testDevice(t)
	for _, c := range []struct {
		rows   int
		low    tensor.DType
		bias   tensor.DType
		groups map[string]int
	}{{1, tensor.F32, 0, map[string]int{"matmul_group": 1, "quant_matmul_group": 1}}, {8, tensor.BF16, 0, map[string]int{"matmul_group": 1, "quant_matmul_group": 1, "cast": 0}},
		{3, tensor.Invalid, 0, map[string]int{"quant_matmul_group": 1}}, {9, tensor.F32, 0, map[string]int{"matmul": 6, "add_quant_matmul": 3}},
		{1, tensor.F32, tensor.BF16, map[string]int{"matmul_group": 1, "quant_matmul_group": 1}}, {2, tensor.Invalid, tensor.F32, map[string]int{"quant_matmul_group": 1}}} {
		_, want := tokenStep(t, cpu.New(cpu.Options{Threads: 1}), c.rows, c.low, c.bias, plan.Plain)
		names, got := tokenStep(t, d, c.rows, c.low, c.bias, plan.Plain)
		for name, n := range c.groups {
			require.Equal(t, n, names[name], "%s of %v, %d rows", name, names, c.rows)
		}
		if c.rows <= 8 {
			total := 0
			for _, n := range names {
				total += n
			}
			require.LessOrEqual(t, total, 3, "with what makes x: %v", names)
		}
		for i := range want {
			for k := range want[i].Type().Size() {
				require.InDelta(t, want[i].At(k), got[i].At(k), 0.03, "value %d, element %d", i, k)
			}
		}
		_, again := tokenStep(t, d, c.rows, c.low, c.bias, plan.Captured)
		require.Equal(t, got, again)
	}
}

// tokenStep runs three projections of one input, with adapters and biases stored in types, if they are valid, and counts launches.
func tokenStep(t *testing.T, dev device.Device, rows int, low, bias tensor.DType, launch plan.Launching) (names map[string]int, got []*tensor.Tensor) {
	const in, rank = 128, 8
	rng := rand.New(rand.NewPCG(7, 7))
	g, store := graph.New("token"), plan.NewStore(dev)
	read := func(name string, x *tensor.Tensor) graph.Value {
		v := graph.NewVar(name, x.Type())
		require.NoError(t, store.Set(v, x))
		return g.Read(v)
	}
	x := g.Input("x", tensor.T(tensor.BF16, rows, 1, in))
	h := ops.Tanh(x)
	var outs []graph.Value
	for i, n := range []int{64, 32, 40} {
		_, parts := randomWeight(rng, quant.NF4, 64, n, in, true)
		var weight []graph.Value
		for j, p := range parts {
			weight = append(weight, read(fmt.Sprint("w", i, j), p))
		}
		y := ops.QuantLinear(ops.QuantMatMul{Scheme: quant.NF4, Blocksize: 64, N: n, K: in, Nested: true}, h, weight...)
		if bias != tensor.Invalid {
			y = ops.Add(y, ops.Cast(read(fmt.Sprint("bias", i), normal(bias, rng, n)), tensor.BF16))
		}
		if low != tensor.Invalid {
			a, b := read(fmt.Sprint("a", i), small(low, rng, rank, in)), read(fmt.Sprint("b", i), small(low, rng, n, rank))
			s := ops.Linear(h, ops.Cast(a, tensor.BF16))
			if low == tensor.BF16 {
				s = ops.Scale(s, 2)
			} else {
				b = ops.Scale(b, 2)
			}
			y = ops.Add(y, ops.Linear(s, ops.Cast(b, tensor.BF16)))
		}
		outs = append(outs, y)
	}
	p, err := plan.Compile(outs, plan.Options{Device: dev, Store: store, Verify: true, Launch: launch})
	require.NoError(t, err)
	names = map[string]int{}
	for _, l := range p.Launches() {
		names[l.Node.Op.Name()]++
	}
	feed := plan.Feed{x: normal(tensor.BF16, rng, rows, 1, in)}
	for range 3 { // the third is a replay where launches are recorded
		res, err := p.Run(t.Context(), feed)
		require.NoError(t, err)
		got = got[:0]
		for _, v := range outs {
			got = append(got, res.Tensor(v))
		}
	}
	require.NoError(t, p.Close())
	return names, got
}

// small is normal numbers whose squares add up to little.
func small(dt tensor.DType, rng *rand.Rand, dims ...int) *tensor.Tensor {
	x := normal(dt, rng, dims...)
	for i := range x.Type().Size() {
		x.Set(i, x.At(i)/16)
	}
	return x
}
