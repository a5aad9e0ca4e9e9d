package trainer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/autograd"
	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

// objective turns the activations of a micro-batch into a loss: next tokens (sft), or which of two answers is preferred.
type objective interface {
	// rows is how many rows a micro-batch of n examples has.
	rows(n int) int
	// build adds the loss to the graph of p: p.loss, whose gradient over the step is divided by stepShare.units, and p.outs.
	build(p *lossPlan, m *models.Model, hidden graph.Value, train bool)
	// prepare looks at all micro-batches of a step before the first of them runs.
	prepare(ctx context.Context, step []data.Batch) (stepShare, error)
	// feed sets the inputs that build made.
	feed(ctx context.Context, p *lossPlan, b *data.Batch, share stepShare) error
	// add adds the results of a run.
	add(t *tally, p *lossPlan, res plan.Result, b *data.Batch)
}

// stepShare is what a micro-batch has to know of its whole step.
type stepShare struct {
	units  int     // what the step's loss is a mean of: trained tokens, or pairs
	weight float64 // orpo: of a token's loss, so that the division by pairs makes it a mean of tokens
	z      float64 // kto: distance of the policy from the reference
}

// tally is what micro-batches add up to.
type tally struct {
	sum    float64 // of the losses of units
	units  int
	tokens int // trained ones
	hits   int // tokens whose target was the likeliest (evaluation)
	pairs  *pairTally
	router float64 // load-balancing losses, by the targets of their micro-batch
	routed int     // these targets
	flops  int64   // useful arithmetic
}

// mean is the loss, NaN of nothing.
func (t tally) mean() float64 {
	if t.units == 0 {
		return math.NaN()
	}
	loss := t.sum / float64(t.units)
	if t.pairs != nil && t.pairs.nllTokens > 0 {
		loss += t.pairs.nll / float64(t.pairs.nllTokens)
	}
	return loss
}

// batchInputs are the inputs that every micro-batch feeds.
type batchInputs struct {
	tokens, targets, pos, docStart, sample, key graph.Value
	length                                      graph.Value // f32: tokens of each token's document, 0 for padding; absent without noise
}

func newBatchInputs(g *graph.Graph, b, t int) batchInputs {
	in := func(name string) graph.Value { return g.Input(name, tensor.T(tensor.I32, b, t)) }
	return batchInputs{tokens: in("tokens"), targets: in("targets"), pos: in("pos"), docStart: in("doc_start"), sample: in("sample"),
		key: g.Input("key", tensor.T(tensor.U32, 2))}
}

// lossPlan computes the summed loss of one micro-batch shape, and for training adds its gradient to the slab.
type lossPlan struct {
	plan  *plan.Plan
	train bool
	in    batchInputs
	loss  graph.Value            // sum over the units of the micro-batch, float32
	outs  map[string]graph.Value // further sums
	more  map[string]graph.Value // further inputs
	feed  plan.Feed

	flops int64 // useful ones of a run: without those of recomputed activations

	targets []int32
	lengths []float32
	floats  map[string][]float32
}

func compileLoss(m *models.Model, a *lora.Adapter, group *optim.Group, t int, o stepOptions) (*lossPlan, error) {
	g := graph.New(fmt.Sprintf("loss_%d", t))
	rows := o.objective.rows(o.rows)
	p := &lossPlan{train: group != nil, in: newBatchInputs(g, rows, t), feed: plan.Feed{}, outs: map[string]graph.Value{}, more: map[string]graph.Value{},
		floats: map[string][]float32{}}
	in := models.Inputs{Tokens: p.in.tokens, Pos: p.in.pos, DocStart: p.in.docStart, Bounds: o.docs, Single: o.single}
	if group != nil {
		in.Checkpoint = models.FirstBlocks(o.recompute)
		in.Random = layers.Random{Key: p.in.key, Sample: p.in.sample, Pos: p.in.pos}
		if o.neftune > 0 {
			p.in.length = g.Input("length", tensor.T(tensor.F32, rows, t))
			in.Embedded = layers.NEFTune{Alpha: o.neftune, Length: p.in.length, Random: in.Random}.Forward
		}
	}
	if a != nil {
		a.Random = in.Random
	}
	if group != nil && o.router > 0 {
		in.Routes = &layers.Routes{}
	}
	o.objective.build(p, m, m.Hidden(in), group != nil)
	if a != nil {
		a.Random = layers.Random{} // it belongs to this graph alone
	}
	if group != nil {
		loss := ops.Add(p.loss, p.routerLoss(in.Routes, o.router))
		if o.parts.scaler != nil {
			loss = ops.Mul(loss, o.parts.scaler.Scale(g))
		}
		grads, err := autograd.Grad(loss, group.Params()...)
		if err != nil {
			return nil, err
		}
		group.Accumulate(g, grads)
		g.Write(o.lossSum, ops.Add(g.Read(o.lossSum), p.loss))
	}
	outs := []graph.Value{p.loss}
	for _, name := range sortedNames(p.outs) {
		outs = append(outs, p.outs[name])
	}
	var err error
	options := o.plan()
	options.Move = o.move
	if p.plan, err = plan.Compile(outs, options); err != nil {
		return p, err
	}
	p.flops = usefulFlops(p.plan)
	return p, nil
}

