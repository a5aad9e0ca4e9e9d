package gemm

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/pool"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// int8Mat draws a matrix whose op is [rows,cols], starting `shift` bytes off alignment, with `gap` elements between rows. A third of the
// elements are extremes.
func int8Mat(r *rand.Rand, trans bool, rows, cols, gap, shift int) Mat8 {
	if trans {
		rows, cols = cols, rows
	}
	data := tensor.View[int8](tensor.AlignedBytes(rows*(cols+gap) + shift))[shift:]
	for i := range data {
		data[i] = int8(r.IntN(256) - 128)
		if r.IntN(3) == 0 {
			data[i] = []int8{-128, 127, -127}[r.IntN(3)]
		}
	}
	return Mat8{Data: data, LD: cols + gap, Trans: trans}
}

func (x Mat8) at(r, c int) int32 {
	if x.Trans {
		r, c = c, r
	}
	return int32(x.Data[r*x.LD+c])
}

type product8 struct {
	m, n, k, gap, shift int
	transA, transB, add bool
	kernel              Kernel
	threads             int
}

func (p product8) check(t require.TestingT) {
	r := rand.New(rand.NewPCG(uint64(p.m*1000+p.n), uint64(p.k)))
	a, b := int8Mat(r, p.transA, p.m, p.k, p.gap, p.shift), int8Mat(r, p.transB, p.k, p.n, p.gap, p.shift)
	ldc := p.n + p.gap
	got := make([]int32, p.m*ldc)
	for i := range got {
		got[i] = int32(i) - 50
	}
	want := slices.Clone(got)
	for i := range p.m {
		for j := range p.n {
			var s int32
			for k := range p.k {
				s += a.at(i, k) * b.at(k, j)
			}
			if p.add {
				s += want[i*ldc+j]
			}
			want[i*ldc+j] = s
		}
	}
	workers := pool.New(p.threads)
	defer workers.Close()
	scratch := tensor.AlignedBytes(int(Int8ScratchBytes(p.m, p.n, p.k, p.threads)))
	for i := range scratch {
		scratch[i] = 0xa5 // nothing may rely on clean scratch
	}
	require.NoError(t, Int8(workers, scratch, Int8Args{M: p.m, N: p.n, K: p.k, A: a, B: b, C: got, LDC: ldc, Accumulate: p.add, Kernel: p.kernel}))
	require.Equal(t, want, got, "%+v", p)
}

func TestInt8(t *testing.T) {
	for _, kern := range available() {
		for _, s := range [][3]int{{1, 1, 1}, {0, 3, 4}, {3, 0, 4}, {3, 4, 0}, {5, 7, 3}, {14, 32, 64}, {15, 33, 65}, {29, 70, 1300}, {130, 300, 333}, {64, 64, 2600}} {
			for i := range 8 {
				p := product8{m: s[0], n: s[1], k: s[2], transA: i&1 == 1, transB: i&2 == 2, add: i&4 == 4, kernel: kern, threads: 1 + i%2}
				p.check(t)
				p.gap, p.shift = 4*(i%2)+i%3, i%4
				p.check(t)
			}
		}
	}
}

func TestInt8Property(t *testing.T) {
	size := rapid.IntRange(0, 90)
	rapid.Check(t, func(t *rapid.T) {
		b := func(name string) bool { return rapid.Bool().Draw(t, name) }
		product8{m: size.Draw(t, "m"), n: size.Draw(t, "n"), k: rapid.IntRange(0, 700).Draw(t, "k"), gap: rapid.IntRange(0, 9).Draw(t, "gap"),
			shift: rapid.IntRange(0, 3).Draw(t, "shift"), transA: b("transA"), transB: b("transB"), add: b("add"),
			kernel: rapid.SampledFrom(available()).Draw(t, "kernel"), threads: rapid.IntRange(1, 3).Draw(t, "threads")}.check(t)
	})
}

