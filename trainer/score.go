package trainer

import (
	"context"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// Scored says how likely a model finds the tokens of a sequence, from the first one asked for on.
type Scored struct {
	LogProbs []float64 // natural logarithm of each token's probability after those before it
	Greedy   []bool    // the token is the likeliest there
}

// Request is a sequence of tokens and the first of them, at least 1, that is to be scored.
type Request struct {
	IDs  []int32
	From int
}

// How much is computed at once: tokens of all rows of a plan, and positions whose scores over the vocabulary exist together.
const (
	scoreTokens    = 2048
	scorePositions = 256
)

// scorer holds the plans of a Writer's scores.
type scorer struct {
	hidden map[[2]int]*hiddenPlan
	head   *headPlan
}

// hiddenPlan computes the activations before the head, flattened to (rows*T, hidden).
type hiddenPlan struct {
	plan        *plan.Plan
	tokens, pos graph.Value
	out         graph.Value
}

// headPlan computes, for scorePositions activations, the loss of a target and the likeliest token.
type headPlan struct {
	plan         *plan.Plan
	h, targets   graph.Value
	loss, likely graph.Value
}

// Score scores sequences, each by itself. None may be longer than the model's context.
func (w *Writer) Score(ctx context.Context, requests []Request) ([]Scored, error) {
	vocab, most := int32(w.model.Config().Vocab), w.model.Config().MaxPositions
	for i, r := range requests {
		if r.From < 1 || r.From >= len(r.IDs) {
			return nil, fmt.Errorf("score: sequence %d of %d tokens has nothing to score from token %d on", i, len(r.IDs), r.From)
		}
		if len(r.IDs) > most+1 {
			return nil, fmt.Errorf("score: sequence %d has %d tokens, the context of the model holds %d", i, len(r.IDs), most)
		}
		for _, id := range r.IDs {
			if id < 0 || id >= vocab {
				return nil, fmt.Errorf("score: sequence %d holds token %d, the vocabulary has %d; is this the model's tokenizer?", i, id, vocab)
			}
		}
	}
	out := make([]Scored, 0, len(requests))
	for len(requests) > 0 {
		n, t := w.batchOf(requests)
		part, err := w.scoreBatch(ctx, requests[:n], t)
		if err != nil {
			return nil, classify(err)
		}
		out, requests = append(out, part...), requests[n:]
	}
	return out, nil
}

// batchOf takes as many of the next requests as a plan of their longest length computes at once. The last token of a sequence is only a target.
func (w *Writer) batchOf(requests []Request) (n, t int) {
	for n < len(requests) {
		next := max(t, min(bucket(len(requests[n].IDs)-1), w.model.Config().MaxPositions))
		if n > 0 && (n+1)*next > scoreTokens {
			break
		}
		n, t = n+1, next
	}
	return n, t
}

func (w *Writer) scoreBatch(ctx context.Context, requests []Request, t int) ([]Scored, error) {
	p, err := w.hiddenPlan(ctx, max(1, scoreTokens/t), t)
	if err != nil {
		return nil, err
	}
	tokens, pos := tensor.New(p.tokens.Type()), tensor.New(p.pos.Type())
	ids, at := tensor.Data[int32](tokens), tensor.Data[int32](pos)
	for i, r := range requests {
		n := copy(ids[i*t:(i+1)*t], r.IDs[:len(r.IDs)-1])
		for j := range t { // padding stays at the last position: rotary positions may depend on the length of the row
			at[i*t+j] = int32(min(j, n-1))
		}
	}
	res, err := p.plan.Run(ctx, plan.Feed{p.tokens: tokens, p.pos: pos})
	if err != nil {
		return nil, err
	}
	h := res.Tensor(p.out)
	out := make([]Scored, len(requests))
	var rows, targets []int32
	for i, r := range requests {
		for j := r.From; j < len(r.IDs); j++ {
			rows, targets = append(rows, int32(i*t+j-1)), append(targets, r.IDs[j])
		}
	}
	losses, likely, err := w.heads(ctx, h, rows, targets)
	if err != nil {
		return nil, err
	}
	k := 0
	for i, r := range requests {
		for range len(r.IDs) - r.From {
			if x := losses[k]; x-x != 0 {
				return nil, withCode(config.ExitNonFinite, fmt.Errorf("score: the loss of token %d is %v; the weights or the adapter hold values that are not finite", targets[k], x))
			}
			out[i].LogProbs = append(out[i].LogProbs, -float64(losses[k]))
			out[i].Greedy = append(out[i].Greedy, likely[k] == targets[k])
			k++
		}
	}
	return out, nil
}

// heads scores one target after each of the rows of h.
func (w *Writer) heads(ctx context.Context, h *tensor.Tensor, rows, targets []int32) (losses []float32, likely []int32, err error) {
	p, err := w.headPlan(ctx, h.DType())
	if err != nil {
		return nil, nil, err
	}
	width := w.model.Config().Hidden * h.DType().Size()
	from := h.Bytes()
	in, want := tensor.New(p.h.Type()), tensor.New(p.targets.Type())
	for lo := 0; lo < len(rows); lo += scorePositions {
		n := min(scorePositions, len(rows)-lo)
		for i, r := range rows[lo : lo+n] {
			copy(in.Bytes()[i*width:(i+1)*width], from[int(r)*width:(int(r)+1)*width])
		}
		copy(tensor.Data[int32](want), targets[lo:lo+n])
		res, err := p.plan.Run(ctx, plan.Feed{p.h: in, p.targets: want})
		if err != nil {
			return nil, nil, err
		}
		losses = append(losses, tensor.Data[float32](res.Tensor(p.loss))[:n]...)
		likely = append(likely, tensor.Data[int32](res.Tensor(p.likely))[:n]...)
	}
	return losses, likely, nil
}

func (w *Writer) hiddenPlan(ctx context.Context, rows, t int) (*hiddenPlan, error) {
	key := [2]int{rows, t}
	if p, ok := w.scores.hidden[key]; ok {
		return p, nil
	}
	g := graph.New(fmt.Sprintf("score_%dx%d", rows, t))
	p := &hiddenPlan{tokens: g.Input("tokens", tensor.T(tensor.I32, rows, t)), pos: g.Input("pos", tensor.T(tensor.I32, rows, t))}
	p.out = ops.Reshape(w.model.Model.Hidden(models.Inputs{Tokens: p.tokens, Pos: p.pos}), -1, w.model.Config().Hidden)
	var err error
	if p.plan, err = plan.Compile([]graph.Value{p.out}, plan.Options{Context: ctx, Device: w.dev, Session: w.session}); err != nil {
		return nil, err
	}
	if w.scores.hidden == nil {
		w.scores.hidden = map[[2]int]*hiddenPlan{}
	}
	w.scores.hidden[key] = p
	return p, nil
}

func (w *Writer) headPlan(ctx context.Context, d tensor.DType) (*headPlan, error) {
	if w.scores.head != nil {
		return w.scores.head, nil
	}
	g := graph.New("score_head")
	p := &headPlan{h: g.Input("hidden", tensor.T(d, scorePositions, w.model.Config().Hidden)), targets: g.Input("targets", tensor.T(tensor.I32, scorePositions))}
	logits := w.model.Model.Logits(p.h)
	p.loss, p.likely = ops.TokenLoss(logits, p.targets), ops.Cast(ops.ArgMax(logits, 1), tensor.I32)
	var err error
	if p.plan, err = plan.Compile([]graph.Value{p.loss, p.likely}, plan.Options{Context: ctx, Device: w.dev, Session: w.session}); err != nil {
		return nil, err
	}
	w.scores.head = p
	return p, nil
}

func (s *scorer) close() (errs []error) {
	for _, p := range s.hidden {
		errs = append(errs, p.plan.Close())
	}
	if s.head != nil {
		errs = append(errs, s.head.plan.Close())
	}
	return errs
}
