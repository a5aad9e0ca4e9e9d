package config

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/dlclark/regexp2/v2"

	"github.com/bitsandbyes/bitsandbyes/internal/nearest"
	"github.com/bitsandbyes/bitsandbyes/optim"
)

// Limits that no real run reaches: they keep typing errors from becoming huge allocations.
const (
	maxRank    = 1 << 16
	maxSeqLen  = 1 << 24
	maxRows    = 1 << 24
	maxSteps   = math.MaxInt32
	maxEpochs  = 1 << 20
	maxSources = 1 << 16
	maxSamples = 1 << 10
)

// Validate reports every value out of range and every combination that cannot train. Each joined error is an *ErrConfig.
func (c Config) Validate() error {
	var errs []error
	for _, p := range c.problems() {
		errs = append(errs, p)
	}
	return errors.Join(errs...)
}

// checker gathers problems.
type checker struct{ found []*ErrConfig }

func (k *checker) fail(key, format string, args ...any) {
	k.found = append(k.found, &ErrConfig{Key: key, Reason: fmt.Sprintf(format, args...)})
}

func (k *checker) whole(key string, v, low, high int) {
	if v < low || v > high {
		k.fail(key, "is %d, expected %d to %d", v, low, high)
	}
}

// from wants a finite v >= low.
func (k *checker) from(key string, v, low float64) {
	if !(v >= low) || math.IsInf(v, 0) {
		k.fail(key, "is %v, expected a finite number from %v", v, low)
	}
}

func (k *checker) positive(key string, v float64) {
	if !(v > 0) || math.IsInf(v, 0) {
		k.fail(key, "is %v, expected a finite number above 0", v)
	}
}

// share wants 0 <= v < 1.
func (k *checker) share(key string, v float64) {
	if !(v >= 0 && v < 1) {
		k.fail(key, "is %v, expected a share from 0 up to but without 1", v)
	}
}

func (c Config) problems() []*ErrConfig {
	var k checker
	for _, f := range fields(&c) {
		if f.enum != nil {
			got, _ := readText(f.value.node())
			if !slices.Contains(f.enum, got) {
				k.fail(f.key, "%q is not a known value%s", clip(got), didYouMean(alias(got), f.enum, ""))
			}
		}
	}
	k.quantization(c)
	k.adapter(c.Adapter)
	k.data(c.Data)
	k.training(c.Train)
	k.schedule(c.Train)
	k.updates(c.Train)
	k.unread(c)
	k.preferenceRun(c)
	k.rest(c)
	return k.found
}

func (k *checker) quantization(c Config) {
	q := c.Quantize
	fourBit := q.Scheme == "nf4" || q.Scheme == "fp4"
	if b := q.Blocksize; fourBit && (b < 32 || b > 4096 || b&(b-1) != 0) {
		k.fail("quantize.blocksize", "is %d, expected a power of two from 32 to 4096", b)
	}
	if c.Adapter.Type == "none" && q.Scheme != "none" && slices.Contains(schemes, q.Scheme) {
		k.fail("quantize.scheme", "%s weights are frozen, but adapter.type none trains every weight: set quantize.scheme none, or adapter.type lora", q.Scheme)
	}
}

