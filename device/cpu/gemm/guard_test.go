package gemm

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/internal/guard"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/require"
)

// rooms holds operands of products: each lies beside a page that cannot be touched.
type rooms struct {
	mem   [4]guard.Memory
	start bool // the page is before the operands, otherwise behind them
}

const roomSize = 1 << 19

func newRooms(t *testing.T) *rooms {
	var r rooms
	for i := range r.mem {
		r.mem[i] = guard.New(t, roomSize)
	}
	return &r
}

func place[E tensor.Element](r *rooms, i int, from []E) []E {
	to := guard.End[E](r.mem[i], len(from))
	if r.start {
		to = guard.Start[E](r.mem[i], len(from))
	}
	copy(to, from)
	return to
}

// lying returns x without what follows the last element of its last row.
func lying(r *rooms, i int, x testMat) testMat {
	rows, cols := x.rows, x.cols
	if x.Trans {
		rows, cols = cols, rows
	}
	ld := max(x.LD, cols)
	x.Data = place(r, i, x.Data[:((rows-1)*ld+cols)*x.DType.Size()])
	return x
}

// guardShapes have extents around the widths of tiles, vectors and small products.
var guardShapes = [][3]int{{1, 1, 1}, {1, 67, 71}, {2, 5, 130}, {3, 1, 64}, {4, 131, 17}, {5, 33, 9}, {7, 64, 16}, {9, 9, 1}, {13, 31, 129}, {14, 32, 64},
	{29, 83, 301}, {43, 197, 64}, {67, 3, 70}, {97, 1, 33}, {61, 67, 71}}

// TestOperandsOnly multiplies matrices that end where memory ends, and such that begin where it begins.
func TestOperandsOnly(t *testing.T) {
	rooms := newRooms(t)
	for _, kern := range available() {
		for n, d := range guardShapes {
			for c := range 24 {
				r := rand.New(rand.NewPCG(uint64(n), uint64(c)))
				dt := []tensor.DType{tensor.F32, tensor.BF16, tensor.F16}[c/8]
				rooms.start = (c+n)%5 == 0
				a, b := newMat(r, dt, c&1 != 0, d[0], d[2], c%3), newMat(r, dt, c&2 != 0, d[2], d[1], n%3)
				args := Args{M: d[0], N: d[1], K: d[2], A: a.Mat, B: b.Mat, Accumulate: c&4 != 0, Kernel: kern}
				args.C = Out{Data: make([]byte, d[0]*d[1]*dt.Size()), DType: dt}
				size := int(ScratchBytes(d[0], d[1], d[2], 1))
				want := args
				require.NoError(t, Gemm(nil, tensor.AlignedBytes(size), 0.5, want))
				args.A, args.B = lying(rooms, 0, a).Mat, lying(rooms, 1, b).Mat
				args.C.Data = place(rooms, 2, make([]byte, d[0]*d[1]*dt.Size()))
				require.NoError(t, Gemm(nil, place(rooms, 3, make([]byte, size)), 0.5, args))
				require.Equal(t, want.C.Data, args.C.Data, fmt.Sprint(kern, d, c))
			}
		}
	}
}

// TestInt8OperandsOnly is TestOperandsOnly of Int8.
func TestInt8OperandsOnly(t *testing.T) {
	rooms := newRooms(t)
	for _, kern := range available() {
		for n, d := range guardShapes {
			for c := range 8 {
				r := rand.New(rand.NewPCG(uint64(n), uint64(c)))
				rooms.start = (c+n)%5 == 0
				a, b := make([]int8, d[0]*d[2]), make([]int8, d[1]*d[2])
				for _, s := range [][]int8{a, b} {
					for i := range s {
						s[i] = int8(r.IntN(256) - 128)
					}
				}
				args := Int8Args{M: d[0], N: d[1], K: d[2], A: Mat8{Data: a, Trans: c&1 != 0}, B: Mat8{Data: b, Trans: c&2 != 0},
					C: make([]int32, d[0]*d[1]), Accumulate: c&4 != 0, Kernel: kern}
				size := int(Int8ScratchBytes(d[0], d[1], d[2], 1))
				want := args
				require.NoError(t, Int8(nil, tensor.AlignedBytes(size), want))
				args.A.Data, args.B.Data, args.C = place(rooms, 0, a), place(rooms, 1, b), place(rooms, 2, make([]int32, d[0]*d[1]))
				require.NoError(t, Int8(nil, place(rooms, 3, make([]byte, size)), args))
				require.Equal(t, want.C, args.C, fmt.Sprint(kern, d, c))
			}
		}
	}
}
