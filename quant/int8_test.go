package quant

import (
	"encoding/json"
	"math"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// int8Case is a row of int8.json; the fields name tensors.
type int8Case struct {
	Op, Name, Input string
	Threshold       float32
	Codes, Dequant  string
	RowStats        string `json:"row_stats"`
	ColStats        string `json:"col_stats"`
	RowCodes        string `json:"row_codes"`
	ColCodes        string `json:"col_codes"`
	OutlierCols     string `json:"outlier_cols"`
	M, N, K         int
	A, B, Bias, I32 string
	DequantBias     string `json:"dequant_bias"`
	DequantBiasBF16 string `json:"dequant_bias_bf16"`
	Weight, CB, SCB string
}

func readInt8Cases(t testing.TB) ([]int8Case, map[string]*tensor.Tensor) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(bnbDir(t), "int8.json"))
	require.NoError(t, err)
	var list struct{ Cases []int8Case }
	require.NoError(t, json.Unmarshal(raw, &list))
	require.NotEmpty(t, list.Cases)
	return list.Cases, readSafetensors(t, filepath.Join(bnbDir(t), "int8.safetensors"))
}

func TestGoldenBNBInt8(t *testing.T) {
	cases, data := readInt8Cases(t)
	ran := map[string]int{}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			switch c.Op {
			case "int8_vectorwise_quant":
				compareRows(t, c, data)
			case "int8_double_quant":
				compareRowsAndColumns(t, c, data)
			case "int8_mm":
				compareProduct(t, c, data)
			case "Linear8bitLt": // its weight; the layer itself is tested where layers are
				codes, stats, _ := quantizeTensorRows(t, data[c.Weight], 0)
				assert.Equal(t, data[c.CB].Bytes(), tensor.AsBytes(codes), "CB")
				sameBits(t, tensor.Data[float32](data[c.SCB]), stats, "SCB")
			default:
				t.Fatalf("unknown operation %s", c.Op)
			}
			ran[c.Op]++
		})
	}
	t.Logf("%d cases: %v", len(cases), ran)
}

func quantizeTensorRows(t testing.TB, x *tensor.Tensor, threshold float32) (codes []int8, stats []float32, outliers []int) {
	t.Helper()
	rows, cols := x.Shape().Dim(0), x.Shape().Dim(1)
	codes, stats = make([]int8, rows*cols), make([]float32, rows)
	var err error
	switch x.DType() {
	case tensor.F32:
		outliers, err = QuantizeRows(codes, stats, tensor.Data[float32](x), rows, cols, threshold)
	case tensor.F16:
		outliers, err = QuantizeRows(codes, stats, tensor.Data[tensor.Float16](x), rows, cols, threshold)
	case tensor.BF16:
		outliers, err = QuantizeRows(codes, stats, tensor.Data[tensor.BFloat16](x), rows, cols, threshold)
	}
	require.NoError(t, err)
	return codes, stats, outliers
}

func sameOutliers(t testing.TB, want *tensor.Tensor, got []int) {
	t.Helper()
	if want == nil {
		assert.Empty(t, got)
		return
	}
	require.Len(t, got, want.Shape().Size())
	for i, c := range tensor.Data[int64](want) {
		assert.EqualValues(t, c, got[i])
	}
}

func compareRows(t *testing.T, c int8Case, data map[string]*tensor.Tensor) {
	codes, stats, outliers := quantizeTensorRows(t, data[c.Input], c.Threshold)
	assert.Equal(t, data[c.Codes].Bytes(), tensor.AsBytes(codes), "codes")
	sameBits(t, tensor.Data[float32](data[c.RowStats]), stats, "row_stats")
	sameOutliers(t, data[c.OutlierCols], outliers)
	back := make([]float32, len(codes))
	require.NoError(t, DequantizeRows(back, codes, stats, len(stats), len(codes)/len(stats)))
	sameBits(t, tensor.Data[float32](data[c.Dequant]), back, "dequant")
}

