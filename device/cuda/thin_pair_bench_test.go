package cuda

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// BenchmarkThinPair times both launches of a pair apart, with other numbers of units on their way, and with X marked as read once or not. It needs a GPU:
//
//	cuda.test -test.run NONE -test.bench ThinPair -test.benchtime 1x
func BenchmarkThinPair(b *testing.B) {
	if onEmulator() {
		b.Skip("times of the emulator say nothing")
	}
	for _, s := range [][3]int{{4096, 14336, 16}, {4096, 14336, 32}, {4096, 4096, 16}, {8192, 1024, 16}} {
		for _, stages := range []int{3, 4, 5} {
			for _, once := range []int{0, 1} {
				for _, part := range []string{"both", "read", "sum"} {
					if stages == 5 || once == 0 && part == "read" {
						benchPair(b, s[0], s[1], s[2], stages, once, part)
					}
				}
			}
		}
	}
}

func benchPair(b *testing.B, m, n, rank, stages, once int, part string) {
	b.Run(fmt.Sprintf("%dx%d/rank=%d/stages=%d/once=%d/%s", m, n, rank, stages, once, part), func(b *testing.B) {
		d := testDevice(b)
		op := ops.MatMulPair{AlphaT: 1, AlphaD: 2, Add: true, TransS: true}
		x, bs, sums, t := tensor.T(tensor.BF16, m, n), tensor.T(tensor.BF16, n, rank), tensor.T(tensor.F32, n, rank), tensor.T(tensor.BF16, m, rank)
		p, err := d.newThinPair(op, device.Spec{Op: op, In: []tensor.Type{x, bs, tensor.T(tensor.BF16, rank, m), sums}, Out: []tensor.Type{t, sums}})
		require.NoError(b, err)
		warps, most, shared := d.pairShape(rank, true)
		if stages > most {
			b.Skip("no room")
		}
		shared -= (most - stages) * ((shared - 1024*warps*rank/8*2) / most)
		f, err := d.Function(pairProgram(op, tensor.BF16, tensor.F32, rank, warps, stages, 1, once), "thin_pair")
		require.NoError(b, err)
		turns := 1 + int(160<<20/x.Bytes())
		at := [][]Addr{space(b, d, turns, x.Bytes()), space(b, d, 1, bs.Bytes()), space(b, d, 1, t.Bytes()), space(b, d, 1, sums.Bytes()), space(b, d, 1, t.Bytes()), space(b, d, 1, p.scratch)}
		graphTime(b, d, float64(x.Bytes()), turns, func(c *Call, turn int) error {
			a := &p.args
			a.x, a.b, a.s, a.c, a.t, a.d = at[0][turn], at[1][0], at[2][0], at[3][0], at[4][0], at[3][0]
			a.partT, a.partD = at[5][0], at[5][0]+Addr(p.partT)
			if part != "sum" {
				if err := c.Launch(f, Geometry{Grid: [3]int{p.blocks}, Block: [3]int{p.threads}, Shared: shared}, a); err != nil || part == "read" {
					return err
				}
			}
			return p.addUp(c)
		})
	})
}
