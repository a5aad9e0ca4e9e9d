package layers_test

import (
	"context"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// noiseOf returns the noise that tokens get: rows of documents, each token (sample, position, length).
func noiseOf(t *testing.T, alpha float64, rows [][][3]int, width int, step int32) [][][]float64 {
	b, n := len(rows), len(rows[0])
	g := graph.New("noise")
	ids := tensor.T(tensor.I32, b, n)
	x, length := g.Input("x", tensor.T(tensor.F32, b, n, width)), g.Input("length", tensor.T(tensor.F32, b, n))
	r := layers.Random{Key: g.Input("key", tensor.T(tensor.U32, 2)), Sample: g.Input("sample", ids), Pos: g.Input("pos", ids)}
	y := layers.NEFTune{Alpha: alpha, Length: length, Random: r}.Forward(x)
	sample, pos, lens, key := tensor.New(ids), tensor.New(ids), tensor.New(length.Type()), tensor.New(tensor.T(tensor.U32, 2))
	for i, row := range rows {
		for k, d := range row {
			sample.Set(i*n+k, float64(d[0]))
			pos.Set(i*n+k, float64(d[1]))
			lens.Set(i*n+k, float64(d[2]))
		}
	}
	key.Set(0, 7)
	key.Set(1, float64(step))
	dev := cpu.New(cpu.Options{Threads: 1})
	defer func() { require.NoError(t, dev.Close()) }()
	p, err := plan.Compile([]graph.Value{y}, plan.Options{Device: dev})
	require.NoError(t, err)
	res, err := p.Run(context.Background(), plan.Feed{x: tensor.New(x.Type()), length: lens, r.Key: key, r.Sample: sample, r.Pos: pos})
	require.NoError(t, err)
	out := make([][][]float64, b)
	for i := range out {
		for k := range n {
			v := make([]float64, width)
			for f := range v {
				v[f] = res.Tensor(y).At((i*n+k)*width + f)
			}
			out[i] = append(out[i], v)
		}
	}
	require.NoError(t, p.Close())
	return out
}

// TestNEFTune checks size and distribution of the noise, and that it follows the token and not the batch.
func TestNEFTune(t *testing.T) {
	const width, alpha = 96, 5.0
	pad := [3]int{-1, 0, 0}
	a := noiseOf(t, alpha, [][][3]int{{{3, 0, 2}, {3, 1, 2}, {4, 0, 3}, {4, 1, 3}, {4, 2, 3}, pad}}, width, 1)
	b := noiseOf(t, alpha, [][][3]int{{{4, 0, 3}, {4, 1, 3}, {4, 2, 3}}, {{3, 0, 2}, {3, 1, 2}, pad}}, width, 1)
	require.Equal(t, a[0][0], b[1][0])
	require.Equal(t, a[0][1], b[1][1])
	require.Equal(t, a[0][2:5], b[0])
	require.Equal(t, make([]float64, width), a[0][5], "padding gets none")
	require.NotEqual(t, a[0][0], a[0][1])
	require.NotEqual(t, a, noiseOf(t, alpha, [][][3]int{{{3, 0, 2}, {3, 1, 2}, {4, 0, 3}, {4, 1, 3}, {4, 2, 3}, pad}}, width, 2), "another step")
	for _, d := range []struct {
		rows   [][]float64
		length float64
	}{{a[0][:2], 2}, {a[0][2:5], 3}} {
		bound := alpha / math.Sqrt(d.length*width)
		var sum, square, largest float64
		n := 0.0
		for _, row := range d.rows {
			for _, v := range row {
				sum, square, largest, n = sum+v, square+v*v, max(largest, math.Abs(v)), n+1
			}
		}
		require.LessOrEqual(t, largest, bound*(1+1e-6))
		require.Greater(t, largest, 0.95*bound)
		require.InDelta(t, 0, sum/n/bound, 0.15)
		require.InDelta(t, 1.0/3, square/n/bound/bound, 0.1, "variance of a uniform number")
	}
}
