package fourbit

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/isa"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

func newMatrix(r *rand.Rand, rows, cols, blocksize int, round tensor.DType) *Matrix {
	return &Matrix{Weight: *newWeight(r, rows*cols, blocksize, false), Cols: cols, Round: round}
}

var matrixShapes = []struct{ rows, cols, blocksize int }{
	{40, 256, 64}, {40, 64, 64}, {33, 688, 64}, {50, 96, 128}, {20, 40, 32}, {35, 8, 4096}, {16, 320, 32}, {64, 512, 256}, {7, 1024, 64},
}

// TestPackLanesBits compares strips of stored rows with the definition: whole and partial strips, beginnings within a block, borders.
func TestPackLanesBits(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for _, s := range matrixShapes {
		for _, d := range floatTypes {
			m := newMatrix(r, s.rows, s.cols, s.blocksize, d)
			for _, l := range fastLevels() {
				for _, width := range []int{lanesOf(l), 2 * lanesOf(l), 48} {
					for range 6 {
						k0 := 8 * r.IntN(s.cols/8)
						kb := 8 * (1 + r.IntN((s.cols-k0)/8))
						r0 := r.IntN(s.rows)
						rows := min(1+r.IntN(width), s.rows-r0)
						dst := make([]float32, width*kb+1)
						dst[width*kb] = 42
						require.True(t, m.packLanes(l, dst, width, r0, rows, k0, kb))
						require.EqualValues(t, 42, dst[width*kb], "written past the end")
						for k := range kb {
							for i := range width {
								got := dst[k*width+i]
								if i >= rows {
									require.Zero(t, got)
									continue
								}
								want := m.element((r0+i)*s.cols+k0+k, d)
								require.Equal(t, math.Float32bits(want), math.Float32bits(got), "%v %v %+v r0=%d rows=%d k0=%d kb=%d at (%d, %d)",
									l, d, s, r0, rows, k0, kb, i, k)
							}
						}
					}
				}
			}
		}
	}
}

// TestPackRowsBits does so for strips of columns.
func TestPackRowsBits(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	for _, s := range matrixShapes {
		for _, d := range floatTypes {
			m := newMatrix(r, s.rows, s.cols, s.blocksize, d)
			for _, l := range fastLevels() {
				lanes := lanesOf(l)
				width := 2 * lanes
				if s.cols%lanes != 0 || s.cols < width {
					continue
				}
				for range 6 {
					strips := 1 + r.IntN(s.cols/width)
					c0 := lanes * r.IntN((s.cols-strips*width)/lanes+1)
					r0 := r.IntN(s.rows)
					rows := 1 + r.IntN(s.rows-r0)
					step := rows*width + 3
					dst := make([]float32, strips*step)
					require.True(t, m.packRows(l, dst, step, width, strips, r0, rows, c0))
					for c := range strips * width {
						for i := range rows {
							want, got := m.element((r0+i)*s.cols+c0+c, d), dst[c/width*step+i*width+c%width]
							require.Equal(t, math.Float32bits(want), math.Float32bits(got), "%v %v %+v", l, d, s)
						}
					}
				}
			}
		}
	}
}

// TestPackRefusals has shapes that the loops over strips do not take.
func TestPackRefusals(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	dst := make([]float32, 1<<12)
	for _, s := range []struct{ rows, cols, blocksize int }{{8, 172, 64}, {8, 33, 32}, {8, 64, 96}} {
		m := newMatrix(r, s.rows, s.cols, s.blocksize, tensor.F32)
		require.False(t, m.PackLanes(dst, 32, 0, s.rows, 0, 32))
		require.False(t, m.PackRows(dst, 0, 32, 1, 0, s.rows, 0))
	}
	m := newMatrix(r, 8, 64, 64, tensor.F32)
	require.False(t, m.packLanes(isa.Generic, dst, 32, 0, 8, 0, 64))
	require.False(t, m.packRows(isa.Generic, dst, 0, 32, 1, 0, 8, 0))
	require.False(t, m.PackLanes(dst, 6, 0, 6, 0, 64), "a width that is no multiple of a register")
}

// TestBlockBits compares blocks of any shape with the definition.
func TestBlockBits(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	for _, s := range []struct{ rows, cols, blocksize int }{{9, 172, 64}, {13, 33, 32}, {5, 128, 50}, {1, 1, 64}} {
		for _, d := range floatTypes {
			m := newMatrix(r, s.rows, s.cols, s.blocksize, d)
			ld := s.cols + 5
			dst := make([]float32, s.rows*ld)
			for range 8 {
				r0, c0 := r.IntN(s.rows), r.IntN(s.cols)
				r1, c1 := r0+1+r.IntN(s.rows-r0), c0+1+r.IntN(s.cols-c0)
				m.Block(dst, ld, r0, r1, c0, c1)
				for i := r0; i < r1; i++ {
					for j := c0; j < c1; j++ {
						require.Equal(t, math.Float32bits(m.element(i*s.cols+j, d)), math.Float32bits(dst[(i-r0)*ld+j-c0]))
					}
				}
			}
		}
	}
}