// targets checks what picks modules.
func (k *checker) targets(key string, t Targets) {
	switch {
	case t.Names != nil && t.Pattern != "":
		k.fail(key, "holds both a pattern and a list: keep one")
	case t.Names != nil:
		if len(t.Names) == 0 || slices.Contains(t.Names, "") {
			k.fail(key, "the list is empty or holds an empty name: name the modules, such as [q_proj, v_proj], or write all-linear")
		}
	case t.Pattern == "":
		k.fail(key, "is empty: write all-linear, a pattern or a list such as [q_proj, v_proj]")
	case t.All():
		if key != "adapter.targets" {
			k.fail(key, "all-linear is for adapter.targets: name the modules, such as [down_proj]")
		}
	case nearest.Distance(strings.ReplaceAll(strings.ToLower(t.Pattern), "_", "-"), AllLinear) <= 2:
		k.fail(key, "%q: did you mean all-linear?", t.Pattern)
	case strings.Contains(t.Pattern, ",") && !strings.ContainsAny(t.Pattern, `{}()[]\`):
		k.fail(key, "%q: a list is written in brackets, [%s]", clip(t.Pattern), clip(t.Pattern))
	default:
		if _, err := regexp2.Compile(t.Pattern, regexp2.None); err != nil {
			k.fail(key, "is no regular expression: %v", err)
		}
	}
}

func (k *checker) data(d Data) {
	if len(d.Path) == 0 {
		k.fail("data.path", "is empty: name a file, a glob or a list of {path, weight}")
	}
	k.sources("data.path", d.Path)
	k.sources("data.val_path", d.ValPath)
	k.whole("data.seq_len", d.SeqLen, 2, maxSeqLen)
	k.share("data.val", d.Val)
}

func (k *checker) sources(key string, list []Source) {
	if len(list) > maxSources {
		k.fail(key, "lists %d inputs, expected at most %d: use a glob", len(list), maxSources)
	}
	for i, s := range list {
		if s.Path == "" {
			k.fail(key, "entry %d has an empty path", i+1)
		}
		if !(s.Weight > 0) || math.IsInf(s.Weight, 0) {
			k.fail(key, "entry %d (%s) has weight %v, expected a finite number above 0", i+1, clip(s.Path), s.Weight)
		}
	}
}

func (k *checker) training(t Train) {
	k.whole("train.steps", t.Steps, 0, maxSteps)
	k.from("train.epochs", t.Epochs, 0)
	if t.Epochs > maxEpochs {
		k.fail("train.epochs", "is %v, expected at most %d", t.Epochs, maxEpochs)
	}
	if t.Steps == 0 && t.Epochs == 0 {
		k.fail("train.epochs", "and train.steps are both 0, so nothing would be trained: set one of them")
	}
	k.whole("train.batch", t.Batch, 1, maxRows)
	k.whole("train.micro_batch", t.MicroBatch, 1, maxRows)
	if t.MicroBatch > t.Batch && t.Batch > 0 {
		k.fail("train.micro_batch", "is %d, above train.batch %d: a batch is made of micro-batches", t.MicroBatch, t.Batch)
	}
	k.from("train.lr", t.LR, 0)
	k.from("train.warmup", t.Warmup, 0)
	if t.Warmup >= 1 && t.Warmup != math.Trunc(t.Warmup) {
		k.fail("train.warmup", "is %v: below 1 it is a share, from 1 on a whole number of steps", t.Warmup)
	}
	k.whole("train.min_8bit_size", t.Min8bitSize, 0, math.MaxInt)
	k.from("train.neftune", t.NEFTune, 0)
	if k.share("train.label_smoothing", t.Smoothing); t.Smoothing > 0 && t.Preferences() {
		k.fail("train.label_smoothing", "is of the objective sft; dpo has train.preference_args.label_smoothing")
	}
	k.from("train.router_loss", t.RouterLoss, 0)
	k.preference(t)
	k.betas(t)
	k.positive("train.eps", t.Eps)
	k.from("train.weight_decay", t.WeightDecay, 0)
	k.from("train.clip", t.Clip, 0)
	if t.Offload == "inputs" && t.Checkpointing == "off" {
		k.fail("train.offload", "is inputs, those of recomputed blocks, but train.checkpointing off recomputes none: set it to auto or on, or train.offload to all")
	}
	if _, err := t.MemoryBytes(); err != nil {
		k.fail("train.memory", "%v", err)
	}
}

// preference checks what shapes the losses of preferences.
func (k *checker) preference(t Train) {
	const p = "train.preference_args."
	a := t.Preference
	k.from(p+"beta", a.Beta, 0)
	if !(a.Smoothing >= 0 && a.Smoothing < 0.5) {
		k.fail(p+"label_smoothing", "is %v, expected a share from 0 up to but without 0.5: beyond it rejected answers would be preferred", a.Smoothing)
	}
	k.from(p+"gamma", a.Gamma, 0)
	k.from(p+"desired", a.Desired, 0)
	k.from(p+"undesired", a.Undesired, 0)
}

// preferenceRun checks what an objective of preferences needs of the rest of the configuration.
func (k *checker) preferenceRun(c Config) {
	if !c.Train.Preferences() {
		return
	}
	const reference = "train.preference_args.reference"
	switch {
	case c.Train.Objective == "kto" && !c.Adapter.Fresh():
		k.fail("train.objective", "kto asks the reference for new pairs of prompt and answer in each step, which needs a fresh adapter that can be left out: set adapter.type lora without an adapter.init that names a directory or changes the weights, or take dpo")
	case c.Train.Preference.Reference != "live":
	case c.Adapter.Type == "none":
		k.fail(reference, "live is the model without its adapter, and adapter.type none has none: set it to precompute")
	case !c.Adapter.Fresh():
		k.fail(reference, "live is the model without its adapter, but the run starts from adapter.init %s, which the model without it is not: set it to precompute", clip(c.Adapter.Init))
	}
	if f := c.Data.Format; f != "auto" && f != "preference" {
		k.fail("data.format", "is %s, but train.objective %s learns from pairs of answers: set data.format to preference, or train.objective to sft", clip(f), c.Train.Objective)
	}
}

// schedule checks what shapes the learning rate; the number of steps is not known yet.
func (k *checker) schedule(t Train) {
	const p = "train.schedule_args."
	s := t.ScheduleArgs
	k.from(p+"min_lr", s.MinLR, 0)
	if s.MinLR > t.LR && t.LR >= 0 {
		k.fail(p+"min_lr", "is %v, above train.lr %v: it is a rate, not a share of it", s.MinLR, t.LR)
	}
	k.whole(p+"cycles", s.Cycles, 0, 1<<16)
	k.from(p+"cycle_mult", s.CycleMult, 0)
	k.from(p+"power", s.Power, 0)
	k.from(p+"timescale", s.Timescale, 0)
	k.from(p+"decay", s.Decay, 0)
	for _, v := range []struct {
		name string
		v    float64
	}{{"start_div", s.StartDiv}, {"end_div", s.EndDiv}} {
		if v.v != 0 {
			k.from(p+v.name, v.v, 1)
		}
	}
	k.share(p+"factor", s.Factor)
	k.whole(p+"patience", s.Patience, 0, maxSteps)
	k.whole(p+"cooldown", s.Cooldown, 0, maxSteps)
	k.share(p+"threshold", s.Threshold)
}

// updates checks what happens to gradients and weights beside the optimizer's rule.
func (k *checker) updates(t Train) {
	k.from("train.clip_value", t.ClipValue, 0)
	k.whole("train.percentile_clipping", t.Percentile, 0, 99)
	k.from("train.adaptive_clip", t.AdaptiveClip, 0)
	if s := t.LossScale; s != 0 && (!(s >= optim.MinLossScale && s <= optim.MaxLossScale) || s != math.Exp2(math.Round(math.Log2(s)))) {
		k.fail("train.loss_scale", "is %v; it must be a power of two, so that scaling rounds nothing, from 2^-14 to 2^24, or 0 for one that fits the run", s)
	}
	k.whole("train.loss_scale_interval", t.ScaleInterval, 1, maxSteps)
	k.share("train.ema", t.EMA)
	k.whole("train.ema_every", t.EMAEvery, 0, maxSteps)
	for i, g := range t.Groups {
		if _, err := regexp.Compile(g.Match); err != nil {
			k.fail("train.groups", "entry %d: match is no regular expression: %v", i+1, err)
		}
		for _, v := range []struct {
			name string
			v    *float64
		}{{"lr_scale", g.LRScale}, {"weight_decay", g.WeightDecay}} {
			if v.v != nil && (!(*v.v >= 0) || math.IsInf(*v.v, 0)) {
				k.fail("train.groups", "entry %d (%s): %s is %v, expected a finite number from 0", i+1, clip(g.Match), v.name, *v.v)
			}
		}
		if g.Bits != 0 && g.Bits != 8 && g.Bits != 32 {
			k.fail("train.groups", "entry %d (%s): bits is %d, expected 8 or 32", i+1, clip(g.Match), g.Bits)
		}
		if g.LRScale == nil && g.WeightDecay == nil && g.Bits == 0 {
			k.fail("train.groups", "entry %d (%s) sets nothing: give it lr_scale, weight_decay or bits", i+1, clip(g.Match))
		}
	}
	const p = "train.optimizer_args."
	o := t.OptimizerArgs
	for _, v := range []struct {
		name string
		v    float64
	}{{"momentum", o.Momentum}, {"dampening", o.Dampening}, {"alpha", o.Alpha}, {"t_alpha", o.TAlpha}, {"t_beta3", o.TBeta3},
		{"decay_rate", o.DecayRate}, {"eps2", o.Eps2}, {"clip_threshold", o.ClipThreshold}} {
		k.from(p+v.name, v.v, 0)
	}
	k.whole(p+"newton_schulz", o.NewtonSchulz, 0, 20)
	if math.IsNaN(o.MaxUnorm) || math.IsInf(o.MaxUnorm, 0) {
		k.fail(p+"max_unorm", "is %v, expected a finite number; a negative one is no bound", o.MaxUnorm)
	}
}

func (k *checker) betas(t Train) {
	most, allowed := 2, "two values"
	if strings.Contains(t.Optimizer, "ademamix") {
		most, allowed = 3, "two or three values"
	}
	if len(t.Betas) < 2 || len(t.Betas) > most {
		k.fail("train.betas", "has %d values, %s takes %s, such as [0.9, 0.999]", len(t.Betas), clip(t.Optimizer), allowed)
	}
	for _, b := range t.Betas {
		k.share("train.betas", b)
	}
}

// devicePattern is the form of a device's name. Which devices and settings there are, the device tells when it is opened.
var (
	deviceKinds   = []string{"auto", "cpu", "cuda", "opencl"}
	devicePattern = regexp.MustCompile(`^(auto|(cpu|cuda|opencl)(:[0-9]{1,3})?(:[a-z0-9_]{1,30}=[a-z0-9_]{1,30})?)$`)
)

func (k *checker) rest(c Config) {
	if c.Model == "" {
		k.fail("model", "is empty: name a model directory or file, or builtin:tiny")
	}
	k.whole("eval.every", c.Eval.Every, 0, maxSteps)
	k.whole("eval.samples", c.Eval.Samples, 0, maxSamples)
	k.whole("eval.sample_tokens", c.Eval.Tokens, 0, maxSeqLen)
	k.whole("eval.patience", c.Eval.Patience, 0, maxSteps)
	k.from("eval.min_delta", c.Eval.MinDelta, 0)
	if c.Eval.Patience > 0 && (c.Eval.Every == 0 || !c.Data.HeldOut()) {
		k.fail("eval.patience", "waits for the loss of held-out rows to fall: set eval.every and data.val above 0 (or data.val_path)")
	}
	if c.Save.Best && !c.Data.HeldOut() {
		k.fail("save.best", "is the checkpoint of the lowest held-out loss, and no row is held out: set data.val above 0 (or data.val_path)")
	}
	k.whole("save.every", c.Save.Every, 0, maxSteps)
	k.whole("save.keep", c.Save.Keep, 0, maxSteps)
	if !devicePattern.MatchString(c.Device) {
		kind, _, _ := strings.Cut(c.Device, ":")
		hint := ""
		if !slices.Contains(deviceKinds, kind) {
			hint = didYouMean(alias(kind), deviceKinds, "")
		}
		k.fail("device", "%q is not a device%s (after the kind comes the number of one device, a setting, or both: cuda:0, cpu:threads=2, cuda:1:sync=on)", clip(c.Device), hint)
	}
	if c.Train.Schedule == "plateau" && (c.Eval.Every == 0 || !c.Data.HeldOut()) {
		k.fail("train.schedule", "plateau follows the loss of held-out rows: set eval.every and data.val above 0 (or data.val_path)")
	}
	if c.Resume && c.Out == "" {
		k.fail("resume", "needs out: without it every run gets a new directory, and there is nothing to resume from")
	}
}

// problems are those that depend on the command.
func (l Loader) problems(c Config) []*ErrConfig {
	var k checker
	_, architecture := c.Architecture()
	switch {
	case !architecture:
	case l.Command != Pretrain:
		k.fail("model", "%s describes a model without weights: name the directory that holds the weights, or use pretrain", clip(c.Model))
	case c.Adapter.Type != "none":
		k.fail("adapter.type", "is %s, but a model made from %s has no trained weights to adapt: set adapter.type none", clip(c.Adapter.Type), clip(c.Model))
	}
	return k.found
}

// alias maps spellings of other tools to ours, so that the suggestion is right.
func alias(s string) string {
	switch strings.ToLower(s) {
	case "fp32", "float32", "float":
		return "f32"
	case "fp16", "float16", "half":
		return "f16"
	case "bfloat16":
		return "bf16"
	case "gpu", "nvidia":
		return "cuda"
	case "8bit", "llm.int8":
		return "int8"
	case "4bit":
		return "nf4"
	case "adamw_8bit", "adamw_bnb_8bit":
		return "adamw8bit"
	case "paged_adamw_8bit":
		return "pagedadamw8bit"
	case "adamw_torch", "adamw_torch_fused", "adamw_hf":
		return "adamw"
	}
	return s
}
