package gemm

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/pool"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// packed is a dense matrix that packs itself, or refuses to.
type packed struct {
	x              []float32
	cols           int
	refuses        bool
	packs, decodes atomic.Int64
}

func (p *packed) Block(dst []float32, ld, r0, r1, c0, c1 int) {
	p.decodes.Add(1)
	for r := r0; r < r1; r++ {
		copy(dst[(r-r0)*ld:][:c1-c0], p.x[r*p.cols+c0:])
	}
}

func (p *packed) Pack(dst []float32, w, lane, lanes, k0, kb int, laneRows bool) bool {
	if p.refuses {
		return false
	}
	p.packs.Add(1)
	for l := range (lanes + w - 1) / w * w {
		for k := range kb {
			v := float32(0)
			switch {
			case l >= lanes:
			case laneRows:
				v = p.x[(lane+l)*p.cols+k0+k]
			default:
				v = p.x[(k0+k)*p.cols+lane+l]
			}
			dst[l/w*w*kb+k*w+l%w] = v
		}
	}
	return true
}

// TestPacker compares products by an operand that packs itself, one that refuses, and a plain one, with a few rows and many.
func TestPacker(t *testing.T) {
	r := rand.New(rand.NewPCG(21, 22))
	p := pool.New(2)
	defer p.Close()
	for _, kern := range available() {
		for _, s := range []struct{ m, n, k int }{{1, 40, 70}, {3, 7, 9}, {8, 200, 330}, {33, 130, 650}, {70, 64, 64}, {5, 1, 3}} {
			for _, trans := range []bool{false, true} {
				for _, dt := range []tensor.DType{tensor.F32, tensor.BF16} {
					a, b := newMat(r, dt, false, s.m, s.k, 0), newMat(r, tensor.F32, trans, s.k, s.n, 0)
					cols := s.n
					if trans {
						cols = s.k
					}
					multiply := func(x Mat) []byte {
						out := tensor.New(tensor.T(dt, s.m, s.n))
						x.Trans = trans
						scratch := tensor.AlignedBytes(int(PackedScratchBytes(s.m, s.n, s.k, 2)))
						require.NoError(t, Gemm(p, scratch, 1, Args{M: s.m, N: s.n, K: s.k, A: a.Mat, B: x, C: Out{Data: out.Bytes(), DType: dt},
							Kernel: kern}))
						return out.Bytes()
					}
					src := &packed{x: tensor.View[float32](b.Data), cols: cols}
					got := multiply(Mat{Source: src})
					require.Equal(t, s.n/kernels[kern].nr > 0 || trans, src.packs.Load() > 0)
					no := &packed{x: src.x, cols: cols, refuses: true}
					require.Equal(t, got, multiply(Mat{Source: no}), "%v %+v trans=%v", kern, s, trans)
					require.Positive(t, no.decodes.Load())
					want := tensor.View[float32](multiply(b.Mat))
					if dt == tensor.F32 {
						for i, v := range tensor.View[float32](got) {
							require.InDelta(t, want[i], v, 1e-4)
						}
					}
				}
			}
		}
	}
}
