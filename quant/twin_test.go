package quant

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// books are code books of every kind, those with repeated zeros included.
func books(t testing.TB) map[string]*Codebook {
	t.Helper()
	out := map[string]*Codebook{}
	add := func(name string, values [256]float32, err error) {
		require.NoError(t, err, name)
		out[name], err = NewCodebook(values)
		require.NoError(t, err, name)
	}
	for _, signed := range []bool{true, false} {
		for total := 2; total <= 8; total++ {
			for e := 1; e < total; e++ {
				if (total+e)%3 == 0 || total == 8 && e == 7 {
					v, err := DynamicMap(signed, e, total)
					add(fmt.Sprintf("dynamic %v %d/%d", signed, e, total), v, err)
				}
			}
		}
		v, err := LinearMap(signed, 8)
		add(fmt.Sprintf("linear %v", signed), v, err)
	}
	v, err := FP8Map(true, 4, 3)
	add("fp8 e4m3", v, err)
	v, err = FP8Map(false, 5, 3)
	add("fp8 e5m3", v, err)
	v, err = NormalMap(0.9677083, true)
	add("normal", v, err)
	add("all equal", [256]float32{}, nil)
	add("huge", wide(), nil)
	return out
}

// wide spans the whole range of float32.
func wide() (v [256]float32) {
	for i := range v {
		v[i] = float32(math.Ldexp(1, i%128)) * float32(2*(i/128)-1)
		if i < 128 {
			v[i] = -float32(math.Ldexp(1, 127-i))
		}
	}
	return v
}

func step(x float32, n int) float32 {
	for ; n > 0; n-- {
		x = math.Nextafter32(x, float32(math.Inf(1)))
	}
	for ; n < 0; n++ {
		x = math.Nextafter32(x, float32(math.Inf(-1)))
	}
	return x
}

// The result of the kernels' search can only change at a value of the book or at a rounded midpoint of neighbours, so agreement at and
// around all of these is agreement everywhere.
func TestNearestEqualsSearch(t *testing.T) {
	for name, book := range books(t) {
		t.Run(name, func(t *testing.T) {
			check := func(x float32) {
				if want, got := searchNaive(&book.values, flush(x)), book.Nearest(x); want != got {
					t.Fatalf("%v (%08x): search %d, fast %d", x, math.Float32bits(x), want, got)
				}
			}
			for i, v := range book.values {
				next := book.values[min(i+1, 255)]
				for n := -2; n <= 2; n++ {
					check(step(v, n))
					check(step(float32(v+next)*0.5, n))
				}
			}
			for _, b := range []uint32{0, 1, 0x7fffff, 0x800000, 0x7f7fffff, 0x7f800000, 0x7fc00000, 0x7fffffff, 101 << 23} {
				check(math.Float32frombits(b))
				check(math.Float32frombits(b | 1<<31))
			}
			rng := rand.New(rand.NewPCG(1, 2))
			for range 20000 {
				check(math.Float32frombits(rng.Uint32()))
				check(rng.Float32()*2.02 - 1.01)
			}
		})
	}
}

// blocks draws blocks of all sizes and magnitudes with special values strewn in.
func blocks(t *rapid.T) []float32 {
	n := rapid.IntRange(0, 130).Draw(t, "n")
	rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 7))
	scale := float32(math.Ldexp(1, rapid.IntRange(-150, 127).Draw(t, "exponent")))
	special := rapid.SampledFrom([][]uint32{
		nil,
		{0, 1 << 31, 1, 1<<31 | 1, 0x7fffff, 0x807fffff, 0x800000, 0x80800000},
		{0x7fc00000, 0xffc00001},
		{infBits, infBits | 1<<31, 0x7fc00000, 3},
	}).Draw(t, "special")
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64()) * scale
		if special != nil && rng.IntN(4) == 0 {
			x[i] = math.Float32frombits(special[rng.IntN(len(special))])
		}
	}
	return x
}

func naive4(x []float32, blocksize int, s Scheme) (codes []byte, absmax []float32) {
	tab := newTable4(s)
	codes = make([]byte, PackedSize(len(x)))
	for lo := 0; lo < len(x); lo += blocksize {
		b := x[lo:min(lo+blocksize, len(x))]
		var a float32
		for _, v := range b {
			if v = flush(float32(math.Abs(float64(v)))); v > a {
				a = v
			}
		}
		absmax = append(absmax, a)
		tab.blockNaive(codes[lo/2:], b, Rcp(a))
	}
	return codes, absmax
}

func TestQuantize4EqualsNaive(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		x := blocks(rt)
		blocksize := rapid.SampledFrom([]int{32, 34, 64, 128}).Draw(rt, "blocksize")
		s := rapid.SampledFrom([]Scheme{NF4, FP4}).Draw(rt, "scheme")
		codes, absmax := make([]byte, PackedSize(len(x))), make([]float32, Blocks(len(x), blocksize))
		require.NoError(rt, Quantize4(codes, absmax, x, blocksize, s))
		wantCodes, wantAbsmax := naive4(x, blocksize, s)
		require.Equal(rt, wantCodes, codes)
		require.Len(rt, absmax, len(wantAbsmax))
		for i := range absmax {
			require.Equal(rt, wantAbsmax[i], absmax[i])
		}
	})
}