// The largest K with the largest products still fits int32.
func TestInt8LargestSum(t *testing.T) {
	for _, kern := range available() {
		k := MaxInt8K
		data := make([]int8, k)
		for i := range data {
			data[i] = -128
		}
		c := make([]int32, 1)
		scratch := tensor.AlignedBytes(int(Int8ScratchBytes(1, 1, k, 1)))
		args := Int8Args{M: 1, N: 1, K: k, A: Mat8{Data: data}, B: Mat8{Data: data, Trans: true}, C: c, Kernel: kern}
		require.NoError(t, Int8(nil, scratch, args))
		require.Equal(t, int32(k)<<14, c[0])
	}
}

func TestInt8Refusals(t *testing.T) {
	data, c := make([]int8, 200), make([]int32, 110)
	good := Int8Args{M: 10, N: 11, K: 12, A: Mat8{Data: data}, B: Mat8{Data: data}, C: c}
	for want, change := range map[string]func(*Int8Args){
		"M=-1 N=11 K=12":        func(g *Int8Args) { g.M = -1 },
		"K=131072 int32 sums":   func(g *Int8Args) { g.K = MaxInt8K + 1 },
		"A [10,12] has row":     func(g *Int8Args) { g.A.LD = 11 },
		"B [12,11] with row":    func(g *Int8Args) { g.B.LD = 30 },
		"A [12,10] with row":    func(g *Int8Args) { g.A.Trans, g.A.LD = true, 20 },
		"C [10,11] with row":    func(g *Int8Args) { g.C = c[:109] },
		"kernel unknown":        func(g *Int8Args) { g.Kernel = 77 },
		"bytes of scratch, got": func(g *Int8Args) {},
	} {
		args := good
		change(&args)
		require.ErrorContains(t, Int8(nil, make([]byte, 64), args), want)
	}
}

func BenchmarkInt8(b *testing.B) {
	for _, d := range [][3]int{{512, 512, 512}, {1024, 1024, 1024}, {512, 4096, 4096}, {1, 4096, 4096}} {
		for _, kern := range available() {
			if kern == Generic && d[0]*d[1]*d[2] > 1<<28 {
				continue
			}
			for _, threads := range []int{1, 2} {
				b.Run(fmt.Sprintf("%dx%dx%d/%v/threads=%d", d[0], d[1], d[2], kern, threads), func(b *testing.B) {
					r := rand.New(rand.NewPCG(1, 1))
					p := pool.New(threads)
					defer p.Close()
					args := Int8Args{M: d[0], N: d[1], K: d[2], A: int8Mat(r, false, d[0], d[2], 0, 0), B: int8Mat(r, true, d[2], d[1], 0, 0),
						C: make([]int32, d[0]*d[1]), Kernel: kern}
					scratch := tensor.AlignedBytes(int(Int8ScratchBytes(d[0], d[1], d[2], threads)))
					b.ReportAllocs()
					for b.Loop() {
						if err := Int8(p, scratch, args); err != nil {
							b.Fatal(err)
						}
					}
					b.ReportMetric(2*float64(d[0])*float64(d[1])*float64(d[2])/1e9*float64(b.N)/b.Elapsed().Seconds(), "GOP/s")
				})
			}
		}
	}
}

// TestInt8WideStrips compares strips packed side by side with plain indexing, for rows with gaps and strips with room behind them.
func TestInt8WideStrips(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for _, kern := range available() {
		k := kern.int8Kernel()
		if k.packWide == nil {
			continue
		}
		for _, s := range [][3]int{{1, 1, 0}, {2, 1, 5}, {3, 2, 1}, {17, 4, 64}, {64, 3, 0}} {
			kc, strips, gap := s[0], s[1], s[2]
			x := int8Mat(r, false, 4*kc, 32*strips, gap, gap%3)
			stride := 32*kc + gap
			got, want := make([]uint32, strips*stride), make([]uint32, strips*stride)
			for at := range want {
				got[at], want[at] = 77, 77
				if strip, i := at/stride, at%stride; i < 32*kc {
					want[at] = flips
					for b := range 4 {
						want[at] ^= uint32(uint8(x.at(4*(i/32)+b, 32*strip+i%32))) << (8 * b)
					}
				}
			}
			k.packWide(kc, &got[0], strips, stride, &x.Data[0], x.LD, flips)
			require.Equal(t, want, got, "%v %v", kern, s)
		}
	}
}