func compareRowsAndColumns(t *testing.T, c int8Case, data map[string]*tensor.Tensor) {
	x := data[c.Input]
	rows, cols := x.Shape().Dim(0), x.Shape().Dim(1)
	rowCodes, colCodes := make([]int8, rows*cols), make([]int8, rows*cols)
	rowStats, colStats := make([]float32, rows), make([]float32, cols)
	outliers, err := QuantizeRowsAndColumns(rowCodes, colCodes, rowStats, colStats, tensor.Data[tensor.Float16](x), rows, cols, c.Threshold)
	require.NoError(t, err)
	assert.Equal(t, data[c.RowCodes].Bytes(), tensor.AsBytes(rowCodes), "row codes")
	garbled := 0
	for i, v := range tensor.Data[tensor.Float16](x) {
		// Where x·127 is beyond f16, the library converts an infinity to int8: 255 and -2^31 modulo 256.
		if f := v.Float32(); colCodes[i] != 0 && tensor.ToF16(127*abs32(f)).Float32() > 65504 {
			colCodes[i] = -1
			if f < 0 {
				colCodes[i] = 0
			}
			garbled++
		}
	}
	assert.Equal(t, data[c.ColCodes].Bytes(), tensor.AsBytes(colCodes), "column codes")
	t.Logf("%d of %d column codes are garbled in the library", garbled, len(colCodes))
	sameBits(t, tensor.Data[float32](data[c.RowStats]), rowStats, "row_stats")
	sameBits(t, tensor.Data[float32](data[c.ColStats]), colStats, "col_stats")
	sameOutliers(t, data[c.OutlierCols], outliers)
}

func compareProduct(t *testing.T, c int8Case, data map[string]*tensor.Tensor) {
	a, b := tensor.Data[int8](data[c.A]), tensor.Data[int8](data[c.B])
	acc := make([]int32, c.M*c.N)
	for i := range acc {
		for k := range c.K {
			acc[i] += int32(a[i/c.N*c.K+k]) * int32(b[i%c.N*c.K+k])
		}
	}
	require.Equal(t, data[c.I32].Bytes(), tensor.AsBytes(acc))
	rows, cols := tensor.Data[float32](data[c.RowStats]), tensor.Data[float32](data[c.ColStats])
	bias := tensor.Data[tensor.Float16](data[c.Bias])
	out := make([]tensor.Float16, len(acc))
	require.NoError(t, DequantizeProduct(out, acc, rows, cols, nil, c.M, c.N))
	assert.Equal(t, data[c.Dequant].Bytes(), tensor.AsBytes(out), "dequant")
	require.NoError(t, DequantizeProduct(out, acc, rows, cols, bias, c.M, c.N))
	assert.Equal(t, data[c.DequantBias].Bytes(), tensor.AsBytes(out), "dequant with bias")
	// The library's call with output and bias in bf16.
	wide, half := make([]tensor.BFloat16, len(acc)), make([]tensor.BFloat16, len(bias))
	for i, v := range bias {
		half[i] = tensor.ToBF16(v.Float32())
	}
	require.NoError(t, DequantizeProduct(wide, acc, rows, cols, half, c.M, c.N))
	assert.Equal(t, data[c.DequantBiasBF16].Bytes(), tensor.AsBytes(wide), "dequant with bias in bf16")
}

// The fast paths give the codes of the definition for values of all magnitudes, special ones included.
func TestQuantizeRowEqualsNaive(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		x := blocks(rt)
		threshold := rapid.SampledFrom([]float32{0, 0, 1e-3, 1, 6}).Draw(rt, "threshold")
		codes, want, mask := make([]int8, len(x)), make([]int8, len(x)), make([]bool, len(x))
		stat := QuantizeRow(codes, x, threshold, mask)
		var top float32
		for i, v := range x {
			is := threshold > 0 && abs32(v) >= threshold
			require.Equal(rt, is, mask[i])
			if a := flush(abs32(v)); !is && a > top {
				top = a
			}
		}
		require.Equal(rt, top, stat)
		rowCodesNaive(want, x, stat, threshold)
		require.Equal(rt, want, codes)
		for i, v := range x {
			if q := float64(flush(v)) * 127 / float64(stat); !mask[i] && finite(stat) && q == q {
				require.InDelta(rt, q, float64(codes[i]), 0.50002)
			}
		}
	})
}

