package vec

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPhilox: the vectors of the authors' known-answer file, and every level against Go, over the carry of the counter.
func TestPhilox(t *testing.T) {
	require.Equal(t, [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}, philox([4]uint32{}, [2]uint32{}))
	ones := uint32(math.MaxUint32)
	require.Equal(t, [4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}, philox([4]uint32{ones, ones, ones, ones}, [2]uint32{ones, ones}))
	r := rand.New(rand.NewPCG(13, 8))
	for _, n := range []int{0, 1, 4, 31, 32, 33, 64, 100, 515} {
		counter, key := [4]uint32{ones - 9, r.Uint32(), r.Uint32(), r.Uint32()}, [2]uint32{r.Uint32(), r.Uint32()}
		for level, l := range implementations() {
			got := make([]uint32, n+1)
			l.philox(got[:n], counter, key)
			for i, w := range got[:n] {
				c := counter
				c[0] += uint32(i / 4)
				require.Equal(t, philox(c, key)[i%4], w, "%s word %d of %d", level, i, n)
			}
			require.Zero(t, got[n])
		}
	}
}

func TestDropAndRoundRandomly(t *testing.T) {
	r := rand.New(rand.NewPCG(14, 8))
	for _, n := range lengths {
		x, words, random := make([]float32, n), make([]uint32, n), make([]uint16, n)
		for i := range x {
			x[i], words[i], random[i] = math.Float32frombits(r.Uint32()), r.Uint32(), uint16(r.Uint32())
		}
		if n > 8 {
			x[3], x[5], words[7], words[8] = inf, float32(math.NaN()), 1<<31, 1<<31-1
		}
		want, rounded := make([]float32, n), make([]uint16, n)
		levels[0].drop(want, x, words, 1<<31, 1.25)
		levels[0].roundRandomly(rounded, x, random)
		for level, l := range implementations() {
			got, short := append(make([]float32, n), 77), append(make([]uint16, n), 77)
			l.drop(got[:n], x, words, 1<<31, 1.25)
			equalBits(t, want, got[:n], "%s of %d", level, n)
			l.roundRandomly(short[:n], x, random)
			require.Equal(t, rounded, short[:n], "%s of %d", level, n)
			require.True(t, got[n] == 77 && short[n] == 77)
		}
	}
}

func BenchmarkRandom(b *testing.B) {
	const n = 4096
	words, x, short := make([]uint32, n), make([]float32, n), make([]uint16, n)
	for level, l := range implementations() {
		for name, f := range map[string]func(){
			"Philox": func() { l.philox(words, [4]uint32{}, [2]uint32{}) },
			"Drop":   func() { l.drop(x, x, words, 1<<20, 1) },
			"Round":  func() { l.roundRandomly(short, x, short) },
		} {
			b.Run(name+"/"+level, func(b *testing.B) {
				b.SetBytes(4 * n)
				for b.Loop() {
					f()
				}
			})
		}
	}
}
