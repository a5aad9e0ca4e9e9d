package quant

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/require"
)

// The tests of bitsandbytes state the error that a format makes on random data of 1024 by 1024, as the mean of the absolute error and the
// mean of the error relative to the element (with 1e-8 added). These are their twins: ours must not be worse than theirs by more than the
// spread that they allow.

func squareOf(draw func() float64) *tensor.Tensor {
	x := tensor.New(tensor.T(tensor.F32, 1024, 1024))
	for i, d := 0, tensor.Data[float32](x); i < len(d); i++ {
		d[i] = float32(draw())
	}
	return x
}

// meanErrors are the mean absolute and the mean relative error of a format.
func meanErrors(t *testing.T, x *tensor.Tensor, f Format) (absolute, relative float64) {
	t.Helper()
	s, err := QuantizeTensor(x, f, Options{})
	require.NoError(t, err)
	back, err := s.Dequantize(tensor.F32)
	require.NoError(t, err)
	y := tensor.Data[float32](back)
	for i, v := range tensor.Data[float32](x) {
		d := math.Abs(float64(v) - float64(y[i]))
		absolute += d
		relative += d / (math.Abs(float64(v)) + 1e-8)
	}
	n := float64(len(y))
	return absolute / n, relative / n
}

func TestReference4Bit(t *testing.T) {
	x := squareOf(rand.New(rand.NewPCG(1, 1)).NormFloat64)
	for _, c := range []struct {
		cfg                Config
		absolute, relative float64
	}{
		{Config{Scheme: NF4, Blocksize: 32}, 0.0677, 0.1897}, {Config{Scheme: NF4, Blocksize: 64}, 0.0728, 0.2033},
		{Config{Scheme: NF4, Blocksize: 128}, 0.0768, 0.2152}, {Config{Scheme: NF4, Blocksize: 256}, 0.0803, 0.2261},
		{Config{Scheme: NF4, Blocksize: 4096}, 0.0925, 0.2625}, {Config{Scheme: FP4, Blocksize: 32}, 0.0889, 0.2424},
		{Config{Scheme: FP4, Blocksize: 64}, 0.0965, 0.2601}, {Config{Scheme: FP4, Blocksize: 128}, 0.1030, 0.2758},
		{Config{Scheme: FP4, Blocksize: 4096}, 0.1295, 0.3372},
	} {
		a, r := meanErrors(t, x, c.cfg)
		t.Logf("%-16s absolute %.4f (theirs %.4f) relative %.4f (theirs %.4f)", c.cfg.Name(), a, c.absolute, r, c.relative)
		require.InEpsilon(t, c.absolute, a, 0.01, "%s", c.cfg.Name())
		require.InEpsilon(t, c.relative, r, 0.03, "%s", c.cfg.Name())
		if c.cfg.Blocksize <= 128 {
			double := c.cfg
			double.Double = true
			a, r = meanErrors(t, x, double)
			require.Less(t, a, 0.11, "%s", double.Name())
			require.Less(t, r, 0.28, "%s", double.Name())
		}
	}
}

func TestReference8Bit(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	normal, uniform := squareOf(rng.NormFloat64), squareOf(rng.Float64)
	for _, blocksize := range []int{64, 256, 4096} {
		for _, double := range []bool{false, true} {
			for _, c := range []struct {
				x                  *tensor.Tensor
				m                  string
				absolute, relative float64
			}{{normal, "dynamic_signed", 0.011, 0.018}, {uniform, "dynamic_signed", 0.0036, 0.015}, {uniform, "dynamic_unsigned", 0.0023, 0.012}} {
				f := BlockwiseFormat{Map: c.m, Blocksize: blocksize, Double: double}
				a, r := meanErrors(t, c.x, f)
				require.Less(t, a, c.absolute, f.Name())
				require.Less(t, r, c.relative, f.Name())
			}
		}
	}
}

// The library's int8 product of half data against the float32 one: within 0.025 and 5% of it, and exact in int32.
func TestReferenceInt8Product(t *testing.T) {
	const m, n, k = 32, 48, 256
	rng := rand.New(rand.NewPCG(3, 3))
	a, b := make([]tensor.Float16, m*k), make([]tensor.Float16, n*k)
	for _, x := range [][]tensor.Float16{a, b} {
		for i := range x {
			x[i] = tensor.ToF16(float32(rng.NormFloat64()))
		}
	}
	ca, cb, sa, sb := make([]int8, m*k), make([]int8, n*k), make([]float32, m), make([]float32, n)
	_, err := QuantizeRows(ca, sa, a, m, k, 0)
	require.NoError(t, err)
	_, err = QuantizeRows(cb, sb, b, n, k, 0)
	require.NoError(t, err)
	acc, out := make([]int32, m*n), make([]tensor.Float16, m*n)
	for i := range acc {
		for j := range k {
			acc[i] += int32(ca[i/n*k+j]) * int32(cb[i%n*k+j])
		}
	}
	require.NoError(t, DequantizeProduct(out, acc, sa, sb, nil, m, n))
	far := 0
	for i := range out {
		want := 0.0
		for j := range k {
			want += float64(a[i/n*k+j].Float32()) * float64(b[i%n*k+j].Float32())
		}
		if d := math.Abs(want - float64(out[i].Float32())); d > 0.025*math.Sqrt(k)+0.05*math.Abs(want) {
			far++
		}
	}
	require.Zero(t, far, fmt.Sprintf("%d of %d", far, len(out)))
}
