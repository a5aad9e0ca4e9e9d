package calibrate

import (
	"context"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// small is a model of two layers with random weights, biases too.
func small(t *testing.T, kvHeads int, bias bool) (*models.Model, *plan.Store) {
	return smallOf(t, kvHeads, bias, tensor.F32)
}

func smallOf(t *testing.T, kvHeads int, bias bool, d tensor.DType) (*models.Model, *plan.Store) {
	store := plan.NewStore(cpu.New(cpu.Options{Threads: 1}))
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	src := layers.NewSource(layers.Options{Seed: 5, Policy: layers.Policy{Param: d}})
	m, err := models.New(models.Config{Vocab: 40, Hidden: 16, Intermediate: 24, Layers: 2, Heads: 2, KVHeads: kvHeads, HeadDim: 8, MaxPositions: 64,
		Eps: 1e-5, Rope: models.Rope{Theta: 10000}, InitStd: 0.3, Pad: -1, AttentionBias: bias, MLPBias: bias}, src)
	require.NoError(t, err)
	require.NoError(t, src.Load(store))
	layers.Walk(m, func(p layers.Param) {
		if !strings.HasSuffix(p.Name, "bias") {
			return
		}
		b := tensor.New(p.Type)
		for i := range b.Type().Size() {
			b.Set(i, math.Sin(float64(i+len(p.Name))))
		}
		require.NoError(t, store.Set(p.Var, b))
	})
	return m, store
}

func rowsOf(lengths ...int) (rows []*tensor.Tensor) {
	for _, n := range lengths {
		row := tensor.New(tensor.T(tensor.I32, n))
		for i := range n {
			tensor.Data[int32](row)[i] = int32((7*i + n) % 40)
		}
		rows = append(rows, row)
	}
	return rows
}

// hidden runs the model on a row.
func hidden(t *testing.T, m *models.Model, store *plan.Store, row *tensor.Tensor) []float32 {
	n := row.Type().Size()
	g := graph.New("hidden")
	tokens, pos := g.Input("tokens", tensor.T(tensor.I32, 1, n)), g.Input("pos", tensor.T(tensor.I32, 1, n))
	in, at := tensor.New(tokens.Type()), tensor.New(tokens.Type())
	copy(in.Bytes(), row.Bytes())
	for i := range n {
		tensor.Data[int32](at)[i] = int32(i)
	}
	out := m.Hidden(models.Inputs{Tokens: tokens, Pos: pos})
	p, err := plan.Compile([]graph.Value{out}, plan.Options{Device: store.Device(), Store: store})
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	res, err := p.Run(context.Background(), plan.Feed{tokens: in, pos: at})
	require.NoError(t, err)
	return res.Tensor(out).Float32s()
}

// TestFoldsTakeBiasesAlong: a bias is an output of its layer too. With grouped queries o_proj has nothing to fold into and says so.
func TestFoldsTakeBiasesAlong(t *testing.T) {
	for _, kvHeads := range []int{1, 2} {
		m, store := small(t, kvHeads, true)
		rows := rowsOf(9, 40)
		want := hidden(t, m, store, rows[1])
		r, err := Run(context.Background(), Options{Model: m, Store: store, Rows: rows, Method: SmoothQuant, Alpha: 0.9,
			Format: quant.AffineFormat{Bits: 8, Per: 4}})
		require.NoError(t, err)
		folded := map[string]bool{}
		layers.Walk(m, func(p layers.Param) {
			if st := r.States[p.Name]; st != nil {
				x, err := st.Dequantize(tensor.F32)
				require.NoError(t, err)
				require.NoError(t, store.Set(p.Var, x))
			} else if x := r.Dense[p.Name]; x != nil {
				folded[p.Name] = true
				require.NoError(t, store.Set(p.Var, x))
			}
		})
		require.True(t, folded["model.layers.0.mlp.up_proj.bias"])
		require.Equal(t, kvHeads == 2, folded["model.layers.0.self_attn.v_proj.bias"])
		for _, l := range r.Layers {
			require.Equal(t, kvHeads == 1 && strings.Contains(l.Name, "o_proj"), l.Note != "", l.Name)
		}
		got := hidden(t, m, store, rows[1])
		for i := range want {
			require.InDelta(t, want[i], got[i], 0.1)
		}
	}
}

// TestFoldsIntoShortNormsAreExact: a norm's scale of 16 bits takes over what it can hold, and the columns are multiplied by just that.
func TestFoldsIntoShortNormsAreExact(t *testing.T) {
	for _, d := range []tensor.DType{tensor.BF16, tensor.F16} {
		for _, method := range []Method{SmoothQuant, AWQ} {
			m, store := smallOf(t, 1, false, d)
			norm := m.Body.Stack()[0].(*models.Block).Norm1.Weight
			before := tensor.New(norm.Type)
			for j := range before.Type().Size() {
				before.Set(j, 1.2+math.Sin(float64(j)))
			}
			before.Set(2, 0)
			before.Set(3, 6e4) // near the end of f16
			require.NoError(t, store.Set(norm, before))
			r, err := Run(context.Background(), Options{Model: m, Store: store, Rows: rowsOf(40), Method: method, Alpha: 0.1,
				Format: quant.AffineFormat{Bits: 8, Per: 4}})
			require.NoError(t, err)
			after, scaled := r.Dense[norm.Name], 0
			for j, f := range r.Layers[0].columns {
				require.InEpsilon(t, 1+before.At(j), 1+after.At(j)*float64(f), 1e-6, "%v %s %d", d, method, j)
				if f != 1 {
					scaled++
				}
			}
			require.Greater(t, scaled, 8)
		}
	}
}

// TestBrokenWeightsAreNamed before the model runs on them and some layer behind is blamed.
func TestBrokenWeightsAreNamed(t *testing.T) {
	m, store := small(t, 1, false)
	v := m.Body.Stack()[0].(*models.Block).Attn.(*layers.Attention).Q.(*layers.Linear).Weight
	w, err := store.Get(v)
	require.NoError(t, err)
	w.Set(17, math.NaN())
	require.NoError(t, store.Set(v, w))
	for _, o := range []Options{{Method: GPTQ, Rows: rowsOf(9)}, {}} {
		o.Model, o.Store, o.Format = m, store, quant.AffineFormat{Bits: 4}
		_, err = Run(context.Background(), o)
		require.ErrorContains(t, err, "model.layers.0.self_attn.q_proj")
		require.ErrorContains(t, err, "(1, 1) is NaN")
	}
}

// TestStopsBetweenLayers: quantizing takes longer than running the model.
func TestStopsBetweenLayers(t *testing.T) {
	m, store := small(t, 1, false)
	for _, o := range []Options{{Method: GPTQ, Rows: rowsOf(9)}, {}} {
		ctx, cancel := context.WithCancel(context.Background())
		o.Model, o.Store, o.Format = m, store, quant.AffineFormat{Bits: 4}
		last := 0
		o.Progress = func(done, total int, _ string) {
			require.Less(t, done, total-1)
			last = done
			cancel()
		}
		_, err := Run(ctx, o)
		require.ErrorIs(t, err, context.Canceled)
		require.Less(t, last, 4)
	}
}

// TestRowsCountAsMemory: what a long row gives is part of the budget.
func TestRowsCountAsMemory(t *testing.T) {
	m, store := small(t, 1, false)
	for n, parts := range map[int]int{1: 1, 64: 2} {
		r := &run{Options: Options{Model: m, Store: store, Rows: rowsOf(n), Method: MinMax, Format: quant.AffineFormat{Bits: 4}, SampleRows: 1,
			Memory: 4 * 33 * (6*16 + 2*24)}}
		require.NoError(t, r.prepare())
		stages, err := r.stages()
		require.NoError(t, err)
		require.Len(t, r.parts(stages), parts)
	}
}

// TestHessiansLeavePaddingOut compares the sums that the device makes with those of the gathered rows, of lengths that are padded.
func TestHessiansLeavePaddingOut(t *testing.T) {
	m, store := small(t, 1, false)
	r := &run{Options: Options{Model: m, Store: store, Method: GPTQ, Format: quant.AffineFormat{Bits: 4}, SampleRows: 1000,
		Keep: func(string) bool { return false }}}
	r.Rows = rowsOf(1, 31, 32, 33, 64)
	const total = 1 + 31 + 32 + 33 + 64
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
