package bnb

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Int8 compares the ops of LLM.int8() on a device with the CUDA library: codes, statistics, sums and the layer's output at
// threshold 0 byte for byte.
func Int8(t *testing.T, d device.Device) {
	var cases []int8Case
	e := goldenInt8{d: d, read: Read(t, "int8", &cases)}
	ran := map[string]int{}
	worst := map[string]float64{}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			switch c.Op {
			case "int8_vectorwise_quant":
				e.rows(t, c)
			case "int8_double_quant":
				e.columns(t, c)
			case "int8_mm":
				e.product(t, c)
			case "Linear8bitLt":
				e.linear(t, c, worst)
			default:
				t.Fatalf("unknown operation %s", c.Op)
			}
			ran[c.Op]++
		})
	}
	t.Logf("%d cases: %v; largest relative errors %v", len(cases), ran, worst)
}

// int8Case is a row of int8.json; the fields name tensors.
type int8Case struct {
	Op, Name, Input, DType string
	Threshold              float32
	Codes, Dequant         string
	RowStats               string `json:"row_stats"`
	ColStats               string `json:"col_stats"`
	RowCodes               string `json:"row_codes"`
	ColCodes               string `json:"col_codes"`
	OutlierCols            string `json:"outlier_cols"`
	A, B, Bias, I32        string
	DequantBias            string `json:"dequant_bias"`
	DequantBiasBF16        string `json:"dequant_bias_bf16"`
	CB, SCB, X, Y          string
	GradOut                string `json:"grad_out"`
	GradX                  string `json:"grad_x"`
}

// goldenInt8 evaluates graphs on named tensors.
type goldenInt8 struct {
	d    device.Device
	read func(key string) *tensor.Tensor
}

// eval builds a graph on the tensors named and returns its outputs.
func (e goldenInt8) eval(t *testing.T, build func(in []graph.Value) []graph.Value, keys ...string) []*tensor.Tensor {
	var in []*tensor.Tensor
	for _, k := range keys {
		if k != "" {
			in = append(in, e.read(k))
		}
	}
	g := graph.New("int8")
	vals, feed := inputs(g, in)
	out, err := plan.Eval(e.d, feed, build(vals)...)
	require.NoError(t, err)
	return out
}

func (e goldenInt8) rows(t *testing.T, c int8Case) {
	out := e.eval(t, func(in []graph.Value) []graph.Value {
		codes, stats, outliers := ops.QuantizeRowsTo8(in[0], c.Threshold)
		return []graph.Value{codes, stats, outliers, ops.DequantizeRowsFrom8(ops.DequantizeRows8{To: tensor.F32}, codes, stats)}
	}, c.Input)
	require.Equal(t, e.read(c.Codes).Bytes(), out[0].Bytes(), "codes")
	require.Equal(t, e.read(c.RowStats).Bytes(), out[1].Bytes(), "statistics")
	require.Equal(t, e.read(c.Dequant).Bytes(), out[3].Bytes(), "values")
	var found []int64
	for i, is := range tensor.Data[bool](out[2]) {
		if is {
			found = append(found, int64(i))
		}
	}
	if c.OutlierCols == "" {
		require.Empty(t, found)
		return
	}
	require.Equal(t, tensor.Data[int64](e.read(c.OutlierCols)), found, "outlier columns")
}

func (e goldenInt8) columns(t *testing.T, c int8Case) {
	out := e.eval(t, func(in []graph.Value) []graph.Value {
		codes, stats := ops.QuantizeColumnsTo8(in[0], c.Threshold)
		return []graph.Value{codes, stats}
	}, c.Input)
	require.Equal(t, e.read(c.ColStats).Bytes(), out[1].Bytes(), "statistics")
	want, x := tensor.Data[int8](e.read(c.ColCodes)), e.read(c.Input)
	for i, got := range tensor.Data[int8](out[0]) {
		if v := tensor.ToF16(float32(x.At(i)) * 127).Float32(); v-v == 0 { // where x·127 overflows f16 the library's code is garbage
			require.Equal(t, want[i], got, "code %d", i)
		}
	}
}

func (e goldenInt8) product(t *testing.T, c int8Case) {
	out := e.eval(t, func(in []graph.Value) []graph.Value {
		acc := ops.Int8Dot(ops.Int8MatMul{TransB: true}, in[0], in[1])
		value := func(bias graph.Value, to tensor.DType) graph.Value {
			return ops.DequantizeProductFrom8(acc, in[2], in[3], bias, to)
		}
		return []graph.Value{acc, value(graph.Value{}, tensor.F16), value(in[4], tensor.F16), value(ops.Cast(in[4], tensor.BF16), tensor.BF16)}
	}, c.A, c.B, c.RowStats, c.ColStats, c.Bias)
	for i, key := range []string{c.I32, c.Dequant, c.DequantBias, c.DequantBiasBF16} {
		require.Equal(t, e.read(key).Bytes(), out[i].Bytes(), key)
	}
}

func (e goldenInt8) linear(t *testing.T, c int8Case, worst map[string]float64) {
	out := e.eval(t, func(in []graph.Value) []graph.Value {
		var bias graph.Value
		if c.Bias != "" {
			bias = ops.Cast(in[4], in[0].DType())
		}
		y := ops.LinearInt8(in[0], in[1], in[2], bias, c.Threshold)
		gx, err := autograd.VJP([]graph.Value{y}, []graph.Value{in[3]}, in[0])
		require.NoError(t, err)
		return []graph.Value{y, gx[0]}
	}, c.X, c.CB, c.SCB, c.GradOut, c.Bias)
	if c.Threshold == 0 {
		require.Equal(t, e.read(c.Y).Bytes(), out[0].Bytes(), "y")
	}
	// The products of outliers and of the gradient come from GPU libraries, whose order of summation is theirs.
	for name, pair := range map[string][2]*tensor.Tensor{"y": {out[0], e.read(c.Y)}, "grad_x": {out[1], e.read(c.GradX)}} {
		err := NormError(pair[0], pair[1])
		worst[c.DType+" "+name] = max(worst[c.DType+" "+name], err)
		require.LessOrEqual(t, err, map[string]float64{"f16": 4.7e-4, "bf16": 3.8e-3}[c.DType], name)
	}
}
