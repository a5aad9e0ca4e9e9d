package cuda

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/device/devicetest"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/golden/bnb"
	"github.com/bitsandbyes/bitsandbyes/internal/optest"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// launched runs a kernel on operands that lie `off` elements into their buffers, and returns its first output.
func launched(t *testing.T, d *Device, op device.Op, off int64, out tensor.Type, in ...*tensor.Tensor) (*tensor.Tensor, string) {
	t.Helper()
	spec := device.Spec{Op: op, Out: []tensor.Type{out}}
	for _, x := range in {
		spec.In = append(spec.In, x.Type())
	}
	k, err := d.Kernel(spec)
	require.NoError(t, err)
	return launchedKernel(t, d, k.(*Kernel), off, out, in...), k.(*Kernel).KernelName()
}

// launchedKernel is launched for a kernel at hand.
func launchedKernel(t *testing.T, d *Device, k *Kernel, off int64, out tensor.Type, in ...*tensor.Tensor) *tensor.Tensor {
	t.Helper()
	s := d.Stream(0)
	place := func(x tensor.Type) device.Ptr {
		skip := off * int64(x.DType.Size())
		b, err := d.Alloc(x.Bytes() + skip)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, b.Free()) })
		return device.Ptr{Buf: b, Off: skip}
	}
	var at []device.Ptr
	for _, x := range in {
		p := place(x.Type())
		require.NoError(t, s.Upload(p, x.Bytes()))
		at = append(at, p)
	}
	if k.dev == nil { // not made by Device.Kernel
		k.dev, k.call = d, Call{In: make([]Addr, len(in)), Out: make([]Addr, 1), Dev: d}
		k.in, k.out = make([]int64, len(in)), make([]int64, 1)
	}
	y, scratch := place(out), device.Ptr{}
	if k.Scratch() > 0 {
		b, err := d.Alloc(k.Scratch())
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, b.Free()) })
		scratch.Buf = b
	}
	require.NoError(t, k.Launch(s, at, []device.Ptr{y}, scratch))
	result := tensor.New(out)
	require.NoError(t, s.Download(result.Bytes(), y))
	return result
}

// filled is a tensor of small integers, whose products and sums are exact in every float type here.
func filled(rng *rand.Rand, t tensor.Type) *tensor.Tensor {
	x := tensor.New(t)
	for i := range t.Size() {
		x.Set(i, float64(rng.IntN(5)-2))
	}
	return x
}

func floats(x *tensor.Tensor) []float64 {
	out := make([]float64, x.Type().Size())
	for i := range out {
		out[i] = x.At(i)
	}
	return out
}

// naive is the product in float64 of op(a) (m, k) and op(b) (k, n), of one matrix.
func naive(x, w *tensor.Tensor, m, n, k int, op ops.MatMul) []float64 {
	a, b, y := floats(x), floats(w), make([]float64, m*n)
	for i := range m {
		for l := range k {
			x := a[i*k+l]
			if op.TransA {
				x = a[l*m+i]
			}
			for j := range n {
				if op.TransB {
					y[i*n+j] += x * b[j*k+l]
				} else {
					y[i*n+j] += x * b[l*n+j]
				}
			}
		}
	}
	return y
}

// Every kernel, layout and alignment gives the exact product of small integers: tiles with edges, steps that the inner axis ends within, an
// inner axis that is cut, operands that are views.
func TestProducts(t *testing.T) {
	for name, d := range productDevices(t) {
		t.Run(name, func(t *testing.T) { testProducts(t, d) })
	}
}

// productDevices are the device as it is, and one that multiplies by the kernels here alone.
func productDevices(t *testing.T) map[string]*Device {
	d := testDevice(t)
	if _, err := d.library(); err != nil {
		return map[string]*Device{"own": d}
	}
	own, err := New(Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, own.Close()) })
	own.blas.tried, own.blas.err = true, errors.New("left out by a test")
	return map[string]*Device{"library": d, "own": own}
}

