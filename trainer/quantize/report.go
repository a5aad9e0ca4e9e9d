package quantize

import (
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"

	"github.com/bitsandbyes/bitsandbyes/quant"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Report says what became of a model. It marshals to JSON.
type Report struct {
	Source string  `json:"source"`
	Out    string  `json:"out"`
	Scheme string  `json:"scheme"`
	Method string  `json:"method"`
	Layers []Layer `json:"layers"` // quantized weights
	Kept   []Kept  `json:"kept"`   // tensors that stayed as they were
	Total  Total   `json:"total"`

	// Before and After are the evaluations of the model, where data was given.
	Before *Evaluation `json:"before,omitempty"`
	After  *Evaluation `json:"after,omitempty"`
}

// Evaluation is the loss of a model on data.
type Evaluation struct {
	Loss       float64 `json:"loss"`
	Perplexity float64 `json:"perplexity"`
	Tokens     int64   `json:"tokens"`
}

// Layer compares a weight W with what its codes stand for, Q.
type Layer struct {
	Name     string  `json:"name"`
	Shape    []int   `json:"shape"`
	Bits     float64 `json:"bits_per_weight"`   // stored, scales included
	RelError float64 `json:"relative_error"`    // |W-Q| / |W| in the Frobenius norm; 0 for a zero weight
	MaxAbs   float64 `json:"max_abs_error"`     // largest |w-q|
	Cosine   float64 `json:"cosine_similarity"` // of W and Q as vectors; 1 for a zero weight

	// Of calibration: |X·(W-Q)^T| / |X·W^T| on inputs X of the layer, and the same for round-to-nearest.
	OutputError float64 `json:"output_error,omitempty"`
	Nearest     float64 `json:"output_error_nearest,omitempty"`
	Note        string  `json:"note,omitempty"`
	Input       *Grid   `json:"input,omitempty"` // by the methods that observe inputs

	bytes, elements    int64
	diff2, norm2, dot2 float64 // squares of |W-Q|, |W|, |Q|
	inner              float64
}

// Grid is the range that a method chose for the inputs of a layer, and the 8-bit asymmetric grid over it that static quantization of
// activations would take: x = Step·(code - Zero).
type Grid struct {
	Lo   float32 `json:"lo"`
	Hi   float32 `json:"hi"`
	Step float32 `json:"step"`
	Zero uint8   `json:"zero"`
}

// Kept is a tensor that was not quantized.
type Kept struct {
	Name  string `json:"name"`
	DType string `json:"dtype"`
	Bytes int64  `json:"bytes"`
}

// Total sums up. Errors are over all quantized weights as one vector.
type Total struct {
	Quantized   int64   `json:"quantized_elements"`
	Kept        int64   `json:"kept_elements"`
	BytesBefore int64   `json:"bytes_before"` // of all tensors
	BytesAfter  int64   `json:"bytes_after"`
	Bits        float64 `json:"bits_per_weight"` // of the quantized weights
	RelError    float64 `json:"relative_error"`
	MaxAbs      float64 `json:"max_abs_error"`
	Cosine      float64 `json:"cosine_similarity"`
}

// chunk is how many elements are compared at once.
const chunk = 1 << 16

// compare measures the error of a quantized weight. unscale takes out of its elements what other layers make up for; nil: nothing.
func compare(name string, w *tensor.Tensor, s *quant.State, stored int64, unscale func(x []float32, from int)) (Layer, error) {
	n := w.Shape().Size()
	l := Layer{Name: name, Shape: w.Shape().Dims(), bytes: stored, elements: int64(n)}
	src := quant.From(w)
	x, q := make([]float32, min(n, chunk)), make([]float32, min(n, chunk))
	for lo := 0; lo < n; lo += chunk {
		m := min(chunk, n-lo)
		if err := src.Read(x[:m], lo); err != nil {
			return l, err
		}
		if err := s.Read(q[:m], lo); err != nil {
			return l, err
		}
		if unscale != nil {
			unscale(q[:m], lo)
		}
		l.add(x[:m], q[:m])
	}
	if n > 0 {
		l.Bits = 8 * float64(stored) / float64(n)
	}
	l.RelError, l.Cosine = ratios(l.diff2, l.norm2, l.dot2, l.inner)
	return l, nil
}

func (l *Layer) add(x, q []float32) {
	for i, a := range x {
		w, v := float64(a), float64(q[i])
		d := w - v
		l.diff2 += d * d
		l.norm2 += w * w
		l.dot2 += v * v
		l.inner += w * v
		l.MaxAbs = max(l.MaxAbs, math.Abs(d))
	}
}

func ratios(diff2, w2, q2, inner float64) (rel, cosine float64) {
	if w2 == 0 {
		return 0, 1
	}
	if q2 == 0 {
		return math.Sqrt(diff2 / w2), 0
	}
	return math.Sqrt(diff2 / w2), inner / math.Sqrt(w2*q2)
}

func (r *Report) total() {
	var diff2, w2, q2, inner float64
	var bytes int64
	t := &r.Total
	for _, l := range r.Layers {
		t.Quantized += l.elements
		bytes += l.bytes
		t.MaxAbs = max(t.MaxAbs, l.MaxAbs)
		diff2, w2, q2, inner = diff2+l.diff2, w2+l.norm2, q2+l.dot2, inner+l.inner
	}
	if t.Quantized > 0 {
		t.Bits = 8 * float64(bytes) / float64(t.Quantized)
	}
	t.RelError, t.Cosine = ratios(diff2, w2, q2, inner)
}

// WriteTable writes a line for each quantized weight and the totals.
func (r *Report) WriteTable(w io.Writer) error {
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var b strings.Builder
	b.WriteString("WEIGHT\tSHAPE\tBITS\tREL ERROR\tMAX ABS\tCOSINE\tNOTE\n")
	for _, l := range r.Layers {
		note := printable(l.Note)
		if l.Nearest > 0 {
			note = strings.TrimSuffix(fmt.Sprintf("output error %.3e, rounded to nearest %.3e; %s", l.OutputError, l.Nearest, note), "; ")
		}
		if g := l.Input; g != nil {
			note = strings.TrimPrefix(fmt.Sprintf("%s; inputs %.4g to %.4g", note, g.Lo, g.Hi), "; ")
		}
		fmt.Fprintf(&b, "%s\t%v\t%.3f\t%.3e\t%.2e\t%.6f\t%s\n", printable(l.Name), l.Shape, l.Bits, l.RelError, l.MaxAbs, l.Cosine, note)
	}
	t := r.Total
	fmt.Fprintf(&b, "all quantized\t%d\t%.3f\t%.3e\t%.2e\t%.6f\t\n", t.Quantized, t.Bits, t.RelError, t.MaxAbs, t.Cosine)
	if _, err := io.WriteString(tab, b.String()); err != nil {
		return err
	}
	if err := tab.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%d tensors of %d elements kept; %d bytes before, %d after (%.1f%%)\n", len(r.Kept), t.Kept, t.BytesBefore, t.BytesAfter,
		100*float64(t.BytesAfter)/float64(max(t.BytesBefore, 1)))
	if err == nil && r.Before != nil && r.After != nil {
		_, err = fmt.Fprintf(w, "perplexity on %d tokens: %.4f before, %.4f after\n", r.After.Tokens, r.Before.Perplexity, r.After.Perplexity)
	}
	return err
}

// printable keeps a name from a file from steering the terminal or the table.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}
