package trainer

import (
	"context"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// preference is an objective over pairs of answers: dpo, orpo, simpo or kto. The first half of a micro-batch's rows are chosen answers, the
// second the rejected ones of the same pairs. Only log-probabilities of labelled tokens are made, by the operation that fuses the head with
// the loss: no logits are held, of the policy or of the reference.
type preference struct {
	kind  string
	args  config.PreferenceArgs
	ref   reference // of dpo and kto
	held  stored    // what it said of held-out pairs: every evaluation has the same micro-batches, so the same bits
	drift *drift    // of kto
}

// pairTally are the sums over pairs.
type pairTally struct {
	chosen, rejected float64 // rewards
	right            float64 // pairs whose chosen answer has the larger reward
	nll              float64 // orpo: token losses of chosen rows, prompts included
	nllTokens        int
}

// Names of the inputs and outputs that some objectives have.
const (
	inValid     = "valid"     // (M): 1 for a pair, 0 for padding
	inReference = "reference" // (2M): log-probabilities under the reference
	inCounts    = "counts"    // (2M): tokens of the answers
	inAnswers   = "answers"   // (2M, T): 1 where a target belongs to an answer
	inWeight    = "weight"    // orpo: of a token loss
	inDrift     = "drift"     // kto: z

	outChosen, outRejected, outRight, outNLL, outPairs = "chosen", "rejected", "right", "nll", "pairs"
)

func (preference) rows(n int) int { return 2 * n }

// hasReference says whether the loss compares the policy with a reference.
func hasReference(kind string) bool { return kind == "dpo" || kind == "kto" }

func (o preference) build(p *lossPlan, m *models.Model, hidden graph.Value, _ bool) {
	rows, t := p.in.tokens.Dim(0), p.in.tokens.Dim(1)
	half := rows / 2
	loss := m.TokenLoss(hidden, p.in.targets)
	answers := loss
	if o.kind == "orpo" {
		answers = ops.Mul(loss, p.input(inAnswers, rows, t))
	}
	sides := func(v graph.Value) (chosen, rejected graph.Value) {
		return ops.Slice(v, 0, 0, half), ops.Slice(v, 0, half, rows)
	}
	var l layers.PairLogps
	l.Chosen, l.Rejected = sides(layers.SequenceLogps(answers))
	if hasReference(o.kind) {
		l.RefChosen, l.RefRejected = sides(p.input(inReference, rows))
	}
	valid := p.input(inValid, half)
	pair := o.pairLoss(p, l, sides)
	sum := func(v graph.Value) graph.Value { return ops.Sum(ops.Mul(v, valid)) }
	p.loss = sum(pair.Loss)
	p.outs[outChosen], p.outs[outRejected] = sum(pair.Chosen), sum(pair.Rejected)
	p.outs[outRight] = sum(ops.Cast(ops.Greater(pair.Chosen, pair.Rejected), tensor.F32))
	if o.kind == "orpo" {
		p.outs[outPairs], p.outs[outNLL] = p.loss, ops.Sum(ops.Slice(loss, 0, 0, half))
		p.loss = ops.Add(p.loss, ops.Mul(p.outs[outNLL], p.input(inWeight)))
	}
}

func (o preference) pairLoss(p *lossPlan, l layers.PairLogps, sides func(graph.Value) (a, b graph.Value)) layers.PairLoss {
	a := o.args
	switch o.kind {
	case "kto":
		loss := layers.KTO{Beta: a.Beta, Desired: a.Desired, Undesired: a.Undesired}.Loss(l, p.input(inDrift))
		loss.Loss = ops.Scale(loss.Loss, 0.5) // a pair has two answers, and the mean is over answers
		return loss
	case "simpo":
		c, r := sides(p.input(inCounts, p.in.tokens.Dim(0)))
		return layers.SimPO{Beta: a.Beta, Gamma: a.Gamma}.Loss(l, c, r)
	case "orpo":
		c, r := sides(p.input(inCounts, p.in.tokens.Dim(0)))
		return layers.ORPO{Beta: a.Beta}.Loss(l, c, r)
	}
	return layers.DPO{Beta: a.Beta, Smoothing: a.Smoothing}.Loss(l)
}

func (o preference) prepare(ctx context.Context, step []data.Batch) (s stepShare, err error) {
	tokens := 0
	for i := range step {
		s.units += step[i].Pairs
		tokens += chosenTokens(&step[i])
	}
	if tokens > 0 {
		s.weight = float64(s.units) / float64(tokens)
	}
	if o.kind == "kto" {
		s.z, err = o.drift.measure(ctx, step)
	}
	return s, err
}

// chosenTokens are the tokens of chosen rows that something before them predicts.
func chosenTokens(b *data.Batch) (n int) {
	for i := range b.Pairs * b.T {
		if b.Sample[i] != data.PadSample && b.Pos[i] > 0 {
			n++
		}
	}
	return n
}

func (o preference) feed(ctx context.Context, p *lossPlan, b *data.Batch, share stepShare) error {
	for name := range p.more {
		x, err := p.floatsOf(name)
		if err != nil {
			return err
		}
		switch name {
		case inValid:
			for i := range b.Pairs {
				x[i] = 1
			}
		case inReference:
			if err := o.ask(ctx, p, b, x); err != nil {
				return err
			}
		case inCounts:
			countTargets(x, p.targets, b.T)
		case inAnswers:
			if err := o.feedAnswers(p, b, x); err != nil {
				return err
			}
		case inWeight:
			x[0] = float32(share.weight)
		case inDrift:
			x[0] = float32(share.z)
		}
	}
	return nil
}

// ask writes the log-probabilities under the reference. Training pairs are not remembered: a resumed run would ask again, for another
// micro-batch and so in other bits.
func (o preference) ask(ctx context.Context, p *lossPlan, b *data.Batch, dst []float32) error {
	if !p.train && o.held.has(b) {
		return o.held.logps(ctx, b, dst)
	}
	err := o.ref.logps(ctx, b, dst)
	if err == nil && !p.train {
		o.held.keep(b, dst)
	}
	return err
}

// countTargets writes the targets of each row, 1 for a row of padding: it is divided by.
func countTargets(dst []float32, targets []int32, t int) {
	for i := range dst {
		n := 0
		for _, id := range targets[i*t : (i+1)*t] {
			if id >= 0 {
				n++
			}
		}
		dst[i] = float32(max(n, 1))
	}
}

// feedAnswers marks the targets of answers and then makes every token of the chosen rows a target, as the token loss of orpo has it.
func (o preference) feedAnswers(p *lossPlan, b *data.Batch, mask []float32) error {
	for i, id := range p.targets {
		if id >= 0 {
			mask[i] = 1
		}
	}
	targets := slices.Clone(p.targets)
	for i := range b.Pairs * b.T {
		if (i+1)%b.T != 0 && b.Sample[i] != data.PadSample && b.Sample[i+1] == b.Sample[i] {
			targets[i] = b.Tokens[i+1]
		}
	}
	return p.put(p.in.targets, targets)
}

func (o preference) add(t *tally, p *lossPlan, res plan.Result, b *data.Batch) {
	if t.pairs == nil {
		t.pairs = &pairTally{}
	}
	t.units += b.Pairs
	t.tokens += b.Targets
	t.pairs.chosen += res.Float(p.outs[outChosen])
	t.pairs.rejected += res.Float(p.outs[outRejected])
	t.pairs.right += res.Float(p.outs[outRight])
	if o.kind == "orpo" {
		t.sum += res.Float(p.outs[outPairs])
		t.pairs.nll += res.Float(p.outs[outNLL])
		t.pairs.nllTokens += chosenTokens(b)
		return
	}
	t.sum += res.Float(p.loss)
}
