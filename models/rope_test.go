package models

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// ropeTables computes cos and sin of a row of positions, of documents that begin at doc if it is not nil.
func ropeTables(t *testing.T, r Rope, headDim int, positions, doc []int32) (cos, sin []float32) {
	t.Helper()
	g := graph.New("rope")
	row := func(x []int32) *tensor.Tensor {
		v, err := tensor.Of(x, 1, len(x))
		require.NoError(t, err)
		return v
	}
	in := Inputs{Pos: g.Const(row(positions))}
	if doc != nil {
		in.DocStart = g.Const(row(doc))
	}
	c, s := r.tables(in, headDim)
	store := plan.NewStore(cpu.New(cpu.Options{Threads: 1}))
	defer func() { require.NoError(t, store.Close()) }()
	p, err := plan.Compile([]graph.Value{c, s}, plan.Options{Device: store.Device(), Store: store})
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	res, err := p.Run(t.Context(), nil)
	require.NoError(t, err)
	return res.Tensor(c).Float32s(), res.Tensor(s).Float32s()
}

// TestRopeOfTransformers compares the tables of every scaling with those of transformers 5.24's rotary embeddings, each made anew for
// its sequence. The positions end at the last of the document, which decides for dynamic and longrope.
func TestRopeOfTransformers(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("testdata", "rope.json"))
	require.NoError(t, err)
	var cases []struct {
		Name      string
		Config    json.RawMessage
		Positions []int32
		Cos, Sin  []float32
	}
	require.NoError(t, json.Unmarshal(raw, &cases))
	kinds := map[RopeScaling]bool{}
	for _, k := range cases {
		t.Run(k.Name, func(t *testing.T) {
			c, err := ParseConfig(k.Config)
			require.NoError(t, err)
			kinds[c.Rope.Scaling] = true
			cos, sin := ropeTables(t, c.Rope, c.HeadDim, k.Positions, nil)
			require.Len(t, cos, len(k.Cos))
			require.InDeltaSlice(t, k.Cos, cos, 3e-5)
			require.InDeltaSlice(t, k.Sin, sin, 3e-5)

			// what is written says the same
			keys, err := Config{Type: c.Type, Vocab: c.Vocab, Hidden: c.Hidden, Intermediate: c.Intermediate, Layers: c.Layers, Heads: c.Heads,
				KVHeads: c.KVHeads, HeadDim: c.HeadDim, MaxPositions: c.MaxPositions, Eps: c.Eps, Rope: c.Rope, Pad: -1}.HF("float32")
			require.NoError(t, err)
			file, err := json.Marshal(keys)
			require.NoError(t, err)
			again, err := ParseConfig(file)
			require.NoError(t, err)
			cos, sin = ropeTables(t, again.Rope, again.HeadDim, k.Positions, nil)
			require.InDeltaSlice(t, k.Cos, cos, 3e-5)
			require.InDeltaSlice(t, k.Sin, sin, 3e-5)
		})
	}
	require.Len(t, kinds, len(scalings)+1)
}

// TestRopeOfPackedDocuments: where the length counts, it is that of each document, whatever lies beside it in the row.
func TestRopeOfPackedDocuments(t *testing.T) {
	for _, r := range []Rope{
		{Theta: 10000, Scaling: Dynamic, Factor: 3, Original: 4},
		{Theta: 10000, Scaling: LongRope, Original: 4, Short: []float64{1, 1.5, 2}, Long: []float64{2, 3, 4}, Attention: 1.2},
	} {
		require.NoError(t, r.validate(6))
		cos, sin := ropeTables(t, r, 6, []int32{0, 1, 2, 0, 1, 2, 3, 4, 5, 0, 1}, []int32{0, 0, 0, 3, 3, 3, 3, 3, 3, 9, 9})
		at := 0
		for _, n := range []int{3, 6, 2} {
			alone := make([]int32, n)
			for i := range alone {
				alone[i] = int32(i)
			}
			c, s := ropeTables(t, r, 6, alone, nil)
			require.Equal(t, c, cos[3*at:3*(at+n)], r.Scaling)
			require.Equal(t, s, sin[3*at:3*(at+n)], r.Scaling)
			at += n
		}
		long, _ := ropeTables(t, r, 6, []int32{0, 1, 2, 5}, nil)
		require.NotEqual(t, cos[3:9], long[3:9], "the second and third token of a longer document turn otherwise")
		require.True(t, r.sameFor(2, 4))
		require.False(t, r.sameFor(4, 5))
		require.Equal(t, r.Scaling == LongRope, r.sameFor(5, 6))
	}
	require.True(t, Rope{Theta: 10000, Scaling: Linear, Factor: 2}.sameFor(1, 1000))
}

func TestRopeRefuses(t *testing.T) {
	ok := Rope{Theta: 10000}
	require.NoError(t, ok.validate(8))
	for want, r := range map[string]Rope{
		"rope_theta":        {},
		"rope_type \"ntk\"": {Theta: 1e4, Scaling: "ntk", Factor: 2},
		"linear":            {Theta: 1e4, Scaling: Linear},
		"llama3":            {Theta: 1e4, Scaling: Llama3, Factor: 8, Low: 4, High: 1, Original: 32},
		"yarn":              {Theta: 1e4, Scaling: Yarn, Factor: 8, Original: 32},
		"dynamic":           {Theta: 1e4, Scaling: Dynamic, Factor: 0.5, Original: 32},
		"short_factor":      {Theta: 1e4, Scaling: LongRope, Original: 32, Short: []float64{1, 1, 1}, Long: []float64{1, 1, 1, 1}},
		"even number":       {Theta: 1e4, Dim: 3},
		"attention factor":  {Theta: 1e4, Attention: -1},
	} {
		require.ErrorContains(t, r.validate(8), want)
	}
}
