package ops_test

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestEinsumAgainstLoops: random specifications, repeated letters included, against the definition: a loop over every
// assignment of the letters.
func TestEinsumAgainstLoops(t *testing.T) {
	dev := cpu.New(cpu.Options{Threads: 1})
	rapid.Check(t, func(r *rapid.T) {
		size := map[byte]int{}
		for _, l := range []byte("abcde") {
			size[l] = rapid.IntRange(1, 3).Draw(r, string(l))
		}
		var parts []string
		var in []*tensor.Tensor
		for range rapid.IntRange(1, 4).Draw(r, "operands") {
			p := rapid.StringMatching("[a-e]{0,4}").Draw(r, "letters")
			var dims []int
			for i := range len(p) {
				dims = append(dims, size[p[i]])
			}
			x := tensor.New(tensor.T(tensor.F64, dims...))
			for i := range x.Type().Size() {
				x.Set(i, float64(rapid.IntRange(-3, 3).Draw(r, "x")))
			}
			parts, in = append(parts, p), append(in, x)
		}
		out := ""
		for _, l := range rapid.Permutation([]byte("abcde")).Draw(r, "order") {
			if strings.Contains(strings.Join(parts, ""), string(l)) && rapid.Bool().Draw(r, "kept") {
				out += string(l)
			}
		}
		g, feed := graph.New("g"), plan.Feed{}
		var vals []graph.Value
		for i, x := range in {
			v := g.Input(string(rune('0'+i)), x.Type())
			vals, feed[v] = append(vals, v), x
		}
		spec := strings.Join(parts, ",") + "->" + out
		got, err := plan.Eval(dev, feed, ops.Einsum(spec, vals...))
		require.NoError(r, err, spec)
		want := loops(parts, out, size, in)
		require.Equal(r, want.Type(), got[0].Type(), spec)
		for i := range want.Type().Size() {
			require.Equal(r, want.At(i), got[0].At(i)+0, "%s: element %d", spec, i)
		}
	})
}

func loops(parts []string, out string, size map[byte]int, in []*tensor.Tensor) *tensor.Tensor {
	var dims []int
	for i := range len(out) {
		dims = append(dims, size[out[i]])
	}
	y := tensor.New(tensor.T(tensor.F64, dims...))
	letters := ""
	for _, l := range "abcde" {
		if strings.ContainsRune(strings.Join(parts, ""), l) {
			letters += string(l)
		}
	}
	at := map[byte]int{}
	flat := func(p string) int {
		k := 0
		for i := range len(p) {
			k = k*size[p[i]] + at[p[i]]
		}
		return k
	}
	var walk func(i int)
	walk = func(i int) {
		if i < len(letters) {
			for at[letters[i]] = 0; at[letters[i]] < size[letters[i]]; at[letters[i]]++ {
				walk(i + 1)
			}
			return
		}
		prod := 1.0
		for j, p := range parts {
			prod *= in[j].At(flat(p))
		}
		y.Set(flat(out), y.At(flat(out))+prod)
	}
	walk(0)
	for i := range y.Type().Size() {
		y.Set(i, y.At(i)+math.Copysign(0, 1))
	}
	return y
}

// TestEinsumOrder: a chain is multiplied from its narrow end.
func TestEinsumOrder(t *testing.T) {
	g := graph.New("g")
	a, b := g.Input("a", tensor.T(tensor.F32, 100, 100)), g.Input("b", tensor.T(tensor.F32, 100, 100))
	v := g.Input("v", tensor.T(tensor.F32, 100))
	ops.Einsum("ij,jk,k->i", a, b, v)
	require.NoError(t, g.Err())
	for _, n := range g.Nodes() {
		if _, ok := n.Op.(ops.MatMul); ok {
			require.Equal(t, 100, n.Out[0].Size(), "no product of two matrices: %v", n)
		}
	}
}

// FuzzEinsum: any specification gives a value or one error, and never a panic.
func FuzzEinsum(f *testing.F) {
	for _, s := range []string{"ij,jk->ik", "...ij,...jk", "ii,i->", "i j , j->", "a......,b->", "ij->ji,", "->", ",", "é,ij", "iij,ijj->ji", "..,.."} {
		f.Add(s, uint8(2), uint8(2))
	}
	f.Fuzz(func(t *testing.T, spec string, a, b uint8) {
		g := graph.New("g")
		x := g.Input("x", tensor.T(tensor.F32, []int{2, 2, 3, 1, 2, 2, 2, 2}[:a%9]...))
		y := g.Input("y", tensor.T(tensor.F32, []int{2, 3, 2, 2, 2, 2, 1, 2}[:b%9]...))
		z := ops.Einsum(spec, x, y)
		require.Equal(t, g.Err() == nil, z.Valid(), "%q: %v", spec, g.Err())
	})
}
