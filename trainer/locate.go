package trainer

import (
	"context"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// locate looks for what made a step's loss or gradient not finite: a trained weight, the first block whose activations are not, the rows
// whose token losses are not. It runs the forward pass of the step again, without dropout. What it cannot find out is left unsaid.
func (j *job) locate(ctx context.Context, e *NonFiniteError, buf []data.Batch) {
	ctx = context.WithoutCancel(ctx)
	for _, v := range j.trained() {
		if t, err := j.store.Get(v); err == nil && !allFinite(t) {
			e.Where = fmt.Sprintf("%s holds values that are not finite", v.Name)
			return
		}
	}
	for i := range buf {
		if buf[i].Targets == 0 {
			continue
		}
		p, err := j.compileFinder(ctx, buf[i].B, buf[i].T)
		if err != nil {
			j.log.Debug("the step could not be looked at again", "err", err)
			return
		}
		where, rows, err := p.find(ctx, &buf[i])
		if cerr := p.plan.Close(); err != nil || cerr != nil {
			j.log.Debug("the step could not be looked at again", "err", err)
			return
		}
		if where != "" {
			e.Where, e.Rows = where, nil
			for _, r := range rows {
				if id := buf[i].Sample[r]; id != data.PadSample && len(e.Rows) < maxNamedRows {
					e.Rows = appendNew(e.Rows, j.train.SourceOf(id))
				}
			}
			return
		}
	}
	e.Where = "the forward pass is finite, without dropout, so it is the gradient that overflowed"
}

// maxNamedRows is how many rows a message names.
const maxNamedRows = 5

func appendNew(list []string, s string) []string {
	for _, have := range list {
		if have == s {
			return list
		}
	}
	return append(list, s)
}

func allFinite(t *tensor.Tensor) bool {
	if !t.DType().IsFloat() {
		return true
	}
	for i := range t.Type().Size() {
		if !finite(t.At(i)) {
			return false
		}
	}
	return true
}

// finder computes for each block whether what leaves it is finite, and the token losses.
type finder struct {
	lossPlan
	states []graph.Value // f32 scalars: how many elements of what enters a block, and last of what enters the head, are not finite
	losses graph.Value   // (B, T)
}

func (j *job) compileFinder(ctx context.Context, rows, t int) (*finder, error) {
	g := graph.New("find")
	f := &finder{lossPlan: lossPlan{in: newBatchInputs(g, rows, t), feed: plan.Feed{}}}
	states := j.model.HiddenStates(models.Inputs{Tokens: f.in.tokens, Pos: f.in.pos, DocStart: f.in.docStart})
	for _, h := range states {
		f.states = append(f.states, ops.Sum(ops.Cast(ops.Not(ops.IsFinite(h)), tensor.F32)))
	}
	f.losses = j.model.TokenLoss(states[len(states)-1], f.in.targets)
	var err error
	f.plan, err = plan.Compile(append([]graph.Value{f.losses}, f.states...), plan.Options{Context: ctx, Device: j.dev, Session: j.session, Fold: j.cfg.Adapter.Folds()})
	return f, err
}

// find names the first place that is not finite and lists the positions (B*T) whose loss is not.
func (f *finder) find(ctx context.Context, b *data.Batch) (where string, at []int, err error) {
	if err := f.feedBatch(b, runKey{}); err != nil {
		return "", nil, err
	}
	res, err := f.plan.Run(ctx, f.feed)
	if err != nil {
		return "", nil, err
	}
	for i, loss := range tensor.Data[float32](res.Tensor(f.losses)) {
		if !finite(float64(loss)) {
			at = append(at, i)
		}
	}
	for i, s := range f.states {
		switch {
		case res.Float(s) == 0:
		case i == 0:
			return "the embeddings are not finite", at, nil
		case i == len(f.states)-1:
			return fmt.Sprintf("what leaves the last of %d blocks is not finite", i), at, nil
		default:
			return fmt.Sprintf("what leaves block %d (from 0) is not finite", i-1), at, nil
		}
	}
	if len(at) > 0 {
		return "the activations are finite, the token losses of the head are not", at, nil
	}
	return "", nil, nil
}
