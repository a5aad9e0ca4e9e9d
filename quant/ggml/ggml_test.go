package ggml

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestSplit compares a long run, which goroutines share, with its blocks one by one.
func TestSplit(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	const n = 5*part + 256
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	for _, typ := range Decoded() {
		block, bytes := typ.Block()
		size, ok := typ.Size(n)
		require.True(t, ok)
		raw := make([]byte, size)
		for i := range raw {
			raw[i] = byte(rng.Uint32()) & 0x3b // no NaN in a float16
		}
		if typ.CanEncode() {
			require.NoError(t, Encode(raw, x, typ))
			one := make([]byte, bytes)
			for at := 0; at < n; at += block * 97 {
				require.NoError(t, Encode(one, x[at:at+block], typ))
				require.Equal(t, one, raw[at/block*bytes:][:bytes], typ)
			}
		}
		all, one := make([]float32, n), make([]float32, block)
		require.NoError(t, Decode(all, raw, typ))
		for at := 0; at < n; at += block * 97 {
			require.NoError(t, Decode(one, raw[at/block*bytes:][:bytes], typ))
			require.Equal(t, one, all[at:at+block], typ)
		}
	}
}

// TestError holds the error of a round trip to the step of each format.
func TestError(t *testing.T) {
	steps := map[Type]float64{F32: 0, F16: 1 << 10, BF16: 1 << 7, Q4_0: 8, Q4_1: 7.5, Q5_0: 16, Q5_1: 15.5, Q8_0: 127}
	rapid.Check(t, func(t *rapid.T) {
		typ := rapid.SampledFrom(Encoded()).Draw(t, "type")
		x := rapid.SliceOfN(rapid.Float32Range(-1000, 1000), 32, 32).Draw(t, "x")
		size, _ := typ.Size(32)
		raw, got := make([]byte, size), make([]float32, 32)
		if err := Encode(raw, x, typ); err != nil {
			t.Fatal(err)
		}
		if err := Decode(got, raw, typ); err != nil {
			t.Fatal(err)
		}
		top := 0.0
		for _, v := range x {
			top = max(top, math.Abs(float64(v)))
		}
		for i := range x {
			limit := 0.0
			if steps[typ] > 0 {
				limit = top*(1/steps[typ]+2e-3) + 1e-7 // one step at the far end, half elsewhere; float16 scales
			}
			if d := math.Abs(float64(x[i]) - float64(got[i])); d > limit {
				t.Fatalf("%v: element %d: %v became %v", typ, i, x[i], got[i])
			}
		}
	})
}

func TestRefused(t *testing.T) {
	nan := make([]float32, 32)
	nan[7] = float32(math.NaN())
	huge := make([]float32, 32)
	huge[3] = 1e9
	dst := make([]byte, 18)
	require.ErrorContains(t, Encode(dst, nan, Q4_0), "element 7 is NaN, which Q4_0 cannot hold")
	require.ErrorContains(t, Encode(dst, huge, Q4_0), "element 3 is 1e+09")
	require.ErrorContains(t, Encode(dst[:2], []float32{math.MaxFloat32}, BF16), "which BF16 cannot hold", "it would round to infinity")
	require.ErrorContains(t, Encode(dst, huge[:31], Q4_0), "blocks of 32")
	require.ErrorContains(t, Encode(dst, huge, Q6_K), "Q6_K cannot be encoded; F32, F16, Q4_0")
	require.ErrorContains(t, Decode(huge, dst[:17], Q4_0), "17 bytes of Q4_0 do not hold 32 elements")
	require.ErrorContains(t, Decode(huge, dst, 16), "IQ2_XXS cannot be decoded")
	require.ErrorContains(t, Decode(huge, dst, 4), "type 4 cannot be decoded")
	_, ok := Q4_0.Size(33)
	require.False(t, ok)
	_, ok = F64.Size(math.MaxInt)
	require.False(t, ok)
	typ, ok := ParseType("q8_0")
	require.True(t, ok)
	require.Equal(t, Q8_0, typ)
}

func FuzzDecode(f *testing.F) {
	f.Add(uint32(12), make([]byte, 144))
	f.Add(uint32(34), []byte{1})
	f.Fuzz(func(t *testing.T, typ uint32, raw []byte) {
		block, bytes := Type(typ).Block()
		if bytes == 0 {
			return
		}
		dst := make([]float32, len(raw)/bytes*block)
		_ = Decode(dst, raw, Type(typ)) // whatever the bytes: an error or values
	})
}

func BenchmarkDecode(b *testing.B) {
	const n = 1 << 20
	for _, typ := range Decoded() {
		b.Run(typ.String(), func(b *testing.B) {
			size, _ := typ.Size(n)
			raw, dst := make([]byte, size), make([]float32, n)
			b.SetBytes(4 * n)
			for b.Loop() {
				if err := Decode(dst, raw, typ); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	const n = 1 << 20
	src := make([]float32, n)
	for i := range src {
		src[i] = float32(i%977) - 300
	}
	for _, typ := range Encoded() {
		b.Run(typ.String(), func(b *testing.B) {
			size, _ := typ.Size(n)
			raw := make([]byte, size)
			b.SetBytes(4 * n)
			for b.Loop() {
				if err := Encode(raw, src, typ); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestEncodedStaysFinite: finite elements of any size, small ones beside large ones, are refused by name or stand for finite numbers that are off by no
// more than two steps of their block.
func TestEncodedStaysFinite(t *testing.T) {
	value := rapid.OneOf(
		rapid.SampledFrom([]float32{0, 65504, 65519, 65520, 8 * 65504, 16 * 65504, 127 * 65504, 127 * 65519, math.MaxFloat32, 0x1.FEp127, 0x1.FFp127,
			math.SmallestNonzeroFloat32, 0x1p-126, 0x1p-24, 0x1p-25, 0x1p-14, 2.94e-39 * 127, 3e-39 * 127}),
		rapid.Float32Range(0, 1), rapid.Float32Range(0, math.MaxFloat32))
	rapid.Check(t, func(t *rapid.T) {
		typ := rapid.SampledFrom(Encoded()).Draw(t, "type")
		few, x := rapid.SliceOfN(value, 1, 4).Draw(t, "few"), make([]float32, 32)
		for i := range x {
			x[i] = few[rapid.IntRange(0, len(few)-1).Draw(t, "which")] * float32(rapid.SampledFrom([]int{-1, 1}).Draw(t, "sign"))
		}
		size, _ := typ.Size(len(x))
		raw, got := make([]byte, size), make([]float32, len(x))
		if err := Encode(raw, x, typ); err != nil {
			require.ErrorContains(t, err, "cannot hold")
			return
		}
		require.NoError(t, Decode(got, raw, typ))
		top := 0.0
		for _, v := range x {
			top = max(top, math.Abs(float64(v)))
		}
		for i, v := range got {
			require.Zero(t, v-v, "%v: %v became %v", typ, x[i], v)
			require.InDelta(t, x[i], v, top/4+128*0x1p-24, "%v: %v became %v", typ, x[i], v)
		}
	})
}
