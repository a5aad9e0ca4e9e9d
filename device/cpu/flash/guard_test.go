package flash

import (
	"testing"

	"github.com/bitsandbyes/bitsandbyes/internal/guard"
)

// TestGuarded runs the loops that read operands where they lie with these at the edges of memory that cannot be touched.
func TestGuarded(t *testing.T) {
	eachKernel(t, func(t *testing.T, k, _ *kernel) {
		x, y := guard.New(t, 1<<17), guard.New(t, 1<<17)
		for _, at := range []func(guard.Memory, int) []float32{guard.End[float32], guard.Start[float32]} {
			for blocks := 1; blocks < 4; blocks++ {
				for gap := range 3 {
					w := 8 * blocks
					ld := w + gap
					k.strips(&at(y, 8*w)[0], k.mr*w, &at(x, 7*ld+w)[0], ld, blocks)
					k.transpose(&at(y, 8*w)[0], 8, &at(x, 7*ld+w)[0], ld, blocks)
					for rows := 1; rows < 14; rows++ {
						src := at(x, (rows-1)*ld+w)
						k.cut(rows, w/k.mr, &at(y, rows*w)[0], rows*k.mr, &src[0], ld)
						k.dotRows(rows, blocks, &src[0], ld, &src[0], ld, &at(y, rows)[0])
						for _, f := range k.few {
							n := f.lanes * blocks
							ld := n + gap
							src, q := at(x, (rows-1)*ld+n), make([]float32, n)
							f.dots(rows, blocks, &src[0], ld, &q[0], &at(y, rows)[0], &src[0], 0)
							f.weigh(rows, blocks, &src[0], ld, &at(y, rows)[0], &q[0], &src[0], 0)
							for _, widen := range []widenRows{f.bf16, f.f16} {
								if widen != nil {
									h := guard.End[uint16](x, (rows-1)*ld+n)
									widen(rows, blocks, &at(y, rows*n)[0], n, &h[0], ld)
								}
							}
						}
					}
				}
			}
		}
	})
}
