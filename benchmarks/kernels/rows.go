package main

import (
	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// bound is the limit that a row is held against.
type bound int

const (
	none bound = iota
	peakF32
	peakBF16 // of the instructions that this processor multiplies bfloat16 with
	peakInt8
	readBandwidth
	copyBandwidth // bytes read and written
)

// row is one kind of work.
type row struct {
	label string // as in RESULTS.md
	name  string // also the name in peers.py
	alike []string
	unit  string  // of amount in a second, or "ms"
	scale float64 // amounts of one call in that unit
	bound bound
	one   bool // on one thread only
	open  func(*cpu.Device) (*bench, error)
}

// rows is the table, in the order of its printing.
func rows() []row {
	var all []row
	for _, d := range []struct {
		name  string
		dtype tensor.DType
		unit  string
		bound bound
	}{{"f32", tensor.F32, "GFLOP/s", peakF32}, {"bf16", tensor.BF16, "GFLOP/s", peakBF16}, {"int8", tensor.I8, "GOP/s", peakInt8}} {
		for _, s := range []struct {
			name    string
			label   string
			m, n, k int
		}{{"512", "512³", 512, 512, 512}, {"1024", "1024³", 1024, 1024, 1024}, {"512x4096x4096", "512×4096×4096", 512, 4096, 4096}} {
			all = append(all, row{label: "GEMM " + d.name + " " + s.label, name: "gemm_" + d.name + "_" + s.name, unit: d.unit,
				scale: 2 * float64(s.m) * float64(s.n) * float64(s.k) / 1e9, bound: d.bound, open: gemmCase(d.dtype, s.m, s.n, s.k)})
		}
	}
	return append(append(append(all, quantRows()...), optimizerRows()...), stepRows()...)
}

// wide is the side of the square weights.
const wide = 4096

func quantRows() []row {
	const flops = 2. * wide * wide / 1e9
	const codes = wide*wide/2 + wide*wide/64 // with the scales of double quantization, but for the second ones
	const gb = 1e-9
	return []row{
		{label: "NF4 × f32, M = 512", name: "nf4_f32_m512", unit: "GFLOP/s", scale: 512 * flops, bound: peakF32, open: nf4Case(tensor.F32, 512, wide, 0)},
		{label: "NF4 × f32, M = 256", name: "nf4_f32_m256", unit: "GFLOP/s", scale: 256 * flops, bound: peakF32, open: nf4Case(tensor.F32, 256, wide, 0)},
		{label: "NF4 × f32, M = 56", name: "nf4_f32_m56", unit: "GFLOP/s", scale: 56 * flops, bound: peakF32, open: nf4Case(tensor.F32, 56, wide, 0)},
		{label: "NF4 × bf16, M = 512", name: "nf4_bf16_m512", unit: "GFLOP/s", scale: 512 * flops, bound: peakBF16, open: nf4Case(tensor.BF16, 512, wide, 0)},
		{label: "NF4 GEMV 1×4096×4096, f32", name: "nf4_gemv_f32", unit: "GB/s", scale: codes * gb, bound: readBandwidth, open: nf4Case(tensor.F32, 1, wide, rotate)},
		{label: "NF4 GEMV 1×4096×4096, bf16", name: "nf4_gemv_bf16", unit: "GB/s", scale: codes * gb, bound: readBandwidth, open: nf4Case(tensor.BF16, 1, wide, rotate)},
		{label: "NF4 dequantize 4096² to f32", name: "nf4_dequantize_f32", unit: "GB/s", scale: (codes + 4*wide*wide) * gb, bound: copyBandwidth, open: nf4Dequantize(tensor.F32, wide, rotate)},
		{label: "NF4 dequantize 4096² to bf16", name: "nf4_dequantize_bf16", unit: "GB/s", scale: (codes + 2*wide*wide) * gb, bound: copyBandwidth, open: nf4Dequantize(tensor.BF16, wide, rotate)},
		{label: "8-bit dequantize 4096² to f32", name: "int8_dequantize_f32", unit: "GB/s", scale: (5*wide*wide + wide*wide/64) * gb, bound: copyBandwidth, open: dequantize8},
		{label: "NF4 quantize 4096² of f32", name: "nf4_quantize_f32", unit: "ms", scale: (4*wide*wide + codes) * gb, bound: copyBandwidth, open: nf4Quantize},
		{label: "8-bit quantize 4096² of f32", name: "int8_quantize_f32", unit: "ms", scale: (5*wide*wide + wide*wide/64) * gb, bound: copyBandwidth, open: quantize8},
	}
}

func optimizerRows() []row {
	const n = optimizerSize * 1e-9
	return []row{
		{label: "AdamW 8-bit, 1e7 parameters", name: "adamw8bit", unit: "ms", scale: 16 * n, bound: copyBandwidth, open: adamCase(true, optimizerSize, rotate)},
		{label: "AdamW 32-bit, 1e7 parameters", name: "adamw32bit", unit: "ms", scale: 28 * n, bound: copyBandwidth, open: adamCase(false, optimizerSize, rotate)},
	}
}

func stepRows() []row {
	const tokens = 8 * 256
	return []row{
		{label: "attention forward 1×2048, 8 heads of 64, causal", name: "attention_forward", unit: "GFLOP/s", scale: attentionFlops, bound: peakF32, open: attentionCase(attentionTokens, false)},
		{label: "attention forward and backward, the same", name: "attention_both", unit: "GFLOP/s", scale: 3.5 * attentionFlops, bound: peakF32, open: attentionCase(attentionTokens, true)},
		{label: "MLP 784-512-10 batch 64 step", name: "mlp", unit: "ms", open: mlpCase},
		{label: "tiny Llama, full AdamW f32", name: "llama_full_f32", alike: []string{"llama_full_f32_compiled"}, unit: "tok/s", scale: tokens, open: llamaCase(fullF32)},
		{label: "LoRA r8, float32 weights, f32", name: "llama_lora_f32", unit: "tok/s", scale: tokens, open: llamaCase(loraF32)},
		{label: "LoRA r8 on NF4, f32", name: "llama_lora_nf4_f32", alike: []string{"llama_lora_f32"}, unit: "tok/s", scale: tokens, open: llamaCase(loraNF4)},
		{label: "LoRA r8 on NF4, bf16", name: "llama_lora_nf4_bf16", unit: "tok/s", scale: tokens, open: llamaCase(loraNF4BF16)},
		{label: "SmolLM2-135M NF4, prompt of 512", name: "smollm2_prompt", unit: "tok/s", scale: promptTokens, open: smolCase(true)},
		{label: "SmolLM2-135M NF4, 128 tokens written", name: "smollm2_text", unit: "tok/s", scale: textTokens, open: smolCase(false)},
		{label: "stories260K generation, one core", name: "stories260K", unit: "tok/s", scale: storyTokens, one: true, open: storiesCase},
	}
}
