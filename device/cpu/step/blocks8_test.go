package step

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/internal/isa"
	"github.com/bitsandbyes/bitsandbyes/quant"
)

// TestBlock8Layout: the assembly finds the fields by their place.
func TestBlock8Layout(t *testing.T) {
	var b block8
	require.EqualValues(t, 0, unsafe.Offsetof(b.codes))
	require.EqualValues(t, 24, unsafe.Offsetof(b.values))
	require.EqualValues(t, 48, unsafe.Offsetof(b.to))
	require.EqualValues(t, 72, unsafe.Offsetof(b.cells))
	require.EqualValues(t, 96, unsafe.Offsetof(b.absmax))
	require.EqualValues(t, 108, unsafe.Offsetof(b.r))
	require.EqualValues(t, 120, unsafe.Offsetof(b.maxima))
	require.EqualValues(t, 132, unsafe.Offsetof(b.lanes))
	require.EqualValues(t, 1024, unsafe.Sizeof(nothing[0]))
}

// slab8 is a tensor with its 8-bit moments.
type slab8 struct {
	p, g []float32
	m    Moments8
}

// newSlab8 draws one of n elements. Its blocks have scales of all kinds.
func newSlab8(r *rand.Rand, h ops.Hyper, n int) *slab8 {
	s := &slab8{p: make([]float32, n), g: make([]float32, n)}
	for i := range s.p {
		s.p[i], s.g[i] = float32(r.NormFloat64()), float32(r.NormFloat64()*1e-3)
	}
	blocks := (n + Block - 1) / Block
	for j, unsigned := range h.Moments() {
		m := &s.m[j]
		m.Codes, m.Absmax, m.Book, m.Signed = make([]byte, n), make([]float32, blocks), quant.DynamicSigned(), !unsigned
		if unsigned {
			m.Book = quant.DynamicUnsigned()
		}
		positive := unsigned || h.Rule == ops.RMSprop || h.Rule == ops.Adagrad
		for i := range m.Codes {
			if m.Codes[i] = uint8(r.IntN(256)); positive && !unsigned {
				m.Codes[i] = 127 + m.Codes[i]/2
			}
		}
		for i := range m.Absmax {
			m.Absmax[i] = float32(math.Pow(10, -6*r.Float64()))
		}
	}
	return s
}

func (s *slab8) clone() *slab8 {
	c := &slab8{p: append([]float32{}, s.p...), g: s.g, m: s.m}
	for j := range c.m {
		c.m[j].Codes, c.m[j].Absmax = append([]byte{}, s.m[j].Codes...), append([]float32{}, s.m[j].Absmax...)
	}
	return c
}

// unusual makes blocks that the loops must leave to others: without a gradient, with scales that are not plain, with gradients that are not
// finite or whose squares are not.
func (s *slab8) unusual(r *rand.Rand) {
	for lo := 0; lo < len(s.g); lo += Block {
		g, at := s.g[lo:min(lo+Block, len(s.g))], lo/Block
		switch r.IntN(8) {
		case 0: // nothing at all
			for i := range g {
				g[i] = float32(math.Copysign(0, float64(r.IntN(2)*2-1)))
			}
			for j := range s.m {
				if s.m[j].Absmax != nil {
					s.m[j].Absmax[at] = 0
				}
			}
		case 1:
			for range 5 {
				g[r.IntN(len(g))] = specials[r.IntN(len(specials))]
			}
		case 2:
			for i := range g {
				g[i] *= 1e-38
			}
			for j := range s.m {
				if s.m[j].Absmax != nil {
					s.m[j].Absmax[at] = []float32{1e-36, 1e-40, float32(math.NaN()), 3e38}[r.IntN(4)]
				}
			}
		case 3:
			g[r.IntN(len(g))] = 1e30
		}
	}
}

func (s *slab8) update(w *Blocks8, l *loops, f *Factors) {
	w.begin(l, f, &s.m, 0, len(s.p))
	for lo := 0; lo < len(s.p); lo += Block {
		hi := min(lo+Block, len(s.p))
		w.Block(s.p[lo:hi], s.g[lo:hi])
	}
	w.End()
}

// TestBlocks8 compares every level with Go: all codes, scales and parameters are equal.
func TestBlocks8(t *testing.T) {
	for _, level := range isa.Levels[1:] {
		if !isa.Has(level) {
			t.Logf("%v is not here", level)
			continue
		}
		for name, h := range hypers() {
			if len(h.Moments()) == 0 {
				continue
			}
			r := rand.New(rand.NewPCG(3, 4))
			w, twin := new(Blocks8), new(Blocks8)
			for _, n := range []int{0, 1, 255, 256, 257, 512, 40*256 + 17} {
				got := newSlab8(r, h, n)
				want := got.clone()
				for step := range 4 {
					f := factorsOf(h, float64(1+step), []float32{0, 0.01}[r.IntN(2)])
					if step > 0 {
						got.unusual(r)
						for j := range want.m { // scales that were made unusual
							copy(want.m[j].Absmax, got.m[j].Absmax)
						}
					}
					got.update(w, &byLevel[level], &f)
					want.update(twin, &byLevel[isa.Generic], &f)
					what := fmt.Sprintf("%v %s, %d elements, step %d", level, name, n, step)
					requireBits(t, want.p, got.p, "%s", what)
					for j := range h.Moments() {
						requireBits(t, want.m[j].Absmax, got.m[j].Absmax, "%s: scales %d", what, j)
						for i, c := range want.m[j].Codes {
							if c != got.m[j].Codes[i] {
								require.Failf(t, "codes differ", "%s: moment %d, element %d: %d, not %d", what, j, i, got.m[j].Codes[i], c)
							}
						}
					}
				}
			}
		}
	}
}

func BenchmarkBlocks8(b *testing.B) {
	const n = 128 * Block // a task of an update
	r := rand.New(rand.NewPCG(1, 2))
	for _, name := range []string{"adam", "adamw", "ademamix", "lion", "momentum", "rmsprop", "adagrad"} {
		for _, level := range isa.Levels {
			if !isa.Has(level) {
				continue
			}
			b.Run(fmt.Sprintf("%s/%v", name, level), func(b *testing.B) {
				h := hypers()[name]
				f := factorsOf(h, 7, 0.01)
				f.Rate = 1e-6
				s, w := newSlab8(r, h, n), new(Blocks8)
				b.SetBytes(n * int64(12+2*len(h.Moments())))
				cheapest(b, n, func() { s.update(w, &byLevel[level], &f) })
			})
		}
	}
}
