package trainer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/ops"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// Generator continues token sequences. It holds a key/value cache of fixed capacity and one plan for a single token, whatever
// its position, beside plans for prompts of the lengths in use. It is not safe for concurrent use.
type Generator struct {
	model    *models.Model
	dev      device.Device
	session  *plan.Session
	cache    *models.Cache
	rows     int
	capacity int
	plans    map[int]*decodePlan
	budget   int64        // of a plan; 0 = no limit
	log      *slog.Logger // of what the first start on a kind of device waits for; nil: it is not told
	held     [][]int32    // the tokens whose keys and values each row of the cache holds
	heldIn   []int        // the length of the sequences that they were computed in
	reused   []int        // tokens of each prompt of the last call that were in the cache

	NoCache bool // compute every token from the whole sequence again; slow, for checks
	// KeepPrefix makes a call begin where its prompts part from the texts of the call before, as the turns of a conversation do. Only while
	// the weights stay the same.
	KeepPrefix bool
}

// decodePlan scores the next token after T tokens of each row.
type decodePlan struct {
	plan                     *plan.Plan
	tokens, pos, start, last graph.Value
	logits                   graph.Value
	buf                      []int32
}

// NewGenerator makes a generator for rows sequences of at most capacity tokens each, prompt included. The session's store holds
// the weights.
func NewGenerator(m *models.Model, session *plan.Session, rows, capacity int) (*Generator, error) {
	if m == nil || session == nil || session.Store().Device() == nil {
		return nil, errors.New("generate: a model and a session with a store are needed; OpenModel and plan.NewSession make them")
	}
	if rows < 1 || capacity < 1 {
		return nil, fmt.Errorf("generate: %d rows of %d tokens make no sense", rows, capacity)
	}
	capacity = min(capacity, m.Config().MaxPositions)
	return &Generator{model: m, dev: session.Store().Device(), session: session, cache: m.NewCache(rows, capacity), rows: rows,
		capacity: capacity, plans: map[int]*decodePlan{}}, nil
}

// Close frees the plans and the cache.
func (ge *Generator) Close() error {
	var errs []error
	for _, p := range ge.plans {
		errs = append(errs, p.plan.Close())
	}
	for _, l := range ge.cache.Layers {
		errs = append(errs, ge.session.Store().Drop(l.K), ge.session.Store().Drop(l.V))
	}
	return errors.Join(errs...)
}

// Capacity is the most tokens a sequence can have, prompt included.
func (ge *Generator) Capacity() int { return ge.capacity }

// Generate continues each prompt (token ids, at least one) by up to maxTokens tokens, calling emit with each new token as it is
// chosen; emit returns false to end that row. At most as many prompts as the generator has rows. A row also ends when it
// reaches the capacity.
func (ge *Generator) Generate(ctx context.Context, prompts [][]int32, maxTokens int, s Sampling, emit func(row int, id int32) bool) error {
	if err := s.Check(); err != nil {
		return err
	}
	seqs, err := ge.start(prompts)
	if err != nil {
		return err
	}
	samplers := make([]*sampler, len(seqs))
	for i, q := range seqs {
		samplers[i] = s.sampler(i, q.ids)
	}
	defer func() { ge.hold(seqs) }()
	ge.reused = nil
	for range maxTokens {
		live := slices.ContainsFunc(seqs, func(q *sequence) bool { return !q.done })
		if !live {
			return nil
		}
		logits, err := ge.score(ctx, seqs)
		if err != nil {
			return err
		}
		for i, q := range seqs {
			if q.done {
				continue
			}
			if err := finiteScores(logits[i], len(q.ids)); err != nil {
				return err
			}
			id := samplers[i].next(logits[i])
			q.ids = append(q.ids, id)
			q.done = !emit(i, id) || len(q.ids) >= ge.capacity
		}
	}
	return nil
}

type sequence struct {
	ids    []int32
	cached int // the first of ids that the cache does not hold
	length int // that the sequence had when it was scored: keys may depend on it
	done   bool
}

