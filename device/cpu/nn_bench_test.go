package cpu

import (
	"context"
	"testing"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// BenchmarkNN times each kernel beside its decomposition; MB/s counts the bytes of inputs and outputs. Uploading the inputs is timed with both.
func BenchmarkNN(b *testing.B) {
	r := nnRand(20)
	const rows, n, vocab = 512, 1024, 8192
	for _, d := range []tensor.DType{tensor.F32, tensor.BF16} {
		x, g, w := nnRandom(r, d, rows, n), nnRandom(r, d, rows, n), nnRandom(r, d, n)
		z, labels := nnRandom(r, d, rows, vocab), nnLabels(r, vocab, rows)
		heads := nnRandom(r, d, 4, rows/4, 16, n/16)
		table := nnRandom(r, tensor.F32, 4, rows/4, n/32)
		key, sample, pos := nnTokens(1, rows)
		xd := nnRandom(r, d, 1, rows, n)
		lse, gl := nnRandom(r, tensor.F32, rows), nnRandom(r, tensor.F32, rows)
		head := nnRandom(r, d, vocab, n)
		for _, c := range []struct {
			op graph.Op
			in []*tensor.Tensor
		}{
			{ops.SoftmaxOp{}, []*tensor.Tensor{z}},
			{ops.SoftmaxGradOp{}, []*tensor.Tensor{x, g}},
			{ops.RMSNormOp{Eps: 1e-5}, []*tensor.Tensor{x, w}},
			{ops.RMSNormGradOp{Eps: 1e-5, NeedX: true, NeedW: true}, []*tensor.Tensor{x, w, g}},
			{ops.LayerNormOp{Eps: 1e-5}, []*tensor.Tensor{x, w, w}},
			{ops.LayerNormGradOp{Eps: 1e-5, NeedX: true, NeedW: true, NeedB: true}, []*tensor.Tensor{x, w, g}},
			{ops.RoPEOp{}, []*tensor.Tensor{heads, table, table}},
			{ops.RoPEOp{Interleaved: true}, []*tensor.Tensor{heads, table, table}},
			{ops.DropoutOp{Rate: 0.1}, []*tensor.Tensor{xd, key, sample, pos}},
			{ops.TokenLossOp{}, []*tensor.Tensor{z, labels}},
			{ops.TokenLossGradOp{}, []*tensor.Tensor{z, labels, lse, gl, nil}},
			{ops.LinearCrossEntropyOp{}, []*tensor.Tensor{x, head, labels}},
			{ops.LinearCrossEntropyGradOp{NeedX: true}, []*tensor.Tensor{x, head, labels, lse, gl, nil}},
			{ops.LinearCrossEntropyGradOp{NeedX: true, NeedW: true}, []*tensor.Tensor{x, head, labels, lse, gl, nil}},
		} {
			b.Run(d.String()+"/"+graph.OpText(c.op)+"/kernel", func(b *testing.B) { benchOp(b, c.op, c.in, false) })
			b.Run(d.String()+"/"+graph.OpText(c.op)+"/decomposed", func(b *testing.B) { benchOp(b, c.op, c.in, true) })
		}
	}
}

func benchOp(b *testing.B, op graph.Op, in []*tensor.Tensor, decomposed bool) {
	b.Helper()
	g := graph.New("bench")
	vals, feed := nnFeed(g, in)
	var outs []graph.Value
	if decomposed {
		outs = op.(graph.Decomposable).Decompose(vals)
	} else {
		outs = g.Apply(op, vals...)
	}
	dev := New(Options{})
	defer dev.Close()        //nolint:errcheck // nothing to lose
	var firsts []graph.Value // a view of each result, so that copying it to the host is not timed
	for _, v := range outs {
		firsts = append(firsts, ops.Slice(ops.Reshape(v, -1), 0, 0, 1))
	}
	p, err := plan.Compile(firsts, plan.Options{Device: dev})
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close() //nolint:errcheck // nothing to lose
	var bytes int64
	for _, v := range append(vals, outs...) {
		bytes += v.Type().Bytes()
	}
	b.SetBytes(bytes)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Run(context.Background(), feed); err != nil {
			b.Fatal(err)
		}
	}
}
