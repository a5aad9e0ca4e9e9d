package calibrate

import (
	"context"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// TestHessiansLeavePaddingOut compares the sums that the device makes with those of the gathered rows, of lengths that are padded.
func TestHessiansLeavePaddingOut(t *testing.T) {
	store := plan.NewStore(cpu.New(cpu.Options{Threads: 1}))
	defer func() { require.NoError(t, store.Close()) }()
	src := layers.NewSource(layers.Options{Seed: 5})
	m, err := models.NewLlama(models.Config{Vocab: 40, Hidden: 16, Intermediate: 24, Layers: 2, Heads: 2, KVHeads: 1, HeadDim: 8, MaxPositions: 64,
		Eps: 1e-5, Rope: models.Rope{Theta: 10000}, InitStd: 0.3, Pad: -1}, src)
	require.NoError(t, err)
	require.NoError(t, src.Load(store))
	r := &run{Options: Options{Model: m, Store: store, Method: GPTQ, Format: quant.AffineFormat{Bits: 4}, SampleRows: 1000,
		Keep: func(string) bool { return false }}}
	total := 0
	for _, n := range []int{1, 31, 32, 33, 64} {
		row := tensor.New(tensor.T(tensor.I32, n))
		for i := range n {
			tensor.Data[int32](row)[i] = int32((7*i + n) % 40)
		}
		r.Rows = append(r.Rows, row)
		total += n
	}
	require.NoError(t, r.prepare())
	stages, err := r.stages()
	require.NoError(t, err)
	require.Len(t, stages, 9, "two layers of norm, attention, norm and product, and the head")
	require.Len(t, stages[0].linears, 3)
	require.Equal(t, "lm_head", stages[8].names())
	require.NoError(t, r.gather(context.Background(), stages))
	for _, s := range stages {
		got, err := s.hessian.Matrix()
		require.NoError(t, err)
		x := s.samples.Matrix()
		require.Equal(t, total, x.Rows)
		require.Equal(t, int64(total), s.hessian.Samples())
		for i := range s.cols {
			for j := range s.cols {
				want, scale := 0.0, 0.0
				for k := range x.Rows {
					v := 2 / float64(total) * float64(x.Row(k)[i]) * float64(x.Row(k)[j])
					want, scale = want+v, scale+math.Abs(v)
				}
				require.InDelta(t, want, got[i*s.cols+j], 1e-5*scale+1e-9, s.names())
			}
		}
	}
}