// from is the first token to compute: at least the last one, that of a sequence that has ended again.
func (q *sequence) from() int { return min(q.cached, len(q.ids)-1) }

// hold remembers what the cache holds.
func (ge *Generator) hold(seqs []*sequence) {
	ge.held = make([][]int32, ge.rows)
	ge.heldIn = make([]int, ge.rows)
	for i, q := range seqs {
		ge.held[i], ge.heldIn[i] = q.ids[:q.cached], q.length
	}
}

// Reused is how many tokens of a row's prompt the last call of Generate did not compute, because the call before had.
func (ge *Generator) Reused(row int) int {
	if row >= len(ge.reused) {
		return 0
	}
	return ge.reused[row]
}

// cachedPrefix is how many tokens of a prompt the cache holds already; one at least is left to compute.
func (ge *Generator) cachedPrefix(row int, prompt []int32) int {
	if !ge.KeepPrefix || ge.NoCache || row >= len(ge.held) {
		return 0
	}
	held := ge.held[row]
	if !ge.model.CacheServes(ge.heldIn[row], len(prompt)) {
		return 0
	}
	n := 0
	for n < min(len(held), len(prompt)-1) && held[n] == prompt[n] {
		n++
	}
	return n
}

func (ge *Generator) start(prompts [][]int32) ([]*sequence, error) {
	if len(prompts) > ge.rows {
		return nil, fmt.Errorf("generate: %d prompts, the generator has %d rows", len(prompts), ge.rows)
	}
	vocab := int32(ge.model.Config().Vocab)
	var seqs []*sequence
	for i, p := range prompts {
		if len(p) == 0 {
			return nil, fmt.Errorf("generate: prompt %d is empty; begin with the model's BOS token", i)
		}
		if len(p) >= ge.capacity {
			return nil, badConfig("prompt", "has %d tokens, but the context holds %d and must leave room for a new one; shorten it", len(p), ge.capacity)
		}
		for _, id := range p {
			if id < 0 || id >= vocab {
				return nil, fmt.Errorf("generate: prompt %d holds token %d, the vocabulary has %d; is this the model's tokenizer?", i, id, vocab)
			}
		}
		seqs = append(seqs, &sequence{ids: slices.Clone(p), cached: ge.cachedPrefix(i, p), length: len(p)})
	}
	return seqs, nil
}

// score returns the scores of the next token of every sequence.
func (ge *Generator) score(ctx context.Context, seqs []*sequence) ([][]float32, error) {
	for _, q := range seqs {
		if ge.NoCache || !ge.model.CacheServes(q.length, len(q.ids)) {
			q.cached = 0
		}
	}
	t, room := ge.width(seqs)
	if t > room { // a row with a long prefix has no room for the tokens of another row: every row begins at the start
		for _, q := range seqs {
			q.cached = 0
		}
		t, room = ge.width(seqs)
	}
	if t > 1 {
		t = min(bucket(t), room)
	}
	if ge.reused == nil {
		for _, q := range seqs {
			ge.reused = append(ge.reused, q.from())
		}
	}
	p, err := ge.planFor(ctx, t)
	if err != nil {
		return nil, err
	}
	return p.run(ctx, ge, seqs)
}

// width is the number of tokens that the row with the most has to compute, and for how many the cache has room in each row.
func (ge *Generator) width(seqs []*sequence) (t, room int) {
	t, room = 1, ge.capacity
	for _, q := range seqs {
		from := q.from()
		if !q.done {
			t = max(t, len(q.ids)-from)
		}
		room = min(room, ge.capacity-from)
	}
	return t, room
}

// bucket rounds a prompt length up to a power of two, so that few plans serve all prompts.
func bucket(t int) int {
	n := 8
	for n < t {
		n *= 2
	}
	return n
}

