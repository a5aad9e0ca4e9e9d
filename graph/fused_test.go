package graph_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestResultsOfPrograms: results are instructions in order, the last among them, of one shape.
func TestResultsOfPrograms(t *testing.T) {
	x, row := tensor.T(tensor.F32, 2, 3), tensor.T(tensor.F32, 3)
	program := func(outs ...int) graph.Fused {
		return graph.Fused{Prog: &graph.Program{Outs: outs, Instrs: []graph.Instr{
			{Op: ops.Pointwise{F: ops.FnExp}, Args: []int{-2}, Type: row},
			{Op: ops.Pointwise{F: ops.FnAdd}, Args: []int{-1, 0}, Type: x},
			{Op: ops.Pointwise{F: ops.FnNeg}, Args: []int{1}, Type: x},
		}}}
	}
	for _, c := range []struct {
		outs []int
		want string // of the error
	}{
		{nil, ""}, {[]int{1, 2}, ""}, {[]int{2, 1}, "ascending"}, {[]int{1, 1, 2}, "ascending"}, {[]int{1}, "must be a result"}, {[]int{1, 2, 3}, "ascending"},
		{[]int{0, 2}, "differ in shape"},
	} {
		op := program(c.outs...)
		out, err := op.Infer([]tensor.Type{x, row})
		if c.want != "" {
			require.ErrorContains(t, err, c.want, "%v", c.outs)
			continue
		}
		require.NoError(t, err)
		require.Len(t, out, op.NumOut())
		require.Len(t, op.Alias(), 2*op.NumOut())
	}
	require.Equal(t, "fused{exp(-2) add(-1,0) neg(1) -> [1 2]}", program(1, 2).String())
}

// TestPart: elements outside of a tensor are an error.
func TestPart(t *testing.T) {
	in := []tensor.Type{tensor.T(tensor.BF16, 100)}
	p := graph.Part{Offset: 60, Shape: tensor.S(5, 8)}
	out, err := p.Infer(in)
	require.NoError(t, err)
	require.Equal(t, []tensor.Type{tensor.T(tensor.BF16, 5, 8)}, out)
	at, ok := p.View(in)
	require.True(t, ok)
	require.Equal(t, int64(120), at)
	for _, bad := range []graph.Part{{Offset: 61, Shape: p.Shape}, {Offset: -1, Shape: p.Shape}, {Offset: 1 << 62, Shape: p.Shape}} {
		_, err := bad.Infer(in)
		require.Error(t, err)
	}
	_, err = p.Infer(nil)
	require.Error(t, err)
}