// usefulFlops is the arithmetic of a plan without what recomputes activations.
func usefulFlops(p *plan.Plan) (n int64) {
	for _, l := range p.Launches() {
		if l.Phase != graph.Recompute {
			n += l.Flops
		}
	}
	return n
}

// routerLoss is the load-balancing loss of the micro-batch, times its weight and the tokens that it has targets for: the sum over a step divided by
// all of them is a mean over micro-batches. It is the one part of a loss that depends on how rows are cut into micro-batches. The output
// router has it without the weight.
func (p *lossPlan) routerLoss(routes *layers.Routes, weight float64) graph.Value {
	if routes == nil || len(routes.Logits) == 0 {
		return ops.Scalar(p.loss, 0)
	}
	loss := layers.BalanceLoss(routes, ops.GreaterEqual(p.in.sample, ops.Scalar(p.in.sample, 0)))
	p.outs[outRouter] = ops.Mul(loss, ops.Sum(ops.Cast(ops.Counted(p.in.targets), tensor.F32)))
	return ops.Scale(p.outs[outRouter], weight)
}

// outRouter is the load-balancing loss times the targets of the micro-batch.
const outRouter = "router"

// runKey is what random numbers of a step are drawn from.
type runKey struct {
	seed uint64
	step int
}

// feedBatch sets the inputs that every objective has.
func (p *lossPlan) feedBatch(b *data.Batch, k runKey) error {
	p.targets = b.Shift(p.targets)
	key := []int32{int32(uint32(k.seed) ^ uint32(k.seed>>32)), int32(k.step)}
	err := errors.Join(p.put(p.in.tokens, b.Tokens), p.put(p.in.targets, p.targets), p.put(p.in.pos, b.Pos),
		p.put(p.in.docStart, b.DocStart), p.put(p.in.sample, b.Sample), p.put(p.in.key, key))
	if err != nil || p.in.length.Absent() {
		return err
	}
	p.lengths = documentLengths(p.lengths, b)
	t, err := tensor.FromBytes(p.in.length.Type(), tensor.AsBytes(p.lengths))
	p.feed[p.in.length] = t
	return err
}

func (p *lossPlan) put(v graph.Value, x []int32) error {
	t, err := tensor.FromBytes(v.Type(), tensor.AsBytes(x))
	p.feed[v] = t
	return err
}

// input declares a float32 input of the objective.
func (p *lossPlan) input(name string, dims ...int) graph.Value {
	v := p.in.tokens.Graph().Input(name, tensor.T(tensor.F32, dims...))
	p.more[name] = v
	return v
}

// floatsOf is the storage that an input is fed from, cleared.
func (p *lossPlan) floatsOf(name string) ([]float32, error) {
	v := p.more[name]
	x := p.floats[name]
	if x == nil {
		x = make([]float32, v.Type().Size())
		p.floats[name] = x
	}
	clear(x)
	t, err := tensor.FromBytes(v.Type(), tensor.AsBytes(x))
	p.feed[v] = t
	return x, err
}

// documentLengths writes for each token how many tokens its document has, 0 for padding.
func documentLengths(dst []float32, b *data.Batch) []float32 {
	if cap(dst) < len(b.Tokens) {
		dst = make([]float32, len(b.Tokens))
	}
	dst = dst[:len(b.Tokens)]
	for lo := 0; lo < len(dst); {
		hi := lo + 1
		for hi < len(dst) && hi%b.T != 0 && b.DocStart[hi] == b.DocStart[lo] {
			hi++
		}
		n := float32(hi - lo)
		if b.Sample[lo] == data.PadSample {
			n = 0
		}
		for i := lo; i < hi; i++ {
			dst[i] = n
		}
		lo = hi
	}
	return dst
}

// nextToken is the objective sft: the mean over all trained tokens of the step of their cross-entropy.
//
// With smoothing a share of each target is spread over the vocabulary, while training.
type nextToken struct{ smoothing float64 }

func (nextToken) rows(n int) int { return n }

func (o nextToken) build(p *lossPlan, m *models.Model, hidden graph.Value, train bool) {
	if train {
		p.loss = ops.Sum(m.SmoothedLoss(hidden, p.in.targets, o.smoothing))
		return
	}
	loss, hit := m.TokenHits(hidden, p.in.targets)
	p.loss, p.outs[outHits] = ops.Sum(loss), ops.Sum(hit)
}

// outHits counts the tokens of an evaluation whose target is the likeliest.
const outHits = "hits"

func (nextToken) prepare(_ context.Context, step []data.Batch) (s stepShare, _ error) {
	for i := range step {
		s.units += step[i].Targets
	}
	return s, nil
}

func (nextToken) feed(context.Context, *lossPlan, *data.Batch, stepShare) error { return nil }

func (nextToken) add(t *tally, p *lossPlan, res plan.Result, b *data.Batch) {
	t.sum += res.Float(p.loss)
	t.units += b.Targets
	t.tokens += b.Targets
	if hits, ok := p.outs[outHits]; ok {
		t.hits += int(res.Float(hits))
	}
}

func sortedNames(m map[string]graph.Value) []string { return slices.Sorted(maps.Keys(m)) }
