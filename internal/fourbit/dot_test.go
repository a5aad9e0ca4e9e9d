package fourbit

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/internal/isa"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

var dotShapes = []struct{ rows, cols, blocksize int }{{1, 64, 64}, {5, 192, 64}, {4, 128, 32}, {7, 512, 256}, {3, 4096, 4096}, {9, 1024, 128}}

// finiteMatrix is a matrix whose scales are ordinary, with its tables.
func finiteMatrix(r *rand.Rand, rows, cols, blocksize int, d tensor.DType) (*Matrix, []Table) {
	m := newMatrix(r, rows, cols, blocksize, d)
	for i := range m.Absmax {
		m.Absmax[i] = r.Float32()
	}
	tables := make([]Table, len(m.Absmax))
	m.Tables(tables, m.Absmax, d)
	return m, tables
}

func randomFloats(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = r.Float32()*2 - 1
	}
	return x
}

// TestDot compares every level with float64 sums.
func TestDot(t *testing.T) {
	r := rand.New(rand.NewPCG(15, 16))
	for _, s := range dotShapes {
		for _, l := range append(fastLevels(), isa.Generic) {
			n := unit(l, s.cols, s.blocksize)
			require.NotZero(t, n)
			for vectors := 1; vectors <= 5; vectors++ {
				m, tables := finiteMatrix(r, s.rows, s.cols, s.blocksize, floatTypes[vectors%3])
				x := randomFloats(r, vectors*s.cols)
				arranged, ldx := make([]float32, vectors*(s.cols+4)), s.cols+4
				for v := range vectors {
					Arrange(arranged[v*ldx:], x[v*s.cols:(v+1)*s.cols], n)
				}
				ldo := s.rows + 2
				out := make([]float32, vectors*ldo)
				dot(l, &dotArgs{out, ldo, s.rows, m.Codes, tables, s.cols / s.blocksize, s.blocksize / n, arranged, ldx}, vectors, n)
				for v := range vectors {
					for i := range s.rows {
						var want, size float64
						for k := range s.cols {
							p := float64(m.element(i*s.cols+k, m.Round)) * float64(x[v*s.cols+k])
							want, size = want+p, size+math.Abs(p)
						}
						require.InDelta(t, want, out[v*ldo+i], 3e-7*size+1e-30, "%v %+v vectors %d", l, s, vectors)
					}
					require.Zero(t, out[v*ldo+s.rows])
				}
			}
		}
	}
}

// TestDotScaled compares the product from scales with the one from tables, also for scales that are not ordinary.
func TestDotScaled(t *testing.T) {
	r := rand.New(rand.NewPCG(25, 26))
	for i, s := range append(dotShapes, dotShapes...) {
		for _, l := range append(fastLevels(), isa.Generic) {
			for _, d := range floatTypes {
				n, blocks := unit(l, s.cols, s.blocksize), s.cols/s.blocksize
				m, tables := finiteMatrix(r, s.rows, s.cols, s.blocksize, d)
				for k := range m.Values {
					m.Values[k] = float32(k-7) / 8
				}
				if i >= len(dotShapes) {
					m.Absmax[r.IntN(len(m.Absmax))] = []float32{0, 1e-39, -2}[i%3]
				}
				m.Tables(tables, m.Absmax, d)
				x, got, want := randomFloats(r, s.cols), make([]float32, s.rows), make([]float32, s.rows)
				dot(l, &dotArgs{want, s.rows, s.rows, m.Codes, tables, blocks, s.blocksize / n, x, s.cols}, 1, n)
				free := make([]Table, len(tables))
				m.dotScaled(l, &scaledArgs{got, m.Codes, m.Absmax, &m.Values, blocks, x}, free, n, d)
				require.Equal(t, want, got, "%v %v %+v", l, d, s)
			}
		}
	}
	out := []float32{1}
	new(Weight).DotScaled(out, nil, nil, nil, 0, nil, 64, tensor.F32)
	require.Zero(t, out[0])
}

// TestSumRows does so for the transposed product, on a part of the columns.
func TestSumRows(t *testing.T) {
	r := rand.New(rand.NewPCG(17, 18))
	for _, s := range dotShapes {
		for _, l := range append(fastLevels(), isa.Generic) {
			n := unit(l, s.cols, s.blocksize)
			m, tables := finiteMatrix(r, s.rows, s.cols, s.blocksize, tensor.F32)
			x, y := randomFloats(r, s.rows), randomFloats(r, s.cols)
			got := make([]float32, s.cols)
			Arrange(got, y, n)
			sumRows(l, &sumArgs{got, x, m.Codes, s.cols / 2, tables, s.cols / s.blocksize, s.blocksize / n}, n)
			back := make([]float32, s.cols)
			Restore(back, got, n)
			for k := range s.cols {
				want, size := float64(y[k]), math.Abs(float64(y[k]))
				for i, v := range x {
					p := float64(m.element(i*s.cols+k, tensor.F32)) * float64(v)
					want, size = want+p, size+math.Abs(p)
				}
				require.InDelta(t, want, back[k], 3e-7*size, "%v %+v", l, s)
			}
		}
	}
}

// TestUnits has shapes that are decoded instead.
func TestUnits(t *testing.T) {
	for _, s := range [][2]int{{172, 64}, {96, 64}, {100, 50}, {48, 48}} {
		require.Zero(t, Unit(s[0], s[1]))
	}
	require.Equal(t, unitGo, unit(isa.Generic, 128, 64))
	Dot(nil, 0, 0, nil, nil, 1, 64, nil, 0, 1, 32)
	out := []float32{1, 2}
	Dot(out, 2, 2, nil, nil, 0, 64, nil, 0, 1, 32)
	require.Equal(t, []float32{0, 0}, out)
}

// TestNoAllocation holds for everything that launches call.
func TestNoAllocation(t *testing.T) {
	r := rand.New(rand.NewPCG(19, 20))
	m, tables := finiteMatrix(r, 64, 256, 64, tensor.BF16)
	x, out, strip, half := randomFloats(r, 256), make([]float32, 64), make([]float32, 64*256), make([]uint16, 64*256)
	n := Unit(256, 64)
	require.Zero(t, testing.AllocsPerRun(10, func() {
		Dot(out, 64, 64, m.Codes, tables, 4, 64, x, 256, 1, n)
		SumRows(x, out, m.Codes, 128, tables, 4, 64, n)
		m.PackLanes(strip, 32, 0, 32, 0, 256)
		m.PackRows(strip, 64*32, 32, 2, 0, 64, 0)
		m.Block(strip, 256, 0, 64, 0, 256)
		m.Float32(strip, 0, false)
		m.Half(half, tensor.BF16, 0, false)
	}))
}
