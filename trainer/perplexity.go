package trainer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"

	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// PerplexityOptions says which model is evaluated on which rows. Model and Data are required.
type PerplexityOptions struct {
	FS        vfs.FS // nil: the operating system's
	Model     string // as in a configuration
	Data      string // file or glob of rows
	Format    string // "" = auto
	SeqLen    int    // longest row in tokens; 0 = 512, or the model's context if that is less
	Device    string // "" = auto
	Execution Execution
	DType     string // compute dtype; "" = auto
}

// Perplexity is the mean loss of a model.
type Perplexity struct {
	Loss       float64 `json:"loss"` // mean over the counted tokens, in nats
	Perplexity float64 `json:"perplexity"`
	Tokens     int64   `json:"tokens"` // that were counted
}

// Rows computed at once, and their length, where nothing else is said.
const (
	evalRows   = 4
	evalSeqLen = 512
)

// MeasurePerplexity evaluates a model with the loss of the training loop.
func MeasurePerplexity(ctx context.Context, o PerplexityOptions) (p Perplexity, err error) {
	dev, err := o.Execution.Open(o.Device)
	if err != nil {
		return p, err
	}
	session := o.Execution.Session(plan.NewStore(dev))
	defer func() { err = classify(errors.Join(err, session.Close(), dev.Close())) }()
	policy, err := policyOf(config.Config{Adapter: config.Adapter{Type: "lora"}, Train: config.Train{DType: o.DType}}, dev.Info())
	if err != nil {
		return p, err
	}
	m, err := OpenModel(o.Model, ModelOptions{FS: o.FS, Policy: policy})
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	set, err := m.rows(ctx, o)
	if err != nil {
		return p, err
	}
	loader, err := data.NewLoader(set, data.LoaderOptions{SeqLen: m.evalLength(o.SeqLen), MicroBatch: evalRows, Batch: evalRows, Epochs: 1,
		PadID: max(m.Config().Pad, 0)})
	if err != nil {
		return p, badConfig("data", "%v", err)
	}
	s := &stepPlans{eval: map[int]*lossPlan{}, objective: nextToken{}}
	defer func() { err = errors.Join(err, s.close()) }()
	for _, t := range loader.Buckets() {
		if s.eval[t], err = compileLoss(m.Model, nil, nil, t, stepOptions{device: dev, session: session, objective: s.objective, rows: evalRows}); err != nil {
			return p, err
		}
	}
	if err := m.Source.Load(session.Store()); err != nil {
		return p, withCode(config.ExitInput, fmt.Errorf("model %s: %w", o.Model, err))
	}
	t, err := s.evaluate(ctx, loader)
	p.Loss = t.mean()
	p.Perplexity, p.Tokens = math.Exp(p.Loss), int64(set.Report().Trained)
	if err == nil && math.IsNaN(p.Loss) {
		err = withCode(config.ExitInput, fmt.Errorf("%s: the loss of the model is not a number, or no token counts", o.Data))
	}
	return p, err
}

// rows reads data with the model's tokenizer.
func (m *Model) rows(ctx context.Context, o PerplexityOptions) (*data.Set, error) {
	do := data.Options{Format: o.Format, SeqLen: m.evalLength(o.SeqLen), Mask: data.MaskNone, Vocab: m.Config().Vocab, Workers: runtime.GOMAXPROCS(0),
		EOS: m.EOS()[:min(1, len(m.EOS()))], AnyRole: true}
	if do.Format == "" {
		do.Format = "auto"
	}
	do.BOS = m.Begin()
	if _, err := m.renderer(&do, "", nil); err != nil {
		return nil, err
	}
	set, err := data.Load(ctx, NewEncoder(m.Tokenizer), []data.File{{Path: o.Data}}, do)
	var row *data.RowError
	if err != nil && !errors.As(err, &row) {
		return nil, badConfig("data", "%v", err)
	}
	return set, err
}

func (m *Model) evalLength(n int) int {
	if n == 0 {
		n = evalSeqLen
	}
	return min(n, m.Config().MaxPositions)
}

// TokenRows reads a file of rows as token ids of a model, at most limit rows (0: all), each as a matrix (1, T) i32: what calibration runs
// a model on.
func (m *Model) TokenRows(ctx context.Context, path string, seqLen, limit int) ([]*tensor.Tensor, error) {
	set, err := m.rows(ctx, PerplexityOptions{Data: path, SeqLen: seqLen})
	if err != nil {
		return nil, classify(err)
	}
	loader, err := data.NewLoader(set, data.LoaderOptions{SeqLen: m.evalLength(seqLen), MicroBatch: 1, Batch: 1, Epochs: 1, PadID: max(m.Config().Pad, 0)})
	if err != nil {
		return nil, badConfig("data", "%v", err)
	}
	var out []*tensor.Tensor
	var buf []data.Batch
	for step := range loader.Steps() {
		if limit > 0 && len(out) == limit {
			break
		}
		if buf, err = loader.StepInto(step, buf); err != nil {
			return nil, err
		}
		for i := range buf {
			n := buf[i].Real
			t := tensor.New(tensor.T(tensor.I32, 1, n))
			copy(tensor.Data[int32](t), buf[i].Tokens[:n])
			out = append(out, t)
		}
	}
	return out, nil
}
