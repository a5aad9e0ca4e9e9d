package vec

import (
	"testing"

	"github.com/bitsandbyes/bitsandbyes/internal/guard"
)

// Loops of all levels stay inside operands that begin or end where memory does.
func TestLoopsStayInside(t *testing.T) {
	var m [4]guard.Memory
	for i := range m {
		m[i] = guard.New(t, 4096)
	}
	run := func(l *loops, n int, part func(m guard.Memory, n int) []float32) {
		var x [4][]float32
		for i := range x {
			x[i] = part(m[i], n)
		}
		for o := range NumOps {
			l.run(o, x[0], x[1], x[2], x[3])
		}
		for o := range NumRowOps {
			l.runRow(o, x[0], x[1], x[2], x[3], [4]float32{1, 2, 3, 4})
		}
		l.sum(x[1])
		l.sumProducts(x[1], x[2])
		l.sumSquares(x[1], 1)
		l.sumRounded(x[1], x[2])
		l.sumNormal(x[1], x[2], nil, 1, 1)
		l.sumNormal(x[1], x[2], x[3], 1, 1)
		l.peakOf(x[1])
		l.highestOf(x[1])
		l.lowestOf(x[1])
		l.expShifted(x[0], x[1], 1)
		l.stream(x[0], x[1])
		half := n / 2
		l.turnPairs(x[0][:2*half], x[1][:2*half], x[2][n-half:], x[3][n-half:], 1)
		l.turn(x[0][:half], x[0][n-half:], x[1][:half], x[1][n-half:], x[2][n-half:], x[3][n-half:], 1)
	}
	for level, l := range levels {
		t.Run(level.String(), func(t *testing.T) {
			for n := range 200 {
				run(l, n, guard.End[float32])
				run(l, n, guard.Start[float32])
				l.philox(guard.End[uint32](m[0], n), [4]uint32{}, [2]uint32{})
				l.drop(guard.End[float32](m[0], n), guard.End[float32](m[1], n), guard.End[uint32](m[2], n), 7, 2)
				l.roundRandomly(guard.End[uint16](m[0], n), guard.End[float32](m[1], n), guard.End[uint16](m[2], n))
				l.addTo(guard.End[float64](m[0], n), guard.End[float32](m[1], n))
			}
		})
	}
}

// farWaves takes results beyond 1 for arguments, so no loop may give one.
func TestWavesStayWithinOne(t *testing.T) {
	x := make([]float32, 4096)
	for level, l := range levels {
		for _, o := range []Op{OpSin, OpCos} {
			if l.ops[o] == nil {
				continue
			}
			for k := range 2000 {
				for i := range x {
					x[i] = float32(k)*1.5707964 + float32(i-2048)*2e-7*float32(k+1)
				}
				l.ops[o](len(x), &x[0], &x[0], nil, nil)
				for _, v := range x {
					if v > 1 || v < -1 {
						t.Fatalf("%v %v gives %v", level, o, v)
					}
				}
			}
		}
	}
}
