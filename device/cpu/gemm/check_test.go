package gemm

import (
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/require"
)

func TestRefusals(t *testing.T) {
	data := tensor.AlignedBytes(4096)
	f32 := func(ld int) Mat { return Mat{Data: data, DType: tensor.F32, LD: ld} }
	good := Args{M: 10, N: 11, K: 12, A: f32(0), B: f32(0), C: Out{Data: data, DType: tensor.F32}}
	for want, change := range map[string]func(*Args){
		"M=-1 N=11 K=12":         func(g *Args) { g.M = -1 },
		"K=4294967296":           func(g *Args) { g.K = 1 << 32 },
		"A [10,12] has row":      func(g *Args) { g.A.LD = 11 },
		"B [12,11] has row":      func(g *Args) { g.B.LD = 1 << 40 },
		"A f32[10,12] with":      func(g *Args) { g.A.LD = 200 },
		"C f32[10,11] with":      func(g *Args) { g.C.Data = data[:439] },
		"B has type i8":          func(g *Args) { g.B.DType = tensor.I8 },
		"C has type bool":        func(g *Args) { g.C.DType = tensor.Bool },
		"B is f64 but C is f32":  func(g *Args) { g.B.DType = tensor.F64 },
		"A is f32 but C is f64":  func(g *Args) { g.C.DType = tensor.F64 },
		"A is a Source but C is": func(g *Args) { g.A.Source, g.C.DType = &source{}, tensor.F64 },
		"A is not aligned":       func(g *Args) { g.A.Data = data[1:] },
		"kernel unknown":         func(g *Args) { g.Kernel = 77 },
		"bytes of scratch":       func(g *Args) {},
	} {
		args := good
		change(&args)
		require.ErrorContains(t, Gemm(nil, make([]byte, 64), 1, args), want)
	}
}

func TestSourcePanicIsAnError(t *testing.T) {
	for _, m := range []int{1, 20} {
		for _, ofA := range bools {
			args := Args{M: m, N: 40, K: 70, A: Mat{Source: &source{}}, B: Mat{Source: &source{}}}
			if ofA {
				args.B = Mat{Data: make([]byte, 70*40*4), DType: tensor.F32}
			} else {
				args.A = Mat{Data: make([]byte, 70*m*4), DType: tensor.F32}
			}
			args.C = Out{Data: make([]byte, m*40*4), DType: tensor.F32}
			err := Gemm(nil, make([]byte, ScratchBytes(m, 40, 70, 1)), 1, args)
			require.ErrorContains(t, err, "gemm: reading an operand: task")
		}
	}
}

func TestKernelNames(t *testing.T) {
	require.Equal(t, "auto", Auto.String())
	require.Equal(t, "unknown", Kernel(99).String())
	require.True(t, Best().Available())
	require.True(t, Generic.Available())
	t.Logf("kernels here: %v", available())
}

// TestVectorsAgree compares dot, dot4 and axpy with float64 sums at every length around the unrolled steps.
func TestVectorsAgree(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 2))
	for _, kern := range available() {
		k := kernels[kern]
		for n := 1; n < 120; n++ {
			ld := n + n%3
			x, w, y := make([]float32, n), make([]float32, 4*ld), make([]float32, n+1)
			for i := range x {
				x[i], y[i] = r.Float32(), float32(i)
			}
			for i := range w {
				w[i] = r.Float32()
			}
			var got [4]float32
			k.dot4(n, &x[0], &w[0], ld, &got)
			for row := range got {
				var want float64
				for i := range x {
					want += float64(x[i]) * float64(w[row*ld+i])
				}
				require.InDelta(t, want, got[row], 1e-4)
				require.InDelta(t, want, k.dot(n, &x[0], &w[row*ld]), 1e-4)
			}
			y[n] = 77
			k.axpy(n, 0.5, &x[0], &y[0])
			require.EqualValues(t, 77, y[n])
			k.axpy4(n, &[4]float32{1, 2, -3, 4}, &w[0], ld, &y[0])
			require.EqualValues(t, 77, y[n])
			for i := range x {
				want := float64(i) + 0.5*float64(x[i]) + float64(w[i]) + 2*float64(w[ld+i]) - 3*float64(w[2*ld+i]) + 4*float64(w[3*ld+i])
				require.InDelta(t, want, y[i], 1e-4)
			}
		}
	}
}

// TestRowDots compares products of rows with float64 sums for every length around the steps and every type.
func TestRowDots(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 2))
	for _, kern := range available() {
		k := kernels[kern]
		for _, dt := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
			w := newMat(r, dt, false, 5, 70, 3)
			if !k.dotsOf(&w.Mat) {
				continue
			}
			x := newMat(r, tensor.F32, false, 4, 70, 1)
			for n := 1; n <= 70; n++ {
				for _, m := range []int{1, 2, 4} {
					out := make([]float32, 17)
					out[4*m] = 77
					k.dots(m, n, x.float(0, 0), x.LD, &w.Mat, 1, w.LD, out)
					require.EqualValues(t, 77, out[4*m])
					for i := range 4 * m {
						var want float64
						for at := range n {
							want += x.vals[i/4*70+at] * w.vals[(1+i%4)*70+at]
						}
						require.InDelta(t, want, out[i], 1e-5, "%v %v n %d m %d", kern, dt, n, m)
					}
				}
			}
		}
	}
}

// TestJobsDropMemory makes sure a finished call keeps no reference to the caller's matrices.
func TestJobsDropMemory(t *testing.T) {
	j := newJob()
	j.A.Data, j.mem = make([]byte, 1), make([]float32, 1)
	j.release()
	require.Nil(t, unsafe.SliceData(j.A.Data))
	require.Nil(t, j.mem)
}
