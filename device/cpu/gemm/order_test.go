package gemm

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/pool"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/require"
)

// smallBlocks makes blocks so small that products of a test have several, in both directions and along K.
func smallBlocks(t *testing.T) {
	saved := resident
	resident = 1 << 13
	t.Cleanup(func() { resident = saved })
}

// lanes is an extent along the lanes of an operand, as the loops in use need it: the tile in Go has 4 x 4 elements and not 14 x 32, so half as many have
// as many tiles and blocks, in a quarter of the time.
func lanes(n int) int {
	if Best() == Generic {
		return n / 2
	}
	return n
}

// inside runs f with a pool whose workers are busy, so that one thread does the tasks of all.
func inside(t *testing.T, p *pool.Pool, f func()) {
	var once atomic.Bool
	require.NoError(t, p.Run(2, func(int) {
		if !once.Swap(true) {
			f()
		}
	}))
}

// TestTeams: teams of threads, blocks and phases leave the bits alone, and so does a thread that does the tasks of all.
func TestTeams(t *testing.T) {
	r := rand.New(rand.NewPCG(51, 52))
	seen := map[string]bool{}
	for _, d := range [][3]int{{lanes(300), lanes(310), 700}, {lanes(310), lanes(230), 650}, {70, lanes(900), 130}, {lanes(260), lanes(256), 128}} {
		for c := range 8 {
			a, b := newMat(r, tensor.F32, c&1 != 0, d[0], d[2], 1), newMat(r, tensor.F32, c&2 != 0, d[2], d[1], 0)
			dt := []tensor.DType{tensor.F32, tensor.BF16}[c>>2]
			multiply := func(p *pool.Pool) []byte {
				args := Args{M: d[0], N: d[1], K: d[2], A: a.Mat, B: b.Mat, C: Out{Data: make([]byte, d[0]*d[1]*dt.Size()), DType: dt}}
				require.NoError(t, Gemm(p, tensor.AlignedBytes(int(ScratchBytes(d[0], d[1], d[2], p.Threads()))), 0.5, args))
				return args.C.Data
			}
			want := multiply(nil)
			t.Run("", func(t *testing.T) {
				smallBlocks(t)
				for threads := 1; threads <= 5; threads++ {
					j := job{Args: Args{M: d[0], N: d[1], K: d[2], A: a.Mat, B: b.Mat, C: Out{DType: dt}}, kern: kernels[Best()]}
					j.plan(d[0], d[1], d[2], j.choice(threads))
					j.note(seen)
					p := pool.New(threads)
					require.Equal(t, want, multiply(p), "%v, %d threads", d, threads)
					inside(t, p, func() { require.Equal(t, want, multiply(p), "%v, one of %d threads", d, threads) })
					p.Close()
				}
			})
		}
	}
	for _, what := range []string{"1 teams", "2 teams", "3 teams", "4 teams", "A resident", "B resident", "shared", "phases", "blocks", "blocks of teams", "units"} {
		require.True(t, seen[what], "%s did not come up: %v", what, seen)
	}
}

// note adds what a plan has to what was seen.
func (j *job) note(seen map[string]bool) {
	resident, streaming := j.regionN, j.regionM
	if j.streamB {
		resident, streaming = j.regionM, j.regionN
	}
	seen[fmt.Sprintf("%d teams", j.teams)] = true
	seen["A resident"] = seen["A resident"] || j.streamB
	seen["B resident"] = seen["B resident"] || !j.streamB
	seen["shared"] = seen["shared"] || j.shared
	seen["phases"] = seen["phases"] || j.phase < j.k
	seen["blocks"] = seen["blocks"] || resident > 3*j.lanes
	seen["blocks of teams"] = seen["blocks of teams"] || j.teams > 1 && resident > j.teams*j.lanes
	seen["units"] = seen["units"] || streaming > 3*j.unit
}

// TestInt8Teams is TestTeams of Int8.
func TestInt8Teams(t *testing.T) {
	r := rand.New(rand.NewPCG(53, 54))
	m, n, k := lanes(300), lanes(320), 2300
	a, b := make([]int8, m*k), make([]int8, k*n)
	for _, x := range [][]int8{a, b} {
		for i := range x {
			x[i] = int8(r.IntN(256) - 128)
		}
	}
	multiply := func(p *pool.Pool, trans bool) []int32 {
		args := Int8Args{M: m, N: n, K: k, A: Mat8{Data: a}, B: Mat8{Data: b, Trans: trans}, C: make([]int32, m*n)}
		require.NoError(t, Int8(p, tensor.AlignedBytes(int(Int8ScratchBytes(m, n, k, p.Threads()))), args))
		return args.C
	}
	want := [][]int32{multiply(nil, false), multiply(nil, true)}
	smallBlocks(t)
	for threads := 1; threads <= 4; threads++ {
		p := pool.New(threads)
		for i, trans := range bools {
			require.Equal(t, want[i], multiply(p, trans), "%d threads", threads)
		}
		p.Close()
	}
}

// breaking is a Source that panics once, at its nth block.
type breaking struct {
	source
	left atomic.Int64
}

func (b *breaking) Block(dst []float32, ld, r0, r1, c0, c1 int) {
	if b.left.Add(-1) == 0 {
		panic("broken")
	}
	b.source.Block(dst, ld, r0, r1, c0, c1)
}

// TestPanicEndsTheOthers: nobody waits for what a task that panicked would have done, and the next product is right.
func TestPanicEndsTheOthers(t *testing.T) {
	smallBlocks(t)
	r := rand.New(rand.NewPCG(55, 56))
	m, n, k := lanes(120), lanes(130), 700
	a, b := newMat(r, tensor.F32, false, m, k, 0), newMat(r, tensor.F32, false, k, n, 0)
	for _, threads := range []int{1, 2, 4} {
		p := pool.New(threads)
		scratch := tensor.AlignedBytes(int(ScratchBytes(m, n, k, threads)))
		for _, ofA := range bools {
			args := Args{M: m, N: n, K: k, A: a.Mat, B: b.Mat, C: Out{Data: make([]byte, 4*m*n), DType: tensor.F32}}
			x, from := &args.B, b
			if ofA {
				x, from = &args.A, a
			}
			broken := 0
			for at := int64(1); ; at++ {
				src := &breaking{source: *from.asSource(t).Source.(*source)}
				src.left.Store(at)
				*x = Mat{Source: src}
				err := Gemm(p, scratch, 1, args)
				if err == nil {
					break
				}
				require.ErrorContains(t, err, "broken")
				broken++
				require.NoError(t, Gemm(p, scratch, 1, args))
				got := append([]byte(nil), args.C.Data...)
				*x = from.Mat
				require.NoError(t, Gemm(nil, scratch, 1, args))
				require.Equal(t, args.C.Data, got)
			}
			require.Greater(t, broken, 3)
		}
		p.Close()
	}
}
