package main

import (
	"fmt"
	"math"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Run with -device cuda:cudnn=off, these rows time the own kernels.
func init() {
	llama := attention{dtype: tensor.BF16, hq: 32, hkv: 8, d: 128}
	dense, packed, mixed := llama, llama, llama
	dense.detail, dense.b, dense.t = "causal GQA 32/8, d 128, b2 s4096", 2, 4096
	packed.detail, packed.b, packed.t, packed.docs = "16×512 packed documents", 2, 4096, []int{512} // rows as fine-tuning has them
	mixed.detail, mixed.b, mixed.t, mixed.docs = "b2 s4096, documents of 64 to 2048", 2, 4096, []int{64, 2048, 333, 700, 951}
	exact := attention{detail: "causal GQA 9/3, d 64, b4 s1024, float32", dtype: tensor.F32, b: 4, t: 1024, hq: 9, hkv: 3, d: 64}
	for _, a := range []attention{dense, packed, mixed, exact} {
		add(a.forward(), a.backward())
	}
	add(mixed.listing())
	for _, kv := range []int{512, 4096} {
		add(generateRow(llama, 8192, kv))
	}
}

// attention is causal attention over rows of documents.
type attention struct {
	detail           string
	b, t, hq, hkv, d int
	dtype            tensor.DType
	docs             []int // lengths that repeat along a row; nil: one document a row
}

func (a attention) op() ops.Attention {
	return ops.Attention{Scale: float32(1 / math.Sqrt(float64(a.d))), Causal: true}
}

// starts is doc_start, absent without documents, and the (query, key) pairs that are seen.
func (a attention) starts() (doc operand, pairs float64) {
	if a.docs == nil {
		return operand{}, float64(a.b) * float64(a.t) * float64(a.t) / 2
	}
	var at []int32
	for range a.b {
		for i, n := 0, 0; i < a.t; n++ {
			length := min(a.docs[n%len(a.docs)], a.t-i)
			for range length {
				at = append(at, int32(i))
			}
			pairs += float64(length) * float64(length) / 2
			i += length
		}
	}
	return operand{t: tensor.T(tensor.I32, a.b, a.t), ints: at}, pairs
}

func (a attention) qkv() (q, k operand) {
	return floats(a.dtype, a.b, a.t, a.hq, a.d), floats(a.dtype, a.b, a.t, a.hkv, a.d)
}

func (a attention) forward() Row {
	doc, pairs := a.starts()
	q, k := a.qkv()
	return Row{Work: "attention", Detail: a.detail + ", forward", Flops: 4 * pairs * float64(a.hq*a.d), Make: func(r *rig) (*work, error) {
		op, list, err := a.list(r, doc)
		if err != nil {
			return nil, err
		}
		return r.op(op, append([]operand{q, k, k, doc, {}, {}}, list...)...)
	}}
}

// backward is the gradient from outputs that a forward pass made.
func (a attention) backward() Row {
	doc, pairs := a.starts()
	q, k := a.qkv()
	return Row{Work: "attention", Detail: a.detail + ", backward", Flops: 10 * pairs * float64(a.hq*a.d), Make: func(r *rig) (*work, error) {
		op, list, err := a.list(r, doc)
		if err != nil {
			return nil, err
		}
		lse := filled(large, tensor.F32, a.b, a.hq, a.t) // so that probabilities are finite, whatever q and k
		return r.op(ops.AttentionGrad(op), append([]operand{q, k, k, q, lse, q, doc, {}, {}, {}}, list...)...)
	}}
}

// attend is the attention as a model builds it, with bounds as a loader has them.
func (a attention) attend(doc operand) (*graph.Node, error) {
	g := graph.New("attention")
	q, k := a.qkv()
	o := ops.AttendOptions{Scale: a.op().Scale, Causal: true}
	if a.docs != nil {
		o.DocStart = g.Input("doc_start", doc.t)
		count := 0
		for i, at := range doc.ints {
			if int(at) == i%a.t {
				count++
			}
		}
		o.Bounds = ops.DocumentBounds{Most: count + count/4, Longest: slices.Max(a.docs)}
	}
	kv := g.Input("k", k.t)
	y := ops.Attend(g.Input("q", q.t), kv, kv, o)
	return y.Node(), g.Err()
}

// list is the attention and its list of documents, absent where it takes none.
func (a attention) list(r *rig, doc operand) (op ops.Attention, list []operand, err error) {
	n, err := a.attend(doc)
	if err != nil {
		return op, nil, err
	}
	op, list = n.Op.(ops.Attention), make([]operand, 2)
	if n.In[6].Absent() {
		return op, list, nil
	}
	docs := n.In[6].Node()
	k, err := r.dev.Kernel(device.Spec{Op: docs.Op, In: docs.InTypes(), Out: []tensor.Type{n.In[6].Type(), n.In[7].Type()}})
	if err != nil {
		return op, nil, err
	}
	in, err := r.operand(doc)
	if err != nil {
		return op, nil, err
	}
	out := make([]device.Ptr, 2)
	for i := range list {
		list[i].t = n.In[6+i].Type()
		if out[i], err = r.alloc(list[i].t.Bytes()); err != nil {
			return op, nil, err
		}
		list[i].made = out[i]
	}
	return op, list, k.Launch(r.stream, []device.Ptr{in}, out, device.Ptr{})
}

// listing is the list of documents of a step.
func (a attention) listing() Row {
	doc, _ := a.starts()
	return Row{Work: "documents", Detail: a.detail, Bytes: float64(doc.t.Bytes()), Make: func(r *rig) (*work, error) {
		n, err := a.attend(doc)
		if err != nil {
			return nil, err
		}
		return r.op(n.In[6].Node().Op, doc)
	}}
}

// generateRow is a step of generation: one query over a cache of which kv keys are filled.
func generateRow(a attention, most, kv int) Row {
	q := floats(a.dtype, 1, 1, a.hq, a.d)
	cache := floats(a.dtype, 1, a.hkv, most, a.d)
	op := a.op()
	op.HeadMajor = true
	scalar := func(x int) operand { return operand{t: tensor.T(tensor.I32, 1), ints: []int32{int32(x)}} }
	return Row{Work: "attention", Detail: fmt.Sprintf("one query over %d keys, GQA 32/8, d 128", kv), Bytes: float64(2 * kv * a.hkv * a.d * 2),
		Make: func(r *rig) (*work, error) {
			return r.op(graph.Op(op), q, cache, cache, operand{}, scalar(kv-1), scalar(kv), operand{}, operand{})
		}}
}
