package vec

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/require"
)

// TestTranspose: every element size and level, shapes around the tiles, strides beyond the extents; nothing else is written.
func TestTranspose(t *testing.T) {
	r := rand.New(rand.NewPCG(12, 8))
	for _, elem := range []int{1, 2, 4, 8} {
		for _, rows := range []int{0, 1, 7, 8, 9, 16, 17, 33, 48} {
			for _, cols := range []int{0, 1, 3, 15, 16, 17, 31, 40, 259} {
				lds, ldd := cols+r.IntN(5), rows+r.IntN(5)
				src := tensor.AlignedBytes(max(rows*lds*elem, 8))
				for i := range src {
					src[i] = byte(r.Uint32())
				}
				want := tensor.AlignedBytes(max(cols*ldd*elem, 8))
				for i := range want {
					want[i] = 0xaa
				}
				got := map[string][]byte{}
				for level := range implementations() {
					got[level] = append(tensor.AlignedBytes(0), want...)
				}
				for k := range cols {
					for i := range rows {
						copy(want[(k*ldd+i)*elem:(k*ldd+i+1)*elem], src[(i*lds+k)*elem:])
					}
				}
				for level, l := range implementations() {
					l.transpose(elem, got[level], ldd, src, lds, rows, cols, r.IntN(2)*StreamBytes)
					require.Equal(t, want, got[level], "%s: %d x %d of %d bytes", level, rows, cols, elem)
				}
			}
		}
	}
}

func BenchmarkTranspose(b *testing.B) {
	for _, n := range []int{128, 4096} {
		for _, elem := range []int{2, 4} {
			src, dst := tensor.AlignedBytes(n*n*elem), tensor.AlignedBytes(n*n*elem)
			binary.LittleEndian.PutUint32(src, 1)
			for level, l := range implementations() {
				b.Run(fmt.Sprintf("%d/bytes=%d/%s", n, elem, level), func(b *testing.B) {
					b.SetBytes(int64(2 * len(src)))
					for b.Loop() {
						l.transpose(elem, dst, n, src, n, n, n, len(dst))
					}
				})
			}
		}
	}
}