// Codes are the nearest to x·127/absmax up to the units that the approximate division is off.
func TestQuantizeRowsIsNearest(t *testing.T) {
	const rows, cols = 5, 2100
	rng := rand.New(rand.NewPCG(4, 4))
	x := make([]tensor.BFloat16, rows*cols)
	for i := range x {
		x[i] = tensor.ToBF16(float32(rng.NormFloat64()))
	}
	codes, stats := make([]int8, len(x)), make([]float32, rows)
	outliers, err := QuantizeRows(codes, stats, x, rows, cols, 3)
	require.NoError(t, err)
	require.NotEmpty(t, outliers)
	column := map[int]bool{}
	for _, c := range outliers {
		column[c] = true
	}
	for i, v := range x {
		if column[i%cols] {
			require.Zero(t, codes[i])
			continue
		}
		require.InDelta(t, float64(v.Float32())*127/float64(stats[i/cols]), float64(codes[i]), 0.50001)
	}
}

func TestFMA32(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 1))
	number := func() float32 {
		return math.Float32frombits(rng.Uint32()&0x807fffff | uint32(110+rng.IntN(35))<<23)
	}
	for range 200000 {
		x, y := number(), number()
		z := number()
		if rng.IntN(3) == 0 { // sums that fall next to the middle of two floats
			z = float32(-x*y) + math.Float32frombits(uint32(rng.IntN(3))<<23|40<<23)
		}
		exact := new(big.Float).SetPrec(300).Mul(big.NewFloat(float64(x)), big.NewFloat(float64(y)))
		want, _ := exact.Add(exact, big.NewFloat(float64(z))).Float32()
		require.Equal(t, want, fma32(x, y, z), "%v*%v+%v", x, y, z)
	}
}

// A column whose product with 127 overflows f16 is quantized all the same.
func TestQuantizeColumnsBeyondHalf(t *testing.T) {
	x := []tensor.Float16{tensor.ToF16(60000), tensor.ToF16(-30000), tensor.ToF16(1), tensor.ToF16(0)}
	codes, stats := make([]int8, 4), make([]float32, 1)
	require.NoError(t, QuantizeColumns(codes, stats, x, 4, 1, 0))
	require.Equal(t, []int8{127, -64, 0, 0}, codes)
	codes = []int8{9, 9}
	require.NoError(t, QuantizeColumns(codes, stats, []float32{0, float32(math.NaN())}, 2, 1, 0))
	require.Equal(t, []int8{0, 0}, codes)
}

func TestInt8Refuses(t *testing.T) {
	x, codes, stats := make([]float32, 6), make([]int8, 6), make([]float32, 2)
	_, err := QuantizeRows(codes, stats, x, 2, 4, 0)
	require.ErrorContains(t, err, "2 by 4")
	_, err = QuantizeRows(codes, stats, x, 3, 2, 0)
	require.ErrorContains(t, err, "3 rows")
	_, err = QuantizeRows(codes, stats, x, 2, 3, -1)
	require.ErrorContains(t, err, "threshold")
	_, err = QuantizeRows(codes, stats, x, 2, 3, float32(math.NaN()))
	require.ErrorContains(t, err, "threshold")
	_, err = QuantizeRows(codes, stats, x, math.MaxInt, 3, 0)
	require.Error(t, err)
	_, err = QuantizeRows(codes, stats, x, 0, 0, 0)
	require.NoError(t, err)
	require.ErrorContains(t, QuantizeColumns(codes, stats, x, 2, 3, 0), "3 columns")
	require.ErrorContains(t, DequantizeRows(x, codes, stats, 3, 2), "3 rows")
	require.ErrorContains(t, DequantizeProduct(x, make([]int32, 6), stats, stats, nil, 2, 3), "statistics")
	require.ErrorContains(t, DequantizeProduct(x, make([]int32, 5), stats, stats, nil, 3, 2), "5 sums")
	require.Error(t, DequantizeProduct(x, make([]int32, 6), stats, stats, []float32{1}, 2, 2))
}
