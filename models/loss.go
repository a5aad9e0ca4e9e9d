package models

import (
	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// Logits maps hidden activations (..., hidden) to float32 scores (..., vocabulary).
func (m *Model) Logits(h graph.Value) graph.Value {
	if !h.Valid() {
		return h
	}
	defer h.Graph().Scope("lm_head")()
	w, _ := m.headWeight(h)
	return m.scores(h, w)
}

// scores is Logits with the weight of the head; where it has none that stands for itself, w is absent.
func (m *Model) scores(h, w graph.Value) graph.Value {
	var y graph.Value
	if w.Absent() {
		y = m.Head.Forward(h)
	} else {
		y = ops.Linear(h, w)
	}
	y = ops.Cast(y, tensor.F32)
	if c := m.config.LogitCap; c > 0 {
		y = ops.Scale(ops.Tanh(ops.Scale(y, 1/c)), c)
	}
	return y
}

// headWeight is the weight of a plain head, (vocabulary, hidden) in h's dtype; ok is false for one that is adapted or quantized or has a bias.
func (m *Model) headWeight(h graph.Value) (w graph.Value, ok bool) {
	v := m.Body.Table()
	if m.Head != nil {
		l, ok := m.Head.(*layers.Linear)
		if !ok || l.Bias != nil {
			return graph.Value{}, false
		}
		v = l.Weight
	}
	return ops.Cast(h.Graph().Read(v), h.DType()), true
}

// TokenLoss returns the cross-entropy (B, T) in float32 of the scores at each position against targets i32 (B, T): the token
// that follows, or a negative number where none counts. The full logits never exist: a head that is adapted or quantized, or whose
// logits are capped, is computed for some tokens at a time, and again in the backward sweep.
func (m *Model) TokenLoss(h, targets graph.Value) graph.Value {
	if !h.Valid() {
		return h
	}
	defer h.Graph().Scope("lm_head")()
	w, ok := m.headWeight(h)
	if ok && m.config.LogitCap == 0 {
		return ops.LinearCrossEntropy(h, w, targets)
	}
	return m.inParts(h, w, targets, mostLogits, func(logits, targets graph.Value) []graph.Value {
		return []graph.Value{ops.TokenLoss(logits, targets)}
	})[0]
}

// SmoothedLoss is TokenLoss with a share eps of each target given to all tokens of the vocabulary alike (Szegedy et al. 2016):
// (1-eps)·loss + eps·mean over the vocabulary of -log p, where that mean is the logarithm of the sum of e^scores less the mean score. The mean score is h
// times the mean row of the head, so the logits need not exist for it.
func (m *Model) SmoothedLoss(h, targets graph.Value, eps float64) graph.Value {
	if !h.Valid() || eps == 0 {
		return m.TokenLoss(h, targets)
	}
	defer h.Graph().Scope("lm_head")()
	smooth := func(loss, lse, mean, targets graph.Value) graph.Value {
		even := ops.Where(ops.Counted(targets), ops.Sub(lse, mean), ops.Scalar(lse, 0))
		return ops.Add(ops.Scale(loss, 1-eps), ops.Scale(even, eps))
	}
	w, ok := m.headWeight(h)
	if ok && m.config.LogitCap == 0 {
		loss, lse := ops.LinearCrossEntropyLSE(h, w, targets)
		mean := ops.Sum(ops.Mul(ops.Cast(h, loss.DType()), ops.Mean(ops.Cast(w, loss.DType()), 0)), -1)
		return smooth(loss, lse, mean, targets)
	}
	return m.inParts(h, w, targets, mostLogits, func(logits, targets graph.Value) []graph.Value {
		loss, lse := ops.TokenLossLSE(logits, targets)
		return []graph.Value{smooth(loss, lse, ops.Mean(logits, -1), targets)}
	})[0]
}

// TokenHits returns TokenLoss and whether the target is the likeliest token at each position, 1 or 0, (B, T) each; 0 where no target counts.
func (m *Model) TokenHits(h, targets graph.Value) (loss, hit graph.Value) {
	if !h.Valid() {
		return h, h
	}
	defer h.Graph().Scope("lm_head")()
	w, ok := m.headWeight(h)
	if ok && m.config.LogitCap == 0 {
		return ops.LinearHits(h, w, targets)
	}
	out := m.inParts(h, w, targets, mostLogits, func(logits, targets graph.Value) []graph.Value {
		return []graph.Value{ops.TokenLoss(logits, targets), ops.TokenHits(logits, targets)}
	})
	return out[0], out[1]
}

// mostLogits is how many logits are held at a time: 128 MiB of them, and as much for each step of their gradient.
const mostLogits = 1 << 25

// inParts applies f to the logits of h (B, T, hidden) and to the targets (B, T), for as many tokens at a time as have about most logits, and
// joins each result to (B, T). The activations of a part are not kept for the backward sweep.
func (m *Model) inParts(h, w, targets graph.Value, most int, f func(logits, targets graph.Value) []graph.Value) []graph.Value {
	n := targets.Type().Size()
	part := max(most/m.config.Vocab, 1)
	if n <= part || !targets.Valid() {
		return f(m.scores(h, w), targets)
	}
	g := h.Graph()
	rows, flat := ops.Reshape(h, n, h.Dim(-1)), ops.Reshape(targets, n)
	var parts [][]graph.Value
	for at := 0; at < n; at += part {
		end := min(at+part, n)
		x, t := ops.Slice(rows, 0, at, end), ops.Slice(flat, 0, at, end)
		autograd.Checkpoint(g, func() {
			for i, y := range f(m.scores(x, w), t) {
				if i == len(parts) {
					parts = append(parts, nil)
				}
				parts[i] = append(parts[i], y)
			}
		})
	}
	out := make([]graph.Value, len(parts))
	for i, ys := range parts {
		out[i] = ops.Reshape(ops.Concat(0, ys...), targets.Shape().Dims()...)
	}
	return out
}
