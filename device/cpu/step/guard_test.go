package step

import (
	"math/rand/v2"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/internal/guard"
	"github.com/bitsandbyes/bitsandbyes/internal/isa"
)

// TestLoopsStayInside: no loop touches memory beside its operands, which here lie at the start or at the end of what may be touched.
func TestLoopsStayInside(t *testing.T) {
	const most = 5 * Block
	var rooms [5]guard.Memory
	for i := range rooms {
		rooms[i] = guard.New(t, 4*most)
	}
	var codes, scales [3]guard.Memory
	for i := range codes {
		codes[i], scales[i] = guard.New(t, most), guard.New(t, 4*most/Block)
	}
	for _, level := range isa.Levels {
		if !isa.Has(level) {
			continue
		}
		l := &byLevel[level]
		for _, atEnd := range []bool{true, false} {
			place := guard.Start[float32]
			bytes := guard.Start[byte]
			if atEnd {
				place, bytes = guard.End[float32], guard.End[byte]
			}
			for _, n := range []int{1, 15, 16, 17, 31, 32, 48, 250, 256, 512, 600, 768, 1024, 1279, 1280} {
				l.scale(place(rooms[0], n), place(rooms[1], n), 0.5)
				for _, h := range hypers() {
					f := factorsOf(h, 3, 0.01)
					s := [3][]float32{place(rooms[2], n), place(rooms[3], n), place(rooms[4], n)}
					f.advance(l, place(rooms[0], n), place(rooms[1], n), &s)
					if f.Moments == 0 {
						continue
					}
					drawn := newSlab8(rand.New(rand.NewPCG(uint64(n), 1)), h, n)
					drawn.p, drawn.g = place(rooms[0], n), place(rooms[1], n)
					for j := range h.Moments() {
						m := &drawn.m[j]
						c, a := bytes(codes[j], n), place(scales[j], len(m.Absmax))
						copy(c, m.Codes)
						copy(a, m.Absmax)
						m.Codes, m.Absmax = c, a
					}
					drawn.update(new(Blocks8), l, &f)
				}
			}
		}
	}
}