// Blocks whose elements lie on the thresholds and a few units in the last place around them, at several scales.
func TestQuantize4AtThresholds(t *testing.T) {
	for _, s := range []Scheme{NF4, FP4} {
		for _, a := range []float32{1, 0.3, 7e-20, 3e30} {
			var x []float32
			for _, th := range s.Thresholds() {
				for n := -3; n <= 3; n++ {
					x = append(x, step(th*a, n), -step(th*a, n))
				}
			}
			for lo := 0; lo < len(x); lo += 31 {
				b := append([]float32{a}, x[lo:min(lo+31, len(x))]...)
				codes, absmax := make([]byte, PackedSize(len(b))), make([]float32, 1)
				require.NoError(t, Quantize4(codes, absmax, b, 32, s))
				want, _ := naive4(b, 32, s)
				require.Equal(t, want, codes, "%v scale %v", s, a)
			}
		}
	}
}

func TestQuantize8EqualsNaive(t *testing.T) {
	all := books(t)
	var names []string
	for name := range all {
		names = append(names, name)
	}
	rapid.Check(t, func(rt *rapid.T) {
		x := blocks(rt)
		book := all[rapid.SampledFrom(names).Draw(rt, "book")]
		codes := make([]byte, len(x))
		absmax := book.QuantizeBlock(codes, x)
		r := Rcp(absmax)
		for i, v := range x {
			require.Equal(rt, searchNaive(&book.values, scaled(v, r)), codes[i], "element %d: %v of %v", i, v, absmax)
		}
		book.QuantizeBlockSigned(codes, x)
		for i, v := range x {
			want := searchNaive(&book.values, scaled(v, r))
			if math.Signbit(float64(book.values[want])) != math.Signbit(float64(v)) {
				if v > 0 {
					want++
				} else {
					want--
				}
			}
			require.Equal(rt, want, codes[i])
		}
	})
}

// Any range, in any element type, equals the definition: table value times scale, rounded once.
func TestDequantize4Range(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.SampledFrom([]int{1, 2, 31, 64, 97, 257, 1009}).Draw(rt, "n")
		blocksize := rapid.SampledFrom([]int{32, 50, 64, 4096}).Draw(rt, "blocksize")
		s := rapid.SampledFrom([]Scheme{NF4, FP4}).Draw(rt, "scheme")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		codes, absmax := make([]byte, PackedSize(n)), make([]float32, Blocks(n, blocksize))
		for i := range codes {
			codes[i] = byte(rng.Uint32())
		}
		for i := range absmax {
			absmax[i] = rng.Float32()
		}
		lo := rapid.IntRange(0, n).Draw(rt, "lo")
		hi := rapid.IntRange(lo, n).Draw(rt, "hi")
		f32, f16, bf16 := make([]float32, hi-lo), make([]tensor.Float16, hi-lo), make([]tensor.BFloat16, hi-lo)
		require.NoError(rt, Dequantize4Range(f32, codes, absmax, lo, hi, blocksize, s))
		require.NoError(rt, Dequantize4Range(f16, codes, absmax, lo, hi, blocksize, s))
		require.NoError(rt, Dequantize4Range(bf16, codes, absmax, lo, hi, blocksize, s))
		v := s.Values()
		for i := lo; i < hi; i++ {
			want := v[codes[i/2]>>(4-4*(i%2))&15] * absmax[i/blocksize]
			require.Equal(rt, math.Float32bits(want), math.Float32bits(f32[i-lo]))
			require.Equal(rt, tensor.ToF16(want), f16[i-lo])
			require.Equal(rt, tensor.ToBF16(want), bf16[i-lo])
		}
	})
}

// rcpSum is the SHA-256 of two bits for each of the 2^23 mantissas, high bits first, as measured on an H100: (the result is one unit in
// the last place below the correctly rounded one), (it is one above).
const rcpSum = "e5135d6f38805db780a3993f4eb81b9a99cd6503a935182f7997740907ccda4b"

func TestRcpOfAllMantissas(t *testing.T) {
	table := make([]byte, 1<<21)
	for man := range uint32(1 << 23) {
		exact := math.Float32bits(1 / math.Float32frombits(127<<23|man))
		switch d := rcpMantissa(man) - exact; d {
		case 0:
		case 1:
			table[man>>2] |= 1 << (6 - 2*(man&3))
		case math.MaxUint32:
			table[man>>2] |= 2 << (6 - 2*(man&3))
		default:
			t.Fatalf("mantissa %d is %d units off", man, int32(d))
		}
	}
	sum := sha256.Sum256(table)
	require.Equal(t, rcpSum, hex.EncodeToString(sum[:]))
	nan := float32(math.NaN())
	require.True(t, Rcp(nan) != Rcp(nan))
	require.Equal(t, float32(-0.5), Rcp(-2))
}

func TestLevelsOfRcp(t *testing.T) {
	eachLevel(t, func(level string) {
		if step8() > runBlocks {
			return
		}
		var x, r [runBlocks]float32
		for man := uint32(0); man < 1<<23; man += runBlocks * 7 {
			exponent := 27 + man%226
			for i := range x {
				x[i] = math.Float32frombits(exponent<<23 | (man+uint32(7*i))&0x7fffff)
			}
			rcp(&r, &x, runBlocks)
			for i := range x {
				if want := Rcp(x[i]); r[i] != want {
					t.Fatalf("%s: 1/%v is %v, want %v", level, x[i], r[i], want)
				}
			}
		}
	})
}
