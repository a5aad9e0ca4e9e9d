package evaluate

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"math"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/trainer"
)

// Perplexity is how well a model foretells a text.
type Perplexity struct {
	NLL         float64 `json:"nll"` // mean over the counted tokens, in nats
	StdErr      float64 `json:"stderr"`
	Perplexity  float64 `json:"perplexity"`
	BitsPerByte float64 `json:"bits_per_byte"` // does not depend on the tokenizer; of the bytes of the counted tokens' share of the text
	Top1        float64 `json:"top1_accuracy"` // share of tokens that were the likeliest
	Tokens      int     `json:"tokens"`        // that were counted
	Windows     int     `json:"windows"`
	Context     int     `json:"context"`
	Stride      int     `json:"stride"`

	units []unit // the windows
}

const (
	defaultContext = 2048
	maxText        = 1 << 30
)

// window is a stretch of tokens of which those from one on are counted.
type window struct{ lo, hi, from int }

// windows cuts n tokens so that every one but the first is counted once, with as many before it as the window holds. first is what is in
// front of every window, the BOS token: with it the first token of the text counts too.
func windows(n, context, stride, first int) (out []window) {
	counted := 1 - first // tokens before it are counted already, or cannot be
	for lo := 0; counted < n; lo += stride {
		hi := min(lo+context-first, n)
		out = append(out, window{lo, hi, max(counted, lo)})
		counted = hi
	}
	return out
}

func perplexity(ctx context.Context, w *trainer.Writer, o Options) (*Perplexity, error) {
	text, err := readText(o.FS, o.Text)
	if err != nil {
		return nil, inputError{err}
	}
	ids, bos, err := w.Tokens(text)
	if err != nil {
		return nil, inputError{err}
	}
	bytesPerToken := float64(len(text)) / float64(max(len(ids), 1))
	if o.Limit > 0 && o.Limit < len(ids) {
		ids = ids[:o.Limit]
	}
	var front []int32
	if id, ok := w.BOS(); ok && (o.BOS == "always" || o.BOS != "never" && bos) {
		front = []int32{id}
	}
	if len(ids)+len(front) < 2 {
		return nil, badFile("%s: has %d tokens, too few to foretell one", o.Text, len(ids))
	}
	r := &Perplexity{Context: o.Context, Stride: o.Stride}
	if most := w.Context(); r.Context == 0 {
		r.Context = min(defaultContext, most)
	} else if r.Context > most {
		return nil, badOption("context", "is %d, the context of the model is %d", r.Context, most)
	}
	if r.Stride == 0 || r.Stride > r.Context-len(front) {
		r.Stride = r.Context - len(front)
	}
	var sum, squares float64
	parts := windows(len(ids), r.Context, r.Stride, len(front))
	for i, p := range parts {
		req := trainer.Request{IDs: append(append([]int32{}, front...), ids[p.lo:p.hi]...), From: max(len(front)+p.from-p.lo, 1)}
		scored, err := w.Score(ctx, []trainer.Request{req})
		if err != nil {
			return nil, err
		}
		u := unit{n: float64(len(scored[0].LogProbs))}
		for j, lp := range scored[0].LogProbs {
			u.sum -= lp
			sum -= lp
			squares += lp * lp
			if scored[0].Greedy[j] {
				r.Top1++
			}
			r.Tokens++
		}
		r.units = append(r.units, u)
		o.Progress("perplexity", i+1, len(parts))
	}
	n := float64(r.Tokens)
	r.Windows, r.NLL, r.Top1 = len(parts), sum/n, r.Top1/n
	r.Perplexity, r.BitsPerByte = math.Exp(r.NLL), r.NLL/math.Ln2/bytesPerToken
	if n > 1 {
		r.StdErr = math.Sqrt(max(squares/n-r.NLL*r.NLL, 0) / (n - 1))
	}
	return r, nil
}

// readText reads a file, unpacked if its name ends in .gz.
func readText(fsys vfs.FS, name string) (string, error) {
	raw, err := vfs.ReadFile(fsys, name, maxText)
	if err != nil || !strings.HasSuffix(name, ".gz") {
		return string(raw), err
	}
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return "", badFile("%s: %w", name, err)
	}
	text, err := io.ReadAll(io.LimitReader(z, maxText+1))
	if err != nil {
		return "", badFile("%s: %w", name, err)
	}
	if len(text) > maxText {
		return "", badFile("%s: unpacks to more than %d bytes; evaluate a part of it", name, maxText)
	}
	return string(text), nil
}