func (ge *Generator) planFor(ctx context.Context, t int) (*decodePlan, error) {
	if p, ok := ge.plans[t]; ok {
		return p, nil
	}
	g := graph.New(fmt.Sprintf("decode_%d", t))
	p := &decodePlan{
		tokens: g.Input("tokens", tensor.T(tensor.I32, ge.rows, t)), pos: g.Input("pos", tensor.T(tensor.I32, ge.rows, t)),
		start: g.Input("start", tensor.T(tensor.I32, ge.rows)), last: g.Input("last", tensor.T(tensor.I32, ge.rows)),
	}
	h := ge.model.Hidden(models.Inputs{Tokens: p.tokens, Pos: p.pos, Cache: ge.cache, Start: p.start})
	flat := ops.Reshape(h, -1, ge.model.Config().Hidden) // last indexes the flat positions
	p.logits = ge.model.Logits(ops.Embed(flat, p.last))
	if ge.log != nil {
		defer tellWork(ctx, ge.dev, ge.log, workEvery)()
	}
	var err error
	if p.plan, err = plan.Compile([]graph.Value{p.logits}, plan.Options{Context: ctx, Device: ge.dev, Session: ge.session, Budget: ge.budget}); err != nil {
		return nil, err
	}
	ge.plans[t] = p
	return p, nil
}

// run feeds what the cache does not hold of each sequence.
func (p *decodePlan) run(ctx context.Context, ge *Generator, seqs []*sequence) ([][]float32, error) {
	t := p.tokens.Dim(1)
	n := ge.rows * t
	p.buf = slices.Grow(p.buf[:0], 2*n+2*ge.rows)[:2*n+2*ge.rows]
	clear(p.buf)
	tokens, pos := p.buf[:n], p.buf[n:2*n]
	start, last := p.buf[2*n:2*n+ge.rows], p.buf[2*n+ge.rows:]
	for i := range ge.rows {
		last[i] = int32(i * t)
		end := int32(0)
		if i < len(seqs) {
			q := seqs[i]
			from := q.from()
			start[i] = int32(from)
			last[i] += int32(copy(tokens[i*t:(i+1)*t], q.ids[from:]) - 1)
			end = start[i] + int32(len(q.ids)-from) - 1
		}
		for j := range t { // what is padding stays at the last token: positions tell the length, and may be as many as a table has
			pos[i*t+j] = min(start[i]+int32(j), end)
		}
	}
	feed := plan.Feed{}
	for v, x := range map[graph.Value][]int32{p.tokens: tokens, p.pos: pos, p.start: start, p.last: last} {
		tt, err := tensor.FromBytes(v.Type(), tensor.AsBytes(x))
		if err != nil {
			return nil, err
		}
		feed[v] = tt
	}
	for _, q := range seqs { // what a run that fails leaves there counts for nothing
		q.cached = q.from()
	}
	res, err := p.plan.Run(ctx, feed)
	if err != nil {
		return nil, err
	}
	for _, q := range seqs {
		q.cached, q.length = len(q.ids), len(q.ids)
	}
	all := tensor.Data[float32](res.Tensor(p.logits))
	vocab := ge.model.Config().Vocab
	out := make([][]float32, len(seqs))
	for i := range out {
		out[i] = all[i*vocab : (i+1)*vocab]
	}
	return out, nil
}

// finiteScores refuses scores that no token can be chosen from.
func finiteScores(logits []float32, at int) error {
	if noneInfinite(logits) {
		return nil
	}
	for i, x := range logits {
		if x-x != 0 {
			return withCode(config.ExitNonFinite, fmt.Errorf("generate: the score of token %d at position %d is %v; the weights or the adapter hold values that are not finite", i, at, x))
		}
	}
	return nil
}

// noneInfinite adds up what is 0 of finite numbers and NaN of others, in sums that do not wait for each other.
func noneInfinite(x []float32) bool {
	var a, b, c, d float32
	for len(x) >= 4 {
		v := (*[4]float32)(x)
		a += v[0] - v[0]
		b += v[1] - v[1]
		c += v[2] - v[2]
		d += v[3] - v[3]
		x = x[4:]
	}
	for _, v := range x {
		a += v - v
	}
	return a+b+c+d == 0
}
