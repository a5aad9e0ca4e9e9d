package ops

import (
	"fmt"
	"math"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Documents lists the documents of packed rows, as kernels of attention take them that know a document by its length and its place. All
// layers of a kind share one list.
//
// Input: doc_start (B, T) i32, where in its row the document of each token begins. Outputs:
//
//   - lengths (Slots+1) i32: tokens of each document, rows one after another, then zeros; the last is 1 where there is no list, else 0;
//   - offsets (3, Slots+2) i64: where each document begins in queries (B, T, Heads, HeadDim), in keys (B, T, KeyHeads, HeadDim) and in
//     numbers (B, T, Heads), in elements; what lies behind the last document is their end.
//
// There is no list, and both are zero otherwise, where the rows have more documents than Slots, a document has more than Longest tokens, or
// doc_start is no division of rows into documents.
type Documents struct {
	Slots, Longest           int32 // Slots is even, so that rows of offsets are aligned to 16 bytes
	Heads, KeyHeads, HeadDim int32
}

// DocumentBounds are promises about packed rows, given by who packed them; zero is none. They choose how much room is made, so
// rows that break them are computed right, but slower.
type DocumentBounds struct {
	Most    int // documents in all rows of a batch, padding behind the documents of a row counted as one
	Longest int // tokens of a document
}

// MaxDocuments is the most documents that a list has room for.
const MaxDocuments = 1024

const (
	documentTokens = 320 // a document for every so many tokens, where nothing is promised: room that is not used costs time
	documentTile   = 128 // Longest is a multiple of it, so that few kernels serve
)

var _ graph.Decomposable = Documents{}

// listFor is the list that an attention of q and k takes, if there is one: libraries take packed rows of 16-bit values whose
// queries are their keys.
func (b DocumentBounds) listFor(op Attention, d AttentionDims, dtype tensor.DType) (list Documents, ok bool) {
	if !op.Causal || op.HeadMajor || d.Tq != d.Tk || (dtype != tensor.F16 && dtype != tensor.BF16) {
		return list, false
	}
	// Few batches or none would have a list: a row is a document at least, and a bound leaves room for a quarter more.
	if d.B > MaxDocuments || b.Most > MaxDocuments*5/4 {
		return list, false
	}
	most, longest := b.Most, b.Longest
	if most <= 0 {
		most = d.B * max((d.Tq+documentTokens-1)/documentTokens, 2)
	}
	if longest <= 0 || longest > d.Tq {
		longest = d.Tq
	}
	most = min(most, d.B*d.Tq, MaxDocuments)
	longest = min((longest+documentTile-1)/documentTile*documentTile, d.Tq)
	list = Documents{Slots: int32((most + 1) / 2 * 2), Longest: int32(longest), Heads: int32(d.Hq), KeyHeads: int32(d.Hkv), HeadDim: int32(d.D)}
	return list, int64(d.B)*int64(d.Tq) <= math.MaxInt32
}

// Name implements graph.Op.
func (Documents) Name() string { return "documents" }

// NumOut is the number of outputs: lengths and offsets.
func (Documents) NumOut() int { return 2 }

// Infer implements graph.Op.
func (o Documents) Infer(in []tensor.Type) ([]tensor.Type, error) {
	if len(in) != 1 || in[0].DType != tensor.I32 || in[0].Rank() != 2 {
		return nil, fmt.Errorf("takes doc_start, i32 (B, T), got %v", in)
	}
	if in[0].Dim(0) < 1 || in[0].Dim(1) < 1 || int64(in[0].Dim(0))*int64(in[0].Dim(1)) > math.MaxInt32 {
		return nil, fmt.Errorf("doc_start %v: must have from 1 to 2^31-1 tokens", in[0].Shape)
	}
	if o.Slots < 2 || o.Slots > MaxDocuments || o.Slots%2 != 0 {
		return nil, fmt.Errorf("%d slots: must be an even number from 2 to %d", o.Slots, MaxDocuments)
	}
	if o.Longest < 1 || o.Heads < 1 || o.KeyHeads < 1 || o.HeadDim < 1 {
		return nil, fmt.Errorf("the longest document (%d), heads (%d), key heads (%d) and head size (%d) must be positive", o.Longest, o.Heads, o.KeyHeads, o.HeadDim)
	}
	return []tensor.Type{tensor.T(tensor.I32, int(o.Slots)+1), tensor.T(tensor.I64, 3, int(o.Slots)+2)}, nil
}

// Steps are the elements that a token has in queries, keys and numbers.
func (o Documents) Steps() [3]int64 {
	return [3]int64{int64(o.Heads) * int64(o.HeadDim), int64(o.KeyHeads) * int64(o.HeadDim), int64(o.Heads)}
}

// Decompose implements graph.Decomposable.
func (o Documents) Decompose(in []Value) []Value {
	doc, g := in[0], in[0].Graph()
	b, t := doc.Dim(0), doc.Dim(1)
	n, slots := b*t, int(o.Slots)
	at := BroadcastTo(Iota(g, tensor.T(tensor.I32, 1, t), 1), b, t)
	start := Equal(doc, at)
	same := And(Equal(doc, shifted(doc, 1, 1, false, -1)), Greater(at, Scalar(at, 0)))
	odd := MaxOf(Cast(Not(Or(start, same)), tensor.I32))

	first := Reshape(start, n)
	count := CumSum(Cast(first, tensor.I32), 0, Cumulative{})
	place := Where(first, AddScalar(count, -1), Scalar(count, -1)) // what has none is dropped
	end := BroadcastTo(Fill(g, tensor.I32, float64(n)), slots+2)
	begin := ScatterElements(end, 0, place, Iota(g, tensor.T(tensor.I32, n), 0), ScatterSet)
	lengths := Sub(Slice(begin, 0, 1, slots+1), Slice(begin, 0, 0, slots))
	many, long := MaxOf(count), MaxOf(lengths)
	none := Or(Greater(odd, Scalar(odd, 0)), Or(Greater(many, Scalar(many, float64(slots))), Greater(long, Scalar(long, float64(o.Longest)))))

	lengths, begin = Where(none, Scalar(lengths, 0), lengths), Cast(Where(none, Scalar(begin, 0), begin), tensor.I64)
	var offsets []Value
	for _, step := range o.Steps() {
		offsets = append(offsets, Reshape(Scale(begin, float64(step)), 1, slots+2))
	}
	return []Value{Concat(0, lengths, Reshape(Cast(none, tensor.I32), 1)), Concat(0, offsets...)}
}
