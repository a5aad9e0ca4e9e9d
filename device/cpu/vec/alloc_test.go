package vec

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestNoAllocation: loops are called once a row or a block.
func TestNoAllocation(t *testing.T) {
	x, y := make([]float32, 100), make([]float32, 100)
	sums, words, short, bytes := make([]float64, 100), make([]uint32, 100), make([]uint16, 100), make([]byte, 400)
	for name, f := range map[string]func(){
		"op":        func() { OpAdd.Run(y, x, x, nil) },
		"row":       func() { RowNormalGradWeighted.Run(y, x, x, x, [4]float32{1, 2, 3, 4}) },
		"sums":      func() { _ = Sum(x) + SumProducts(x, y) + SumNormal(x, y, x, 1, 2) },
		"exp":       func() { ExpSum(y, x, Peak(x)) },
		"turn":      func() { TurnHalves(y[:50], y[50:], x[:50], x[50:], x[:50], x[50:], 1) },
		"wide":      func() { AddWide(sums, x) },
		"random":    func() { Philox(words, [4]uint32{1, 2, 3, 4}, [2]uint32{5, 6}); Drop(y, x, words, 7, 1) },
		"round":     func() { RoundRandomly(short, x, short) },
		"transpose": func() { Transpose(4, bytes, 10, bytes[:400:400], 10, 10, 10, 400) },
	} {
		require.Zero(t, testing.AllocsPerRun(10, f), name)
	}
}
