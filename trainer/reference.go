package trainer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sort"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// reference is the model as the run begins, which the policy is compared with.
type reference interface {
	// logps writes the log-probability of the answer of each row of a micro-batch; rows of padding have any number.
	logps(ctx context.Context, b *data.Batch, dst []float32) error
}

// answerScorer computes log-probabilities of rows without gradients and without dropout.
type answerScorer struct {
	j     *job
	rows  int
	plans map[int]*scorePlan
}

// scorePlan is the forward pass of one row length.
type scorePlan struct {
	lossPlan
	logps graph.Value // (rows)
}

// newAnswerScorer compiles one of the policy, or of the model without its adapter.
func newAnswerScorer(j *job, o stepOptions, withoutAdapter bool) (*answerScorer, error) {
	s := &answerScorer{j: j, rows: o.objective.rows(o.rows), plans: map[int]*scorePlan{}}
	lengths := slices.Concat(o.lengths, o.evalLens, o.mixedLens)
	slices.Sort(lengths)
	for _, t := range slices.Compact(lengths) {
		p, err := s.compile(t, o, withoutAdapter)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("reference rows of %d tokens: %w", t, err), s.close())
		}
		s.plans[t] = p
	}
	return s, nil
}

func (s *answerScorer) compile(t int, o stepOptions, withoutAdapter bool) (*scorePlan, error) {
	g := graph.New(fmt.Sprintf("score_%d", t))
	p := &scorePlan{lossPlan: lossPlan{in: newBatchInputs(g, s.rows, t), feed: plan.Feed{}}}
	if a := s.j.adapter; a != nil && withoutAdapter {
		a.SetActive(false)
		defer a.SetActive(true)
	}
	hidden := s.j.model.Hidden(models.Inputs{Tokens: p.in.tokens, Pos: p.in.pos, DocStart: p.in.docStart})
	p.logps = layers.SequenceLogps(s.j.model.TokenLoss(hidden, p.in.targets))
	var err error
	p.plan, err = plan.Compile([]graph.Value{p.logps}, o.plan())
	return p, err
}

func (s *answerScorer) close() error {
	if s == nil {
		return nil
	}
	var errs []error
	for _, p := range s.plans {
		if p.plan != nil {
			errs = append(errs, p.plan.Close())
		}
	}
	return errors.Join(errs...)
}

// logps implements reference.
func (s *answerScorer) logps(ctx context.Context, b *data.Batch, dst []float32) error {
	p, ok := s.plans[b.T]
	if !ok {
		return fmt.Errorf("trainer: no reference plan for rows of %d tokens", b.T)
	}
	if err := p.feedBatch(b, runKey{}); err != nil {
		return err
	}
	res, err := p.plan.Run(ctx, p.feed)
	if err == nil {
		copy(dst, tensor.Data[float32](res.Tensor(p.logps)))
	}
	return err
}

// scored is a prompt with an answer whose tokens are labelled.
type scored struct {
	id          int32 // of the example
	ids, labels []int32
}

// score calls emit with the log-probability of every sequence. Sequences of like lengths are computed together.
func (s *answerScorer) score(ctx context.Context, seqs []scored, emit func(i int, logp float32)) error {
	lengths := make([]int, 0, len(s.plans))
	for t := range s.plans {
		lengths = append(lengths, t)
	}
	slices.Sort(lengths)
	order := make([]int, len(seqs))
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(a, b int) bool { return len(seqs[order[a]].ids) < len(seqs[order[b]].ids) })
	out := make([]float32, s.rows)
	for lo := 0; lo < len(order); lo += s.rows {
		part := order[lo:min(lo+s.rows, len(order))]
		longest := min(len(seqs[part[len(part)-1]].ids), lengths[len(lengths)-1])
		b := newRows(s.rows, lengths[sort.SearchInts(lengths, longest)], max(s.j.model.Config().Pad, 0))
		for r, i := range part {
			b.fill(r, seqs[i])
		}
		if err := s.logps(ctx, &b.Batch, out); err != nil {
			return err
		}
		for r, i := range part {
			emit(i, out[r])
		}
	}
	return nil
}