func testProducts(t *testing.T, d *Device) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, s := range [][3]int{{140, 40, 200}, {16, 24, 1100}, {3, 130, 40}, {31, 17, 67}} {
		m, n, k := s[0], s[1], s[2]
		for trans := range 4 {
			op := ops.MatMul{TransA: trans&1 != 0, TransB: trans&2 != 0}
			for _, dt := range []tensor.DType{tensor.F64, tensor.F32, tensor.BF16, tensor.F16, tensor.I8} {
				a, b := tensor.T(dt, m, k), tensor.T(dt, k, n)
				if op.TransA {
					a = tensor.T(dt, k, m)
				}
				if op.TransB {
					b = tensor.T(dt, n, k)
				}
				x, w := filled(rng, a), filled(rng, b)
				want, out, o := naive(x, w, m, n, k, op), tensor.T(dt, m, n), device.Op(op)
				if dt == tensor.I8 {
					out, o = tensor.T(tensor.I32, m, n), ops.Int8MatMul(op)
				}
				for _, off := range []int64{0, 1} {
					got, name := launched(t, d, o, off, out, x, w)
					exact := tensor.New(out) // 16-bit types round
					for i, v := range want {
						exact.Set(i, v)
					}
					require.Equal(t, exact.Bytes(), got.Bytes(), fmt.Sprintf("%v %v %v %s offset %d", s, op, dt, name, off))
				}
			}
		}
	}
}

// An inner axis that is cut gives what the whole one gives, where the sums are exact.
func TestCutProductsAreChosen(t *testing.T) {
	d := testDevice(t)
	g, err := d.ownGemm(dense(32, 32, 1<<14, tensor.BF16, tensor.BF16, tensor.BF16, true))
	require.NoError(t, err)
	require.Contains(t, g.label, "gemm_mma_split")
	require.Positive(t, g.scratch)
	g, err = d.ownGemm(dense(1<<12, 1<<12, 1<<14, tensor.BF16, tensor.BF16, tensor.BF16, true))
	require.NoError(t, err)
	require.Equal(t, "gemm_mma", g.label, "enough tiles")
	require.Zero(t, g.scratch)
}

// A batch larger than a grid's extent is several launches.
func TestLongBatch(t *testing.T) {
	d := testDevice(t)
	rng := rand.New(rand.NewPCG(3, 4))
	const batch, m, n, k = 7, 3, 5, 4
	s := dense(m, n, k, tensor.F32, tensor.F32, tensor.F32, false)
	s.batch, s.add, s.a.stride, s.b.stride, s.c.stride = batch, true, m*k, k*n, m*n
	o, err := d.newOwnGemm(s)
	require.NoError(t, err)
	o.most = 3
	x, w := filled(rng, tensor.T(tensor.F32, batch, m, k)), filled(rng, tensor.T(tensor.F32, batch, k, n))
	c := filled(rng, tensor.T(tensor.F32, batch, m, n))
	k3 := &Kernel{Enqueue: func(c *Call) error {
		return o.enqueue(c, gemmAt{a: c.In[0], b: c.In[1], add: c.In[2], c: c.Out[0]})
	}}
	got := launchedKernel(t, d, k3, 0, c.Type(), x, w, c)
	whole, _ := launched(t, d, ops.MatMul{}, 0, c.Type(), x, w)
	for i := range batch * m * n {
		require.Equal(t, whole.At(i)+c.At(i), got.At(i))
	}
}

