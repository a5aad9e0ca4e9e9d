package cuda

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestCodedProducts: products whose weight is decoded on its way to tensor cores are those of the dequantized weight in float64, within the
// rounding of the result: several tiles and parts of the inner axis, edges within tiles, operands at odd addresses.
func TestCodedProducts(t *testing.T) {
	d := testDevice(t)
	rng := rand.New(rand.NewPCG(13, 12))
	for i, c := range []struct {
		m, rows, cols, blocksize int
		trans                    bool
	}{{3, 40, 128, 64, false}, {40, 140, 96, 32, false}, {64, 17, 1184, 64, false}, {33, 9, 160, 4096, false},
		{40, 72, 96, 64, true}, {63, 33, 160, 32, true}, {5, 1100, 32, 64, true}} {
		for _, nested := range []bool{false, true} {
			dtype := quantized[1+(i+b2i(nested))%2]
			state, parts := randomWeight(rng, quant.NF4, c.blocksize, c.rows, c.cols, nested)
			w, err := state.Dequantize(dtype)
			require.NoError(t, err)
			inner, outer := c.cols, c.rows
			if c.trans {
				inner, outer = outer, inner
				w = transposed(w)
			}
			x, to := normal(dtype, rng, c.m, inner), normal(dtype, rng, c.m, outer)
			o := ops.QuantMatMul{Scheme: quant.NF4, Blocksize: c.blocksize, N: c.rows, K: c.cols, Nested: nested, Trans: c.trans}
			for _, add := range []bool{false, true} {
				in, op, base := append([]*tensor.Tensor{x}, parts...), graph.Op(o), (*tensor.Tensor)(nil)
				if add {
					in, op, base = append([]*tensor.Tensor{to}, in...), ops.AddQuantMatMul{QuantMatMul: o}, to
				}
				build := func(s device.Spec) (device.Kernel, error) {
					p, err := d.codedProduct(weight4{o.Scheme, o.Blocksize, o.N, o.K, nested}, dtype, c.m, c.trans, add)
					if err != nil {
						return nil, err
					}
					return p.kernel().bind(d, s), nil
				}
				for _, shift := range []int64{0, 4} {
					got := kernelRun{op: op, in: in, out: []tensor.Type{to.Type()}, shift: shift}.run(t, d, build)[0]
					sameProduct(t, got, x, w, base, fmt.Sprintf("%+v %v nested %v add %v shift %d", c, dtype, nested, add, shift))
				}
			}
		}
	}
}

// TestCodedProductsCompileOnce: of the kernels for multiples of 16 and for any address, a product is prepared with the one that it is to use.
func TestCodedProductsCompileOnce(t *testing.T) {
	d := testDevice(t)
	for _, rows := range []int{64, 33} {
		_, needs, err := d.building.run(nil, func() (*Kernel, error) {
			p, err := d.codedProduct(weight4{quant.NF4, 64, rows, 128, false}, tensor.BF16, 40, true, false)
			return p.kernel(), err
		})
		require.NoError(t, err)
		require.Len(t, needs, 1)
		require.Contains(t, needs[0].module.src.Text, fmt.Sprint("#define ALIGNED ", b2i(rows%8 == 0)))
	}
}

// TestEmptyCodedProducts: a product over an empty inner axis is zero, or what it is added to.
func TestEmptyCodedProducts(t *testing.T) {
	d := testDevice(t)
	rng := rand.New(rand.NewPCG(2, 1))
	for _, m := range []int{2, 40} {
		for _, o := range []ops.QuantMatMul{{Scheme: quant.NF4, Blocksize: 64, N: 5}, {Scheme: quant.NF4, Blocksize: 64, K: 5, Trans: true}} {
			_, parts := randomWeight(rng, o.Scheme, o.Blocksize, o.N, o.K, false)
			x, to := tensor.New(tensor.T(tensor.BF16, m, 0)), normal(tensor.BF16, rng, m, 5)
			in := append([]*tensor.Tensor{x}, parts...)
			zeros := tensor.New(to.Type())
			require.Equal(t, zeros.Bytes(), kernelRun{op: o, in: in, out: []tensor.Type{to.Type()}}.run(t, d, nil)[0].Bytes())
			in = append([]*tensor.Tensor{to}, in...)
			require.Equal(t, to.Bytes(), kernelRun{op: ops.AddQuantMatMul{QuantMatMul: o}, in: in, out: []tensor.Type{to.Type()}}.run(t, d, nil)[0].Bytes())
		}
	}
}

// transposed is the transpose of a matrix.
func transposed(x *tensor.Tensor) *tensor.Tensor {
	m, n := x.Type().Dim(0), x.Type().Dim(1)
	y := tensor.New(tensor.T(x.DType(), n, m))
	for i := range m {
		for j := range n {
			y.Set(j*m+i, x.At(i*n+j))
		}
	}
	return y
}

// TestFastestWay: a trial takes the way with the least work, and what it took is remembered by later processes.
func TestFastestWay(t *testing.T) {
	d := testDevice(t)
	t.Setenv("BYES_CACHE", t.TempDir())
	t.Cleanup(func() { d.ways.cache, d.ways.chosen = nil, nil })
	x := tensor.T(tensor.F32, 16, 64)
	s := device.Spec{Op: ops.RMSNormOp{Eps: 1e-5}, In: []tensor.Type{x, tensor.T(tensor.F32, 64)}, Out: []tensor.Type{x}}
	build := func(launches int, runs *int) way {
		return way{fmt.Sprint("launches", launches), func() (*Kernel, error) {
			k, err := d.inner(s)
			if err != nil {
				return nil, err
			}
			return &Kernel{Label: fmt.Sprint(launches), ScratchBytes: 256, Enqueue: func(c *Call) error {
				*runs++
				for range launches {
					if err := k.Enqueue(c); err != nil {
						return err
					}
				}
				return nil
			}}, nil
		}}
	}
	for turn := range 2 {
		d.ways.cache, d.ways.chosen = nil, nil // as in another process
		runs := 0
		k, err := d.pickBy("a test", s, []way{build(40, &runs), build(1, &runs)}, nil)
		require.NoError(t, err)
		require.Equal(t, "1", k.Label)
		require.Equal(t, turn == 0, runs > 0, "timed once")
	}
}
