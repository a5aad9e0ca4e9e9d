package cuda

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/quant"
)

// find is encode of encode8Text.
func (t cellTable) find(q float32) uint8 {
	b := math.Float32bits(q)
	half := int32(len(t.words) / 2)
	at := min(max(int32(b>>16&0x7fff)-int32(t.first), 0), half-1)
	cell := t.words[at+int32(b>>31)*half]
	if b&0xffff > cell>>16 {
		return uint8(cell >> 8)
	}
	return uint8(cell)
}

func TestCellTable(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for name, book := range map[string]*quant.Codebook{"signed": quant.DynamicSigned(), "unsigned": quant.DynamicUnsigned()} {
		plain, err := newCellTable(book.Cells())
		require.NoError(t, err)
		require.Less(t, 4*len(plain.words), 40<<10, "%s: the table must leave shared memory to several blocks", name)
		check := func(q float32) {
			require.Equal(t, book.Nearest(q), plain.find(q), "%s map, %v", name, q)
			require.Equal(t, book.Nearest(-q), plain.find(-q), "%s map, %v", name, -q)
		}
		for range 100000 {
			check(float32(math.Ldexp(rng.Float64(), -rng.IntN(40))))
		}
		for _, v := range book.Values() {
			for _, near := range []float32{v, math.Nextafter32(v, 2), math.Nextafter32(v, -2)} {
				check(near)
			}
		}
		check(0)
		check(math.Nextafter32(1, 2))
	}
	moments, err := newCellTable(quant.DynamicSigned().MomentCells())
	require.NoError(t, err)
	for range 100000 {
		x := float32(math.Ldexp(rng.Float64()-0.5, -rng.IntN(40)))
		book := quant.DynamicSigned()
		require.Equal(t, book.SignAdjust(book.Nearest(x), x), moments.find(x), "%v", x)
	}
}