// Each row is multiplied by its expert's matrix; rows before the first and after the last expert are zero, also in tiles that end there.
func TestGroupedRows(t *testing.T) {
	d := testDevice(t) // no library has it
	rng := rand.New(rand.NewPCG(5, 6))
	const rows, experts, n, k = 300, 35, 40, 48
	offsets := tensor.New(tensor.T(tensor.I32, experts+1))
	at := 3
	for e := range experts + 1 {
		offsets.Set(e, float64(at))
		if e == 7 {
			at += 140 // an expert of more than a tile
		} else if e%3 != 0 {
			at += rng.IntN(8)
		}
	}
	for _, dt := range []tensor.DType{tensor.F32, tensor.BF16} {
		x, w := filled(rng, tensor.T(dt, rows, k)), filled(rng, tensor.T(dt, experts, n, k))
		got, name := launched(t, d, ops.GroupedMatMul{}, 0, tensor.T(dt, rows, n), x, w, offsets)
		outer, _ := launched(t, d, ops.GroupedOuter{}, 0, tensor.T(dt, experts, k, k), x, x, offsets)
		for e := -1; e <= experts; e++ {
			lo, hi := 0, rows
			if e >= 0 {
				lo = int(offsets.At(e))
			}
			if e < experts {
				hi = int(offsets.At(e + 1))
			}
			for i := lo; i < hi; i++ {
				for j := range n {
					want := 0.0
					for l := range k {
						if e >= 0 && e < experts {
							want += x.At(i*k+l) * w.At((e*n+j)*k+l)
						}
					}
					require.Equal(t, want, got.At(i*n+j), "%s row %d of expert %d", name, i, e)
				}
			}
			if e >= 0 && e < experts {
				want := 0.0
				for i := lo; i < hi; i++ {
					want += x.At(i*k+3) * x.At(i*k+5)
				}
				require.Equal(t, want, outer.At((e*k+3)*k+5), "outer product of expert %d", e)
			}
		}
	}
}

// The layer of LLM.int8() in a kernel gives what its steps give, over several tiles, with few, many and no outliers.
func TestInt8LinearEqualsSteps(t *testing.T) {
	d := testDevice(t)
	rng := rand.New(rand.NewPCG(7, 8))
	const m, n, k = 260, 24, 160
	w, stats := tensor.New(tensor.T(tensor.I8, n, k)), tensor.New(tensor.T(tensor.F32, n))
	for i := range n * k {
		w.Set(i, float64(rng.IntN(255)-127))
	}
	for i := range n {
		stats.Set(i, 0.5+rng.Float64())
	}
	for _, dt := range []tensor.DType{tensor.F32, tensor.BF16} {
		for _, columns := range []int{3, 75} {
			x := tensor.New(tensor.T(dt, m, k))
			for i := range m * k {
				x.Set(i, min(max(rng.NormFloat64(), -5), 5))
			}
			for c := range columns {
				x.Set(rng.IntN(m)*k+2*c, 9)
			}
			g := graph.New("int8")
			in := []graph.Value{g.Input("x", x.Type()), g.Input("w", w.Type()), g.Input("stats", stats.Type()), {}}
			op := ops.Int8Linear{Threshold: 6}
			out, err := plan.Eval(d, plan.Feed{in[0]: x, in[1]: w, in[2]: stats}, g.Apply(op, in...)[0], op.Decompose(in)[0])
			require.NoError(t, err)
			limit := map[tensor.DType]float64{tensor.F32: 1e-6, tensor.BF16: 1e-3}[dt]
			require.LessOrEqual(t, bnb.NormError(out[0], out[1]), limit, "%v with %d columns", dt, columns)
			spec := device.Spec{Op: op, In: []tensor.Type{x.Type(), w.Type(), stats.Type(), {}}, Out: []tensor.Type{tensor.T(dt, m, n)}}
			pieces, err := d.linear8(op, spec, 1) // 256 rows at a time
			require.NoError(t, err)
			whole := pieces.Enqueue
			pieces.Enqueue = func(c *Call) error {
				c.In = append(c.In[:3:3], 0)
				return whole(c)
			}
			require.Equal(t, out[0].Bytes(), launchedKernel(t, d, pieces, 0, spec.Out[0], x, w, stats).Bytes(), "in pieces")
		}
	}
}

// TestDeviceOwnProducts is the conformance suite over products without cuBLASLt, where TestDevice has it.
func TestDeviceOwnProducts(t *testing.T) {
	own := productDevices(t)
	if own["library"] == nil {
		t.Skip("there is no cuBLASLt: TestDevice has shown the same kernels")
	}
	devicetest.RunWith(t, own["own"], devicetest.Options{Skip: func(c *optest.Case, _ tensor.DType) string {
		for _, part := range []string{"matmul", "linear", "dot", "int8", "grouped", "switchback"} {
			if strings.Contains(c.Name, part) {
				return ""
			}
		}
		return "no product"
	}})
}
