package trainer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/tokenizer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// openModel opens the device and declares the model, its adapters and its optimizer: symbols only, no values yet.
func (j *job) openModel(context.Context) error {
	var err error
	if j.dev = j.hooks.Device; j.dev == nil {
		if j.dev, err = device.Open(j.cfg.Device); err != nil {
			return badConfig("device", "%v", err)
		}
		j.ownDev = true
	}
	if d, ok := j.dev.(interface{ Allocated() int64 }); ok {
		j.base = d.Allocated()
	}
	j.store = plan.NewStore(j.dev)
	j.session = plan.NewSession(j.store)
	policy, err := policyOf(j.cfg, j.dev.Info())
	if err != nil {
		return err
	}
	j.compute = policy.Compute
	j.model, err = OpenModel(j.cfg.Model, ModelOptions{FS: j.fs, Policy: policy, Quantize: j.cfg.Quantize, Seed: j.cfg.Train.Seed})
	if err != nil {
		return err
	}
	if j.cfg.Train.RouterLoss > 0 && j.model.Config().Mixture.Experts == 0 {
		return badConfig("train.router_loss", "is of models with experts, and %s has none; set it to 0", j.cfg.Model)
	}
	if j.cfg.Adapter.Type == "lora" {
		err = j.attach()
	} else {
		layers.SetTrainable(j.model.Model, true)
	}
	if err != nil {
		return err
	}
	return j.makeGroup()
}

// policyOf chooses dtypes: frozen weights keep the file's, trained ones are those of train.param.
func policyOf(cfg config.Config, info device.Info) (layers.Policy, error) {
	p := layers.Policy{Compute: tensor.F32}
	switch cfg.Train.DType {
	case "auto", "":
		if info.BF16 {
			p.Compute = tensor.BF16
		}
	default:
		d, ok := tensor.ParseDType(cfg.Train.DType)
		if !ok {
			return p, badConfig("train.dtype", "%q is not a dtype", cfg.Train.DType)
		}
		p.Compute = d
	}
	if cfg.Adapter.Type != "lora" {
		p.Param, _ = storageOf(cfg.Train)
	}
	return p, nil
}

// storageOf is how trained weights are stored and rounded.
func storageOf(t config.Train) (tensor.DType, optim.Rounding) {
	switch t.Param {
	case "bf16":
		return tensor.BF16, optim.Stochastic
	case "bf16-kahan":
		return tensor.BF16, optim.Kahan
	}
	return tensor.F32, optim.Nearest
}

func (j *job) attach() error {
	a := j.cfg.Adapter
	if a.Init != "" {
		saved, err := lora.Load(j.fs, a.Init)
		if err != nil {
			return withCode(config.ExitInput, err)
		}
		saved.Config.Dropout = float32(a.Dropout)
		saved.Config.Param, _ = storageOf(j.cfg.Train)
		j.log.Info("starting from an adapter, whose rank and alpha hold", "init", a.Init, "r", saved.Config.Rank, "alpha", saved.Config.Alpha)
		j.adapter, err = lora.AttachSaved(j.model.Model, saved, nil)
		return withCode(config.ExitInput, err)
	}
	c := lora.Config{Rank: a.R, Alpha: a.Alpha, Dropout: float32(a.Dropout), Seed: j.cfg.Train.Seed}
	c.Param, _ = storageOf(j.cfg.Train)
	if !a.Targets.All() {
		c.Targets = lora.Targets{Pattern: a.Targets.Pattern, Names: a.Targets.Names}
	}
	var err error
	if j.adapter, err = lora.Attach(j.model.Model, c); err != nil {
		return badConfig("adapter", "%v", err)
	}
	return nil
}

func (j *job) makeGroup() error {
	t := j.cfg.Train
	if err := scheduleOf(t, 0).Check(); err != nil {
		return badConfig("train.schedule", "%v", err)
	}
	opt, err := optimizerOf(t)
	if err != nil {
		return badConfig("train.optimizer", "%v", err)
	}
	params := layers.Trainable(j.model.Model)
	o, err := groupOptions(t, params)
	if err != nil {
		return err
	}
	o.Optimizer = opt
	if j.group, err = optim.NewGroup(params, o); err != nil {
		return badConfig("train.optimizer", "%v", err)
	}
	j.sum.EightBit = j.group.NumEightBit()
	j.parts, err = newUpdateParts(t, j.compute, t.MicroBatch*j.cfg.Data.SeqLen, j.group)
	return err
}

// encoder gives package data the tokenizer without special tokens.
type encoder struct{ tok tokenizer.Tokenizer }

// Encode implements data.Encoder.
func (e encoder) Encode(text string) ([]int32, error) {
	if e.tok == nil {
		return nil, errors.New("the model has no tokenizer (tokenizer.json) beside it; give rows of token ids (data.format tokens) or add the tokenizer")
	}
	return e.tok.EncodeWith(text, tokenizer.EncodeOptions{NoSpecial: true})
}

