package fourbit

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/guard"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func atEnd[E tensor.Element](m guard.Memory, from []E) []E {
	to := guard.End[E](m, len(from))
	copy(to, from)
	return to
}

// TestStripsStayInside packs weights whose codes and scales end where memory ends into strips that do, too.
func TestStripsStayInside(t *testing.T) {
	r := rand.New(rand.NewPCG(17, 18))
	codes, scales, room := guard.New(t, 1<<17), guard.New(t, 1<<17), guard.New(t, 1<<19)
	for _, s := range matrixShapes {
		for _, d := range floatTypes {
			m := newMatrix(r, s.rows, s.cols, s.blocksize, d)
			m.Codes, m.Absmax = atEnd(codes, m.Codes), atEnd(scales, m.Absmax)
			for _, l := range fastLevels() {
				width := 2 * lanesOf(l)
				for k0 := 0; k0 < s.cols; k0 += max(8, s.cols/4/8*8) {
					rows, kb := min(width, s.rows), s.cols-k0
					require.True(t, m.packLanes(l, guard.End[float32](room, width*kb), width, s.rows-rows, rows, k0, kb))
					rows = min(3, s.rows)
					require.True(t, m.packLanes(l, guard.End[float32](room, width*kb), width, s.rows-rows, rows, k0, kb))
				}
				if strips := s.cols / width; s.cols%width == 0 {
					dst := guard.End[float32](room, strips*s.rows*width)
					require.True(t, m.packRows(l, dst, s.rows*width, width, strips, 0, s.rows, 0))
				}
			}
		}
	}
}
