package verify

import (
	"fmt"
	"math"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// outcome is what became of one key.
type outcome struct {
	status   Status
	abs, rel float64
	limit    float64
	reason   string
}

func (o outcome) tensor(name string) Tensor {
	t := Tensor{Name: name, Status: o.status, MaxAbs: Number(o.abs), MaxRel: Number(o.rel), Limit: Number(o.limit), Reason: o.reason}
	if o.limit == 0 { // never compared
		t.MaxAbs, t.MaxRel, t.Limit = Number(math.NaN()), Number(math.NaN()), Number(math.NaN())
	}
	return t
}

// limitOf is the largest difference allowed for a kind of number.
func limitOf(kind string) float64 {
	switch {
	case kind == "loss":
		return lossLimit
	case strings.HasPrefix(kind, gradPrefix):
		return gradLimit
	}
	return logitLimit
}

// compare records the difference of a key from what was computed. kind is the key without its prefix; per-token kinds leave out
// what the reference does not hold.
func (r *run) compare(key, kind string, b *batch, got *tensor.Tensor) error {
	typ, _ := r.ref.file.Type(key)
	expect, keep := got.Type().Shape, func(int) bool { return true }
	index := func(i int) int { return i }
	switch kind {
	case "logits":
		vocab := expect.Dim(2)
		keep = func(i int) bool { return b.real[i/vocab] }
	case routerLogits:
		experts := expect.Dim(-1)
		keep = func(i int) bool { return b.real[i/experts%len(b.real)] }
	case "per_token_loss":
		n := b.tokens - 1
		expect = tensor.S(b.rows, n)
		index = func(i int) int { return i/n*b.tokens + i%n }
	}
	if !typ.DType.IsFloat() || !sameShape(kind, typ.Shape, expect) {
		r.refuse(key, fmt.Sprintf("the file has %v, the model gives %v", typ, expect))
		return nil
	}
	want, err := r.ref.file.Read(key)
	if err != nil {
		return &InputError{err}
	}
	o := difference(want, got, index, keep)
	o.limit = limitOf(kind) * r.Tol
	if r.model.scheme == "int8" {
		o.limit *= int8Limit
	}
	if o.reason == "" && o.abs > o.limit {
		o.reason = fmt.Sprintf("the difference is %.3g times the limit", o.abs/o.limit)
	}
	o.status = Checked
	if o.reason != "" {
		o.status = Failed
	}
	r.found[key] = o
	return nil
}

// sameShape compares shapes; a loss may be a number or one element, and logits may leave out axes of extent 1.
func sameShape(kind string, file, own tensor.Shape) bool {
	if kind == "loss" {
		return file.Size() == 1
	}
	if kind == "logits" && file.Rank() >= 2 && own.Dim(0) == 1 && file.Rank() == own.Rank()-1 {
		return file.Dim(0) == own.Dim(1) && file.Dim(1) == own.Dim(2)
	}
	return file == own
}

// difference is the largest one, absolute and relative to the largest number of the reference. What is not finite on one side
// differs without bound.
func difference(want, got *tensor.Tensor, index func(int) int, keep func(int) bool) outcome {
	var o outcome
	largest, compared := 0.0, 0
	for i := range want.Type().Size() {
		if !keep(i) {
			continue
		}
		compared++
		w, g := want.At(i), got.At(index(i))
		d := math.Abs(w - g)
		if math.IsNaN(d) || math.IsInf(d, 0) {
			d = math.Inf(1)
			if o.reason == "" {
				o.reason = fmt.Sprintf("element %d is %v, the file has %v", i, g, w)
			}
		}
		o.abs, largest = math.Max(o.abs, d), math.Max(largest, math.Abs(w))
	}
	switch {
	case compared == 0:
		o.reason = "it has no element to compare"
	case largest > 0:
		o.rel = o.abs / largest
	case o.abs > 0:
		o.rel = math.Inf(1)
	}
	return o
}