// openData reads and splits the rows.
func (j *job) openData(ctx context.Context) error {
	files, heldFiles, err := j.dataFiles()
	if err != nil {
		return err
	}
	o := data.Options{Format: j.cfg.Data.Format, SeqLen: j.cfg.Data.SeqLen, Mask: data.Mask(j.cfg.Data.Mask),
		Vocab: j.model.Config().Vocab, Workers: runtime.GOMAXPROCS(0), EOS: j.model.EOS()[:min(1, len(j.model.EOS()))]}
	if o.SeqLen > j.model.Config().MaxPositions {
		j.log.Warn("data.seq_len is beyond the model's context; shortened", "seq_len", o.SeqLen, "context", j.model.Config().MaxPositions)
		o.SeqLen = j.model.Config().MaxPositions
	}
	j.seqLen, j.micro = o.SeqLen, j.cfg.Train.MicroBatch
	o.BOS = j.model.Begin()
	o.Pairs, o.SpillDir = j.cfg.Train.Preferences(), j.cfg.Out
	all, err := data.Load(ctx, encoder{j.model.Tokenizer}, files, o)
	if err != nil {
		return j.dataError(err)
	}
	if len(heldFiles) > 0 {
		j.train = all
		if j.held, err = data.Load(ctx, encoder{j.model.Tokenizer}, heldFiles, o); err != nil {
			return j.dataError(err)
		}
	} else if j.train, j.held, err = all.Split(j.cfg.Data.Val, j.cfg.Train.Seed); err != nil {
		return badConfig("data.val", "%v", err)
	}
	r := j.train.Report()
	j.log.Info("data", "rows", r.Rows, "tokens", r.Tokens, "trained", r.Trained, "truncated", r.Truncated, "dropped", r.Dropped)
	if j.held == nil && (j.cfg.Data.Val > 0 || j.cfg.Eval.Every > 0) {
		j.log.Warn("no rows are held out: there is no evaluation", "rows", r.Rows, "data.val", j.cfg.Data.Val)
	}
	return j.makeLoaders()
}

// dataError tells a setting that is wrong from a file that is, and a path that was never given from one that is missing.
func (j *job) dataError(err error) error {
	var row *data.RowError
	var spill *data.SpillError
	switch {
	case errors.As(err, &spill):
		return withCode(config.ExitDisk, err)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case !errors.As(err, &row):
		return badConfig("data", "%s", strings.TrimPrefix(err.Error(), "data: "))
	case errors.Is(err, fs.ErrNotExist) && len(j.cfg.Data.Path) == 1 && j.cfg.Data.Path[0].Path == unsetPath:
		return &config.ErrConfig{Key: "data.path", Reason: "is not given; name a file of rows with --data.path", Err: errNoData}
	}
	return err
}

// errNoData says that no data was named.
var errNoData = errors.New("no data")

// unsetPath is the default of data.path, which stands for a file that the user names.
var unsetPath = config.Default(config.Finetune).Data.Path[0].Path

func (j *job) makeLoaders() error {
	t := j.cfg.Train
	o := data.LoaderOptions{SeqLen: j.seqLen, MicroBatch: j.micro, Batch: t.Batch, Pack: j.cfg.Data.Pack, Shuffle: j.cfg.Data.Shuffle,
		Seed: t.Seed, Epochs: max(int(t.Epochs), 1), Steps: t.Steps, PadID: max(j.model.Config().Pad, 0)}
	var err error
	if j.loader, err = data.NewLoader(j.train, o); err != nil {
		return badConfig("data", "%v", err)
	}
	if t.Steps == 0 && t.Epochs != float64(int(t.Epochs)) {
		o.Steps = max(int(t.Epochs*float64(j.loader.StepsPerEpoch())+0.5), 1)
		if j.loader, err = data.NewLoader(j.train, o); err != nil {
			return badConfig("data", "%v", err)
		}
	}
	if j.held != nil && j.held.Len() > 0 {
		o.Shuffle, o.Epochs, o.Steps = false, 1, 0
		if !j.held.Pairs() { // kto compares the pairs of a whole step
			o.Batch = o.MicroBatch
		}
		if j.evalLoader, err = data.NewLoader(j.held, o); err != nil {
			return badConfig("data.val", "%v", err)
		}
	}
	j.sched = scheduleOf(t, j.loader.Steps())
	if err := j.sched.Check(); err != nil {
		return badConfig("train.schedule", "%v", err)
	}
	return nil
}

// load reads the weights and puts the run where its newest checkpoint left it.
func (j *job) load(ctx context.Context) error {
	if err := j.model.Source.Load(j.store); err != nil {
		return withCode(config.ExitInput, fmt.Errorf("model %s: %w", j.cfg.Model, err))
	}
	if j.adapter != nil {
		if err := j.adapter.Init(j.store); err != nil {
			return err
		}
	}
	if err := j.identify(); err != nil {
		return err
	}
	if err := j.storeReference(ctx); err != nil { // of the weights as the run begins, which a checkpoint replaces
		return err
	}
	if err := j.restore(); err != nil {
		return err
	}
	return j.makePlateau()
}
