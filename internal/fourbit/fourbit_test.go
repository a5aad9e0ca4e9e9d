package fourbit

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/isa"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

var floatTypes = []tensor.DType{tensor.F32, tensor.BF16, tensor.F16}

// fastLevels are the levels beside Go that this processor has.
func fastLevels() (out []isa.Level) {
	for _, l := range isa.Levels[1:] {
		if isa.Has(l) {
			out = append(out, l)
		}
	}
	return out
}

// newWeight draws n elements. Some scales are not finite, or so small or large that products leave the normal numbers.
func newWeight(r *rand.Rand, n, blocksize int, nested bool) *Weight {
	w := &Weight{Codes: make([]byte, (n+1)/2), Blocksize: blocksize}
	for i := range w.Codes {
		w.Codes[i] = byte(r.Uint32())
	}
	for i := range w.Values {
		w.Values[i] = r.Float32()*2 - 1
	}
	w.Values[0], w.Values[7], w.Values[15] = -1, 0, 1
	blocks := (n + blocksize - 1) / blocksize
	special := []float32{0, 1e-45, 1e-39, 3e38, float32(math.Inf(1)), float32(math.NaN()), math.Float32frombits(0x7fffffff), 65504, 7e-8, 1.00390625}
	scale := func() float32 {
		if r.IntN(4) == 0 {
			return special[r.IntN(len(special))]
		}
		return r.Float32()
	}
	if !nested {
		w.Absmax = make([]float32, blocks)
		for i := range w.Absmax {
			w.Absmax[i] = scale()
		}
		return w
	}
	w.Absmax8, w.Nested, w.Offset, w.Book = make([]byte, blocks), make([]float32, (blocks+NestedBlock-1)/NestedBlock), 0.4, new([256]float32)
	for i := range w.Book {
		w.Book[i] = r.Float32()*2 - 1
	}
	for i := range w.Absmax8 {
		w.Absmax8[i] = byte(r.Uint32())
	}
	for i := range w.Nested {
		w.Nested[i] = scale()
	}
	return w
}

// element is the definition of an element.
func (w *Weight) element(i int, d tensor.DType) float32 {
	b := i / w.Blocksize
	var scale float32
	if w.Absmax != nil {
		scale = w.Absmax[b]
	} else {
		scale = float32(w.Book[w.Absmax8[b]]*w.Nested[b/NestedBlock]) + w.Offset
	}
	return Round(float32(w.Values[code(w.Codes, i)]*scale), d)
}

// TestDecodeBits compares every level with the definition, from and to odd places, into and past the cache.
func TestDecodeBits(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, bs := range []int{32, 64, 128, 4096, 34, 48, 50, 96} {
		for _, n := range []int{1, 2, 31, 64, 65, 200, 4097, 20011} {
			w := newWeight(r, n, bs, n%3 != 0)
			for _, l := range append(fastLevels(), isa.Generic) {
				for _, d := range floatTypes {
					for range 4 {
						lo := r.IntN(n)
						hi := lo + r.IntN(n-lo+1)
						checkDecode(t, w, l, d, lo, hi, false)
					}
					checkDecode(t, w, l, d, 0, n, bs%32 == 0)
				}
			}
		}
	}
}

func checkDecode(t *testing.T, w *Weight, l isa.Level, d tensor.DType, lo, hi int, stream bool) {
	t.Helper()
	out := tensor.AlignedBytes((hi - lo + 1) * d.Size())
	for i := range out {
		out[i] = 0x5a
	}
	o := output{half: d != tensor.F32, round: d, stream: stream}
	if d == tensor.F32 {
		o.words = tensor.View[uint32](out)[:hi-lo]
	} else {
		o.halves = tensor.View[uint16](out)[:hi-lo]
	}
	w.decode(l, o, lo)
	for i := lo; i < hi; i++ {
		want := w.element(i, d)
		if d == tensor.F32 {
			require.Equal(t, math.Float32bits(want), o.words[i-lo], "%v %v element %d of [%d,%d) block %d", l, d, i, lo, hi, w.Blocksize)
			continue
		}
		bits := uint16(tensor.ToF16(want))
		if d == tensor.BF16 {
			bits = uint16(tensor.ToBF16(want))
		}
		require.Equal(t, bits, o.halves[i-lo], "%v %v element %d of [%d,%d) block %d", l, d, i, lo, hi, w.Blocksize)
	}
	for _, b := range out[(hi-lo)*d.Size():] {
		require.EqualValues(t, 0x5a, b, "written past the end")
	}
}

// TestTables compares the tables of every level with Go's.
func TestTables(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	w := newWeight(r, 64*100, 64, false)
	for _, l := range fastLevels() {
		for _, d := range floatTypes {
			for _, pairs := range []bool{false, true} {
				if pairs && d == tensor.F32 {
					continue
				}
				got, want := make([]Table, 100), make([]Table, 100)
				makeTables(l, got, w.Absmax, &w.Values, d, pairs)
				makeTables(isa.Generic, want, w.Absmax, &w.Values, d, pairs)
				require.Equal(t, want, got, "%v %v %v", l, d, pairs)
			}
		}
	}
}

// TestOrdinaryTables rounds all kinds of mantissas and ties the short way, at the borders of what it takes and beyond.
func TestOrdinaryTables(t *testing.T) {
	r := rand.New(rand.NewPCG(23, 24))
	w := newWeight(r, 64, 64, false)
	for _, l := range fastLevels() {
		for round := range 400 {
			scales := make([]float32, 16+round%20)
			for i := range scales {
				scales[i] = math.Float32frombits(uint32(27+r.IntN(200))<<23 | r.Uint32()>>9)
				if i%3 == 0 {
					scales[i] = math.Float32frombits(uint32(27+r.IntN(200))<<23 | 0x8000 | r.Uint32()&0x7f0000) // ties
				}
			}
			for i := range w.Values {
				w.Values[i] = math.Float32frombits(r.Uint32()&1<<31 | uint32(117+r.IntN(12))<<23 | r.Uint32()>>9)
			}
			w.Values[3], w.Values[5] = 0, 1
			switch round % 8 {
			case 0:
				scales[r.IntN(len(scales))] = []float32{0, -1, 0x1p-101, 0x1p101, 0x1p-140, float32(math.Inf(1)), float32(math.NaN())}[r.IntN(7)]
			case 1:
				w.Values[r.IntN(16)] = []float32{float32(math.Copysign(0, -1)), 0x1p-11, -8, 0x1p-130}[r.IntN(4)]
			}
			got, want := make([]Table, len(scales)), make([]Table, len(scales))
			makeTables(l, got, scales, &w.Values, tensor.BF16, false)
			makeTables(isa.Generic, want, scales, &w.Values, tensor.BF16, false)
			require.Equal(t, want, got, "%v", l)
		}
	}
}

// TestScales compares restored scales, over the borders of second-level blocks.
func TestScales(t *testing.T) {
	w := newWeight(rand.New(rand.NewPCG(5, 6)), 32*1000, 32, true)
	for _, l := range fastLevels() {
		for _, span := range [][2]int{{0, 1000}, {3, 4}, {250, 260}, {255, 600}, {7, 7}} {
			got, want := make([]float32, span[1]-span[0]), make([]float32, span[1]-span[0])
			w.scales(l, got, span[0])
			w.scales(isa.Generic, want, span[0])
			for i := range want {
				require.Equal(t, math.Float32bits(want[i]), math.Float32bits(got[i]), "%v %d", l, i)
			}
		}
	}
}
