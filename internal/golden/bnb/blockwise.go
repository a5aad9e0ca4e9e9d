package bnb

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// blockCase is a row of blockwise4.json or blockwise8.json; the fields name tensors.
type blockCase struct {
	Name, Input, Map string
	QuantType        string `json:"quant_type"`
	Blocksize        int
	NestedBlocksize  int `json:"nested_blocksize"`
	Nested           bool
	Packed, Codes    string
	Absmax, Offset   string
	AbsmaxU8         string `json:"absmax_u8"`
	NestedAbsmax     string `json:"nested_absmax"`
	AbsmaxRestored   string `json:"absmax_restored"`
	Dequant          string
	DequantF32       string `json:"dequant_f32"`
	DequantF16       string `json:"dequant_f16"`
	DequantBF16      string `json:"dequant_bf16"`
}

// dequantized are the keys of a case's values by their dtype.
func (c blockCase) dequantized() map[tensor.DType]string {
	return map[tensor.DType]string{tensor.F32: c.DequantF32, tensor.F16: c.DequantF16, tensor.BF16: c.DequantBF16}
}

// check is a graph whose outputs must have the bytes of reference tensors.
type check struct {
	t     *testing.T
	read  func(key string) *tensor.Tensor
	g     *graph.Graph
	feed  plan.Feed
	outs  []graph.Value
	wants []string // keys
}

func newCheck(t *testing.T, read func(key string) *tensor.Tensor) *check {
	return &check{t: t, read: read, g: graph.New("golden"), feed: plan.Feed{}}
}

func (c *check) input(key string) graph.Value {
	x := c.read(key)
	v := c.g.Input(key, x.Type())
	c.feed[v] = x
	return v
}

func (c *check) equal(v graph.Value, key string) {
	c.outs, c.wants = append(c.outs, v), append(c.wants, key)
}

func (c *check) run(d device.Device) {
	c.t.Helper()
	out, err := plan.Eval(d, c.feed, c.outs...)
	require.NoError(c.t, err)
	for i, key := range c.wants {
		require.Equal(c.t, c.read(key).Bytes(), out[i].Bytes(), key)
	}
}

// Blockwise4 compares quantization to 4 bits, double quantization and dequantization on a device with the CUDA library, byte for byte.
func Blockwise4(t *testing.T, d device.Device) {
	var cases []blockCase
	read := Read(t, "blockwise4", &cases)
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			scheme, ok := quant.ParseScheme(c.QuantType)
			require.True(t, ok, c.QuantType)
			k := newCheck(t, read)
			codes, absmax := ops.QuantizeTo4(k.input(c.Input), scheme, c.Blocksize)
			k.equal(codes, c.Packed)
			parts := []graph.Value{codes, absmax}
			if c.Nested {
				offset := k.input(c.Offset)
				inner, outer := ops.QuantizeTo8(ops.Quantize8{Blocksize: quant.StateBlocksize}, ops.Sub(absmax, offset))
				k.equal(inner, c.AbsmaxU8)
				k.equal(outer, c.NestedAbsmax)
				k.equal(ops.Add(ops.DequantizeFrom8(inner, outer, quant.StateBlocksize, false), offset), c.AbsmaxRestored)
				parts = []graph.Value{codes, inner, outer, offset}
			} else {
				k.equal(absmax, c.Absmax)
			}
			for to, key := range c.dequantized() {
				if key != "" {
					o := ops.Dequantize{Scheme: scheme, Blocksize: c.Blocksize, Rows: 1, Cols: read(c.Input).Type().Size(), To: to, Nested: c.Nested}
					k.equal(ops.DequantizeWeight(o, parts...), key)
				}
			}
			k.run(d)
		})
	}
	t.Logf("%d cases", len(cases))
}

// Blockwise8 compares quantization to 8 bits with the two dynamic maps and its inverse on a device with the CUDA library, byte for byte.
// Other maps have no op; package quant covers them.
func Blockwise8(t *testing.T, d device.Device) {
	var cases []blockCase
	read := Read(t, "blockwise8", &cases)
	ran := 0
	for _, c := range cases {
		unsigned := c.Map == "map.dynamic_unsigned"
		if !unsigned && c.Map != "map.dynamic_signed" && c.Map != "" {
			continue
		}
		ran++
		t.Run(c.Name, func(t *testing.T) {
			k := newCheck(t, read)
			codes, absmax := ops.QuantizeTo8(ops.Quantize8{Blocksize: c.Blocksize, Unsigned: unsigned}, k.input(c.Input))
			k.equal(codes, c.Codes)
			values := func(scales graph.Value, to tensor.DType, key string) {
				o := ops.Dequantize8{Blocksize: c.Blocksize, Unsigned: unsigned, To: to}
				k.equal(k.g.Apply(o, codes, scales)[0], key)
			}
			if c.Nested {
				offset := k.input(c.Offset)
				inner, outer := ops.QuantizeTo8(ops.Quantize8{Blocksize: c.NestedBlocksize}, ops.Sub(absmax, offset))
				k.equal(inner, c.AbsmaxU8)
				k.equal(outer, c.NestedAbsmax)
				values(ops.Add(ops.DequantizeFrom8(inner, outer, c.NestedBlocksize, false), offset), read(c.Dequant).DType(), c.Dequant)
			} else {
				k.equal(absmax, c.Absmax)
			}
			for to, key := range c.dequantized() {
				if key != "" {
					values(absmax, to, key)
				}
			}
			k.run(d)
		})
	}
	t.Logf("%d cases of dynamic maps, of %d", ran, len(cases))
}