// rowBatch is a micro-batch of rows that no loader made.
type rowBatch struct{ data.Batch }

func newRows(rows, t int, pad int32) *rowBatch {
	n := rows * t
	b := &rowBatch{data.Batch{B: rows, T: t, Tokens: make([]int32, n), Labels: make([]int32, n), Pos: make([]int32, n), DocStart: make([]int32, n),
		Sample: make([]int32, n)}}
	for i := range n {
		b.Tokens[i], b.Labels[i], b.Sample[i], b.Pos[i] = pad, data.Ignore, data.PadSample, int32(i%t)
	}
	return b
}

// fill puts a sequence, cut to the row, into row r.
func (b *rowBatch) fill(r int, q scored) {
	base, n := r*b.T, min(len(q.ids), b.T)
	copy(b.Tokens[base:base+n], q.ids)
	for i := range n {
		b.Sample[base+i] = q.id
		if b.Labels[base+i] = q.labels[i]; q.labels[i] != data.Ignore {
			b.Targets++
		}
	}
	for i := n; i < b.T; i++ {
		b.DocStart[base+i], b.Pos[base+i] = int32(n), int32(i-n)
	}
}

// stored is a reference that was asked once, before the first step: log-probabilities by example.
type stored map[int32]float32

// logps implements reference.
func (s stored) logps(_ context.Context, b *data.Batch, dst []float32) error {
	for r := range b.B {
		id := b.Sample[r*b.T]
		if id == data.PadSample {
			continue
		}
		v, ok := s[id]
		if !ok {
			return fmt.Errorf("trainer: the reference was not asked for example %d", id)
		}
		dst[r] = v
	}
	return nil
}

// has reports whether all rows of a micro-batch are there.
func (s stored) has(b *data.Batch) bool {
	for r := range b.B {
		if id := b.Sample[r*b.T]; id != data.PadSample {
			if _, ok := s[id]; !ok {
				return false
			}
		}
	}
	return true
}

// keep stores the rows of a micro-batch.
func (s stored) keep(b *data.Batch, logps []float32) {
	for r := range b.B {
		if id := b.Sample[r*b.T]; id != data.PadSample {
			s[id] = logps[r]
		}
	}
}

// referenceFile holds the stored reference in a run directory.
const referenceFile = "reference.safetensors"

// storeReference asks the model as it is now for every pair, or reads what an earlier start of the run stored.
func (j *job) storeReference(ctx context.Context) error {
	if j.scorer == nil || j.liveReference() {
		return nil
	}
	origin := map[string]string{"config_sha256": j.state.ConfigHash, "data_sha256": j.state.DataHash, "model_sha256": j.state.ModelHash}
	if j.cfg.Resume {
		s, err := readReference(j.fs, j.path(referenceFile), origin)
		if err != nil || s != nil {
			j.reference = s
			return err
		}
	}
	j.reference = stored{}
	for _, set := range []*data.Set{j.train, j.held} {
		if set == nil {
			continue
		}
		j.log.Info("asking the reference model", "pairs", set.Len())
		for lo := 0; lo < set.Len(); lo += askedAtOnce {
			if err := j.ask(ctx, set, lo, min(lo+askedAtOnce, set.Len())); err != nil {
				return err
			}
		}
	}
	return withCode(config.ExitDisk, j.reference.write(j.fs, j.path(referenceFile), origin))
}

// askedAtOnce is how many pairs are in memory while they are sorted by length.
const askedAtOnce = 1 << 12

