package trainer

import (
	"context"
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// openModel opens the device and declares the model, its adapters and its optimizer: symbols only, no values yet.
func (j *job) openModel(context.Context) error {
	var err error
	if j.dev = j.hooks.Device; j.dev != nil {
		err = j.execution().set(j.dev)
	} else if j.dev, err = j.execution().Open(j.cfg.Device); err == nil {
		j.ownDev = true
	}
	if err != nil {
		return err
	}
	if d, ok := j.dev.(interface{ Allocated() int64 }); ok {
		j.base = d.Allocated()
	}
	j.store = plan.NewStore(j.dev)
	j.session = j.execution().Session(j.store)
	policy, err := policyOf(j.cfg, j.dev.Info())
	if err != nil {
		return err
	}
	j.compute = policy.Compute
	if s := j.cfg.Train.LossScale; s != 0 && j.compute != tensor.F16 {
		return badConfig("train.loss_scale", "is %v, and only runs in f16 scale their loss: this one computes in %v; set it to 0, or train.dtype to f16", s, j.compute)
	}
	if j.model, err = j.open(policy); err != nil {
		return err
	}
	if j.cfg.Train.RouterLoss > 0 && j.model.Config().Mixture.Experts == 0 {
		return badConfig("train.router_loss", "is of models with experts, and %s has none; set it to 0", j.cfg.Model)
	}
	for _, note := range j.model.Config().Notes {
		j.log.Warn(note)
	}
	if j.cfg.Adapter.On() {
		err = j.attach()
	} else {
		layers.SetTrainable(j.model.Model, true)
	}
	if err != nil {
		return err
	}
	return j.makeGroup()
}

// open opens the model.
func (j *job) open(policy layers.Policy) (*Model, error) {
	if j.shape == nil {
		return OpenModel(j.cfg.Model, ModelOptions{FS: j.fs, Policy: policy, Quantize: j.cfg.Quantize, Seed: j.cfg.Train.Seed,
			NewTokens: j.cfg.Data.NewTokens, Beside: j.cfg.Adapter.InitDir()})
	}
	if j.cfg.Adapter.On() {
		policy.Param = tensor.BF16 // as the files of such models have it
	}
	return openShape(j.cfg.Model, *j.shape, policy, j.cfg.Quantize, j.cfg.Train.Seed)
}

// execution is how the run computes.
func (j *job) execution() Execution {
	return Execution{Launch: j.cfg.Train.Launch, Deterministic: j.cfg.Deterministic, TF32: j.cfg.Train.TF32}
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
	if !cfg.Adapter.On() {
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
	if dir := a.InitDir(); dir != "" {
		saved, err := lora.Load(j.fs, dir)
		if err != nil {
			return withCode(config.ExitInput, err)
		}
		saved.Config.Dropout = float32(a.Dropout)
		saved.Config.Param, _ = storageOf(j.cfg.Train)
		j.log.Info("starting from an adapter, whose kind, rank and alpha hold", "init", dir, "r", saved.Config.Rank, "alpha", saved.Config.Alpha)
		j.adapter, err = lora.AttachSaved(j.model.Model, saved, nil)
		return withCode(config.ExitInput, err)
	}
	c := a.LoRA()
	c.Seed = j.cfg.Train.Seed
	c.Param, _ = storageOf(j.cfg.Train)
	if len(j.model.New) > 0 && !a.TrainsWhole("embed_tokens", "wte") { // else the adapter would not hold their rows
		ids := slices.Concat(a.Tokens, j.model.New)
		slices.Sort(ids)
		c.Tokens = map[string][]int{"": slices.Compact(ids)}
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
	if ratio := j.cfg.Adapter.PlusRatio; j.adapter != nil && ratio > 0 {
		for v, f := range j.adapter.LRScale(ratio) {
			if have, ok := o.LRScale[v]; ok {
				f *= have
			}
			o.LRScale[v] = f
		}
	}
	o.Optimizer = opt
	if j.group, err = optim.NewGroup(params, o); err != nil {
		return badConfig("train.optimizer", "%v", err)
	}
	j.sum.EightBit = j.group.NumEightBit()
	j.parts, err = newUpdateParts(t, j.compute, t.MicroBatch*j.cfg.Data.SeqLen, j.group)
	return err
}

// load reads the weights and puts the run where its newest checkpoint left it.
func (j *job) load(ctx context.Context) error {
	if err := j.model.Source.Load(j.store); err != nil {
		return withCode(config.ExitInput, fmt.Errorf("model %s: %w", j.cfg.Model, err))
	}
	if j.adapter != nil {
		if err := j.adapter.InitFrom(j.store, j.model.Source.Original); err != nil {
			return withCode(config.ExitInput, err)
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
