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

// batch is one graph of many cases: a device compiles what they need side by side, where one after the other takes most of a test's time.
type batch struct {
	t      *testing.T
	read   func(key string) *tensor.Tensor
	g      *graph.Graph
	inputs map[string]graph.Value
	feed   plan.Feed
	outs   []graph.Value
	cases  []*check
}

// check is a case, whose outputs must have the bytes of reference tensors.
type check struct {
	*batch
	name  string
	first int      // of its outputs
	wants []string // keys
}

func newBatch(t *testing.T, read func(key string) *tensor.Tensor) *batch {
	return &batch{t: t, read: read, g: graph.New("golden"), inputs: map[string]graph.Value{}, feed: plan.Feed{}}
}

// add begins a case.
func (b *batch) add(name string) *check {
	b.cases = append(b.cases, &check{batch: b, name: name, first: len(b.outs)})
	return b.cases[len(b.cases)-1]
}

func (b *batch) input(key string) graph.Value {
	v, ok := b.inputs[key]
	if !ok {
		x := b.read(key)
		v = b.g.Input(key, x.Type())
		b.inputs[key], b.feed[v] = v, x
	}
	return v
}

func (c *check) equal(v graph.Value, key string) {
	c.outs, c.wants = append(c.outs, v), append(c.wants, key)
}

// run computes all and compares each case in a test of its name.
func (b *batch) run(d device.Device) {
	b.t.Helper()
	out, err := plan.Eval(d, b.feed, b.outs...)
	require.NoError(b.t, err)
	for _, c := range b.cases {
		b.t.Run(c.name, func(t *testing.T) {
			for i, key := range c.wants {
				require.Equal(t, b.read(key).Bytes(), out[c.first+i].Bytes(), key)
			}
		})
	}
}

// Blockwise4 compares quantization to 4 bits, double quantization and dequantization on a device with the CUDA library, byte for byte.
func Blockwise4(t *testing.T, d device.Device) {
	var cases []blockCase
	read := Read(t, "blockwise4", &cases)
	all := newBatch(t, read)
	for _, c := range cases {
		scheme, ok := quant.ParseScheme(c.QuantType)
		require.True(t, ok, c.QuantType)
		k := all.add(c.Name)
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
	}
	all.run(d)
	t.Logf("%d cases", len(cases))
}

// Blockwise8 compares quantization to 8 bits with the two dynamic maps and its inverse on a device with the CUDA library, byte for byte.
// Other maps have no op; package quant covers them.
func Blockwise8(t *testing.T, d device.Device) {
	var cases []blockCase
	read := Read(t, "blockwise8", &cases)
	all := newBatch(t, read)
	for _, c := range cases {
		unsigned := c.Map == "map.dynamic_unsigned"
		if !unsigned && c.Map != "map.dynamic_signed" && c.Map != "" {
			continue
		}
		k := all.add(c.Name)
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
	}
	all.run(d)
	t.Logf("%d cases of dynamic maps, of %d", len(all.cases), len(cases))
}