// ask stores the reference's log-probabilities of pairs [lo, hi) of a set.
func (j *job) ask(ctx context.Context, set *data.Set, lo, hi int) error {
	var seqs []scored
	for i := lo; i < hi; i++ {
		p, err := set.Pair(i)
		if err != nil {
			return err
		}
		for side, ex := range []data.Example{p.Chosen, p.Rejected} {
			seqs = append(seqs, scored{set.ID(i) + int32(side), ex.IDs, ex.Labels})
		}
	}
	return j.scorer.score(ctx, seqs, func(i int, logp float32) { j.reference[seqs[i].id] = logp })
}

func (s stored) write(fsys vfs.FS, path string, origin map[string]string) error {
	ids := make([]int32, 0, len(s))
	for id := range s {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	at, logps := tensor.New(tensor.T(tensor.I32, len(ids))), tensor.New(tensor.T(tensor.F32, len(ids)))
	copy(tensor.Data[int32](at), ids)
	for i, id := range ids {
		tensor.Data[float32](logps)[i] = s[id]
	}
	return checkpoint.WriteSafetensors(fsys, path, []checkpoint.Named{{Name: "example", Tensor: at}, {Name: "logp", Tensor: logps}}, origin)
}

// readReference returns nil where there is no file, or one of other settings, data or weights.
func readReference(fsys vfs.FS, path string, origin map[string]string) (stored, error) {
	f, err := checkpoint.OpenSafetensors(fsys, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, withCode(config.ExitInput, fmt.Errorf("%w; remove it, and the reference is asked again", err))
	}
	defer f.Close()
	for k, v := range origin {
		if f.Metadata()[k] != v {
			return nil, nil
		}
	}
	ids, err := f.Read("example")
	if err != nil {
		return nil, withCode(config.ExitInput, err)
	}
	logps, err := f.Read("logp")
	if err != nil {
		return nil, withCode(config.ExitInput, err)
	}
	if ids.DType() != tensor.I32 || logps.DType() != tensor.F32 || ids.Type().Size() != logps.Type().Size() {
		return nil, withCode(config.ExitInput, fmt.Errorf("%s: example is %v and logp %v, must be i32 and f32 of one length; remove the file, and the reference is asked again",
			path, ids.Type(), logps.Type()))
	}
	s := stored{}
	for i, id := range tensor.Data[int32](ids) {
		s[id] = tensor.Data[float32](logps)[i]
	}
	return s, nil
}

// liveReference reports whether the reference is the model without its adapter, asked in each step.
func (j *job) liveReference() bool {
	switch j.cfg.Train.Preference.Reference {
	case "live":
		return true
	case "precompute":
		return false
	}
	return j.cfg.Adapter.Fresh()
}

// makeObjective makes the objective of the configuration, with the plans that ask the reference.
func (j *job) makeObjective(o stepOptions) (objective, error) {
	if !j.cfg.Train.Preferences() {
		return nextToken{j.cfg.Train.Smoothing}, nil
	}
	p := preference{kind: j.cfg.Train.Objective, args: j.cfg.Train.Preference, held: stored{}}
	if !hasReference(p.kind) {
		return p, nil
	}
	o.objective = p
	live := j.liveReference() || p.kind == "kto"
	var err error
	if j.scorer, err = newAnswerScorer(j, o, live); err != nil {
		return nil, err
	}
	p.ref = j.scorer
	if !live {
		p.ref = askedBefore{j}
	}
	if p.kind == "kto" {
		if j.policy, err = newAnswerScorer(j, o, false); err != nil {
			return nil, err
		}
		p.drift = &drift{policy: j.policy, reference: j.scorer}
	}
	return p, nil
}

// askedBefore is the stored reference of a run, which is there once the weights are loaded.
type askedBefore struct{ j *job }

// logps implements reference.
func (a askedBefore) logps(ctx context.Context, b *data.Batch, dst []float32) error {
	return a.j.reference.logps(ctx, b, dst)
}

func (j *job) closeScorers() error {
	err := errors.Join(j.scorer.close(), j.policy.close())
	j.scorer, j.policy = nil, nil
	return err
}
