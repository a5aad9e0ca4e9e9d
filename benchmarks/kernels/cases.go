package main

import (
	"context"
	"errors"
	"math/rand/v2"

	"github.com/bitsandbyes/bitsandbyes/device/cpu"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// random is a tensor of normal numbers, or of all bytes for int8. Multiplying zeros would take less power, and so run faster.
func random(d tensor.DType, dims ...int) *tensor.Tensor {
	r := rand.New(rand.NewPCG(1, uint64(len(dims))))
	x := tensor.New(tensor.T(d, dims...))
	if d == tensor.F32 {
		for i, v := 0, tensor.View[float32](x.Bytes()); i < len(v); i++ {
			v[i] = float32(r.NormFloat64())
		}
		return x
	}
	for i := range x.Type().Size() {
		if d == tensor.I8 {
			x.Set(i, float64(r.IntN(255)-127))
		} else {
			x.Set(i, r.NormFloat64())
		}
	}
	return x
}

// launchCase runs op on random numbers.
func launchCase(op graph.Op, dims ...int) func(*cpu.Device) (*bench, error) {
	return func(dev *cpu.Device) (*bench, error) {
		return newLaunches(dev, op, []*tensor.Tensor{random(tensor.F32, dims...)}, 0)
	}
}

// rmsNormCase has a weight of ones: the kernel works in place, and powers of others would soon be denormal.
func rmsNormCase(rows, cols int) func(*cpu.Device) (*bench, error) {
	return func(dev *cpu.Device) (*bench, error) {
		w := tensor.New(tensor.T(tensor.F32, cols))
		for i := range cols {
			w.Set(i, 1)
		}
		return newLaunches(dev, ops.RMSNormOp{Eps: 1e-6}, []*tensor.Tensor{random(tensor.F32, rows, cols), w}, 0)
	}
}

func gemmCase(d tensor.DType, m, n, k int) func(*cpu.Device) (*bench, error) {
	return func(dev *cpu.Device) (*bench, error) {
		in := []*tensor.Tensor{random(d, m, k), random(d, k, n)}
		if d == tensor.I8 {
			return newLaunches(dev, ops.Int8MatMul{}, in, 0)
		}
		return newLaunches(dev, ops.MatMul{}, in, 0)
	}
}

const blocksize = 64

// nf4Weight is a square weight in NF4 with double quantization: the operands of the ops that take one.
func nf4Weight(side int) ([]*tensor.Tensor, error) {
	st, err := quant.Quantize(random(tensor.F32, side, side), quant.Config{Scheme: quant.NF4, Blocksize: blocksize, Double: true})
	if err != nil {
		return nil, err
	}
	var parts []*tensor.Tensor
	var errs []error
	add := func(d tensor.DType, b []byte, dims ...int) {
		x, err := tensor.FromBytes(tensor.T(d, dims...), b)
		parts, errs = append(parts, x), append(errs, err)
	}
	add(tensor.U8, st.Codes, len(st.Codes), 1)
	add(tensor.U8, st.AbsmaxU8, len(st.AbsmaxU8))
	add(tensor.F32, tensor.AsBytes(st.NestedAbsmax), len(st.NestedAbsmax))
	return append(parts, tensor.Scalar(st.NestedOffset)), errors.Join(errs...)
}

// nf4Case multiplies m rows by a weight, or in turn by weights of total bytes.
func nf4Case(d tensor.DType, m, side int, total int64) func(*cpu.Device) (*bench, error) {
	return func(dev *cpu.Device) (*bench, error) {
		w, err := nf4Weight(side)
		if err != nil {
			return nil, err
		}
		op := ops.QuantMatMul{Scheme: quant.NF4, Blocksize: blocksize, N: side, K: side, Nested: true}
		return newLaunches(dev, op, append([]*tensor.Tensor{random(d, m, side)}, w...), total, 1, 2, 3)
	}
}

func nf4Dequantize(to tensor.DType, side int, total int64) func(*cpu.Device) (*bench, error) {
	return func(dev *cpu.Device) (*bench, error) {
		w, err := nf4Weight(side)
		if err != nil {
			return nil, err
		}
		op := ops.Dequantize{Scheme: quant.NF4, Blocksize: blocksize, Rows: side, Cols: side, To: to, Nested: true}
		return newLaunches(dev, op, w, total, 0, 1, 2)
	}
}

// blocksize8 is what bitsandbytes' quantize_blockwise takes unasked.
const blocksize8 = 4096

func dequantize8(dev *cpu.Device) (*bench, error) {
	codes := tensor.New(tensor.T(tensor.U8, wide, wide))
	r := rand.New(rand.NewPCG(2, 2))
	for i := range codes.Bytes() {
		codes.Bytes()[i] = byte(r.IntN(256))
	}
	in := []*tensor.Tensor{codes, random(tensor.F32, wide*wide/blocksize8)}
	return newLaunches(dev, ops.Dequantize8{Blocksize: blocksize8, To: tensor.F32}, in, rotate, 0, 1)
}

func quantize8(dev *cpu.Device) (*bench, error) {
	return newLaunches(dev, ops.Quantize8{Blocksize: blocksize8}, []*tensor.Tensor{random(tensor.F32, wide, wide)}, rotate, 0)
}

func nf4Quantize(dev *cpu.Device) (*bench, error) {
	op := ops.Quantize4{Scheme: quant.NF4, Blocksize: blocksize}
	return newLaunches(dev, op, []*tensor.Tensor{random(tensor.F32, wide, wide)}, rotate, 0)
}

// optimizerSize is the parameters of an update.
const optimizerSize = 10_000_000

// adamCase updates one tensor of n elements, with states that begin at zero; gradients stay as they are.
func adamCase(eight bool, n int, total int64) func(*cpu.Device) (*bench, error) {
	return func(dev *cpu.Device) (*bench, error) {
		l := ops.NewLayout(n)
		h := ops.Hyper{Rule: ops.AdamTorch, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.01}
		grad := random(tensor.F32, l.Total)
		for i, v := 0, tensor.View[float32](grad.Bytes()); i < len(v); i++ {
			v[i] *= 1e-2
		}
		in := []*tensor.Tensor{random(tensor.F32, l.Total), grad}
		states := ops.Update{Hyper: h, Layout: l}.States()
		if eight {
			h.Rule = ops.Adam
			states = ops.Update8bit{Hyper: h, Layout: l}.States()
		}
		vary := []int{0, 1}
		for _, s := range states {
			vary = append(vary, len(in))
			in = append(in, tensor.New(s.Type))
		}
		in = append(in, tensor.Scalar[float32](1e-3), tensor.Scalar[float32](10), tensor.Scalar[float32](1), tensor.Scalar[float32](1))
		if eight {
			return newLaunches(dev, ops.Update8bit{Hyper: h, Layout: l}, in, total, vary...)
		}
		return newLaunches(dev, ops.Update{Hyper: h, Layout: l}, in, total, vary...)
	}
}

// The attention row: one row of so many tokens.
const (
	attentionTokens = 2048
	attentionHeads  = 8
	attentionDim    = 64
	// two products of every visible pair
	attentionFlops = 4 * attentionDim * attentionHeads * attentionTokens * (attentionTokens + 1) / 2 * 1e-9
)

// attentionCase is the forward kernel on one row of tokens, or it and the backward one.
func attentionCase(tokens int, both bool) func(*cpu.Device) (*bench, error) {
	return func(dev *cpu.Device) (*bench, error) {
		x := random(tensor.F32, 1, tokens, attentionHeads, attentionDim)
		op := ops.Attention{Scale: 0.125, Causal: true}
		forward, err := newLaunches(dev, op, []*tensor.Tensor{x, x, x, nil, nil, nil, nil, nil}, 0)
		if err != nil || !both {
			return forward, err
		}
		lse := tensor.New(tensor.T(tensor.F32, 1, attentionHeads, tokens))
		in := []*tensor.Tensor{x, x, x, x, lse, x, nil, nil, nil, nil, nil, nil}
		backward, err := newLaunches(dev, ops.AttentionGrad(op), in, 0)
		if err != nil {
			return nil, errors.Join(err, forward.close())
		}
		return &bench{
			call:  func(ctx context.Context) error { return errors.Join(forward.call(ctx), backward.call(ctx)) },
			close: func() error { return errors.Join(forward.close(), backward.close()) },
		}, nil
	}
}
