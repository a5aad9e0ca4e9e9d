// Package config is the typed configuration of a run: one YAML file, overrides from the command line, presets.
//
// The keys are a promise to users and their scripts, so they are held in one table (see fields.go) from which reading, writing,
// hashing and the suggestions for mistyped keys all follow. Nothing is dropped in silence: an unknown key, a value of the
// wrong type or a combination that cannot train is an error that names the file, the line, the key and the remedy.
package config

import "time"

// Commands that have defaults of their own. Any other command reads a configuration as Finetune does.
const (
	Finetune = "finetune"
	Pretrain = "pretrain"
)

// Config is a whole run. The zero value is not a valid run: start from Default, Load or a preset.
type Config struct {
	// Model is "builtin:tiny", a Hugging Face directory, a GGUF file, a llama2.c file or the folder that holds one; for
	// pretraining it may also be the path of a config.json, see Architecture. Empty selects the built-in preset.
	Model    string
	Quantize Quantize
	Adapter  Adapter
	Data     Data
	Train    Train
	Eval     Eval
	Save     Save
	// Device is auto, cpu, cpu:threads=2, cuda, cuda:0, cuda:1:sync=on and the like, see device.Open. On the CPU there are as many threads as
	// processors that the process may use, unless the name says otherwise; the results are the same.
	Device string
	// Out is the run directory; empty means a new one, see RunDir.
	Out string
	// Resume continues from the newest durable checkpoint under Out, or starts when there is none.
	Resume bool
	// Deterministic asks for the same bits on every repetition of the run.
	Deterministic bool
}

// Quantize says how frozen weights are stored.
type Quantize struct {
	Scheme    string // none, nf4, fp4 or int8
	Blocksize int    // elements that share one absmax; 4-bit schemes only
	Double    bool   // quantize the absmax values too; 4-bit schemes only
	Compute   string // dtype the products are computed in; empty = Train.DType
}

// Data says what is trained on.
type Data struct {
	Path     []Source
	Format   string   // auto or the name of a layout
	SeqLen   int      // longest row in tokens
	Pack     bool     // put several documents in a row; they never see each other
	Shuffle  bool     // shuffle rows anew in each epoch
	Mask     string   // which tokens are trained: none = all, prompt = all but the prompt, assistant = all assistant turns, last = the last of them
	Val      float64  // share of the rows held out for evaluation, in [0, 1)
	ValPath  []Source // rows held out, in files of their own; Val is not used then
	Template string   // file of a chat template or the name of a built-in one; empty = the tokenizer's own
	Chat     bool     // rows of plain prompts and answers are rendered as conversations too
	// Roles are those of turns that neither every template nor this one knows: see data.UnknownRole.
	Roles []string
	// NewTokens are special tokens that the tokenizer and the model's vocabulary gain. Of an adapter's model their rows alone are trained.
	NewTokens []string
}

// HeldOut reports whether rows are held out for evaluation.
func (d Data) HeldOut() bool { return d.Val > 0 || len(d.ValPath) > 0 }

// Source is one input of a mix: a file or a glob. Weight is how often each of its rows is seen in an epoch; a fraction takes that share
// of the rows, another share each epoch. Rows that are held out are seen once, whatever the weight.
type Source struct {
	Path   string
	Weight float64
}

// Train says how.
type Train struct {
	Objective     string // sft: next-token loss on the tokens that Data.Mask leaves; dpo, orpo, simpo, kto: preferences, see package layers
	Preference    PreferenceArgs
	Epochs        float64 // passes over the data
	Steps         int     // optimizer steps; above 0 it overrides Epochs
	Batch         int     // rows an optimizer step, over all ranks
	MicroBatch    int     // rows computed at once on one device
	LR            float64 // peak learning rate
	Schedule      string  // shape of the learning rate, a name of optim.ScheduleNames
	ScheduleArgs  ScheduleArgs
	Warmup        float64 // below 1 a share of all steps, else a number of steps
	Optimizer     string  // a bitsandbytes class name in lower case
	OptimizerArgs OptimizerArgs
	Groups        []ParamGroup
	NoDecay       string    // parameters that are not decayed: none, or vectors = those with one dimension, norms and biases
	Min8bitSize   int       // tensors with fewer elements keep 32-bit states
	Betas         []float64 // two values; three for ademamix
	Eps           float64
	WeightDecay   float64
	Clip          float64 // largest norm of the whole gradient; 0 = no clipping
	ClipValue     float64 // largest absolute value of a gradient's element; 0 = no clipping. It comes before the norms
	Percentile    int     // the gradient's norm is cut to this percentile of the last 100 norms; 0 = no clipping
	Smoothing     float64 // of sft: share of each target that is spread over the vocabulary while training
	NEFTune       float64 // noise on embeddings while training: alpha of Jain et al. 2023; 0 = none
	RouterLoss    float64 // weight of the load-balancing loss of models with experts; 0 = none
	AdaptiveClip  float64 // largest norm of a parameter's gradient as a share of the parameter's norm; 0 = no clipping
	EMA           float64 // decay of an average of the trained weights, which is evaluated and written as the result; 0 = none
	EMAEvery      int     // steps between updates of the average
	EMAWarmup     bool    // update t of the average, from 0, keeps at most (1+t)/(10+t) of it
	DType         string  // compute dtype: auto = bf16 on a GPU that has it, else f32
	LossScale     float64 // of f16: the loss scale of the first step, a power of two; 0 = one that fits the tokens of a micro-batch
	ScaleInterval int     // of f16: finite steps in a row after which the loss scale is doubled
	Param         string  // storage of trained weights: f32; bf16 with stochastic rounding; bf16-kahan with what rounding lost beside them
	Seed          uint64
	Checkpointing string // recompute activations: auto, on or off
	Offload       string // activations that wait in host memory: auto, off, inputs (of recomputed blocks) or all
	Memory        string // device memory to stay within, such as 16GiB; empty = all that is free
	TF32          bool   // products of float32 may round their operands on a GPU's tensor cores
	Launch        string // how kernels reach a GPU: captured, plain or synced, see plan.Launching
	Fit           bool   // choose micro_batch and checkpointing so that the run fits
}

// PreferenceArgs shape the losses of preferences; each is read by the objectives that its comment names. Zero values stand for the
// objective's own defaults.
type PreferenceArgs struct {
	Beta      float64 // strength of the reference (dpo, kto: 0.1), weight of the odds (orpo: 0.1), scale of the rewards (simpo: 2)
	Smoothing float64 // of dpo: share of pairs that are taken to be the wrong way round
	Gamma     float64 // of simpo: margin that rewards are pushed beyond
	Desired   float64 // of kto: weight of chosen answers; 0 = 1
	Undesired float64 // of kto: weight of rejected answers; 0 = 1
	Reference string  // of dpo: live, precompute, or auto
}

// ScheduleArgs shape the schedule; each is read by the schedules that its comment names. Zero values stand for the defaults.
type ScheduleArgs struct {
	MinLR      float64 // rate that the fall ends at (linear, cosine, polynomial, wsd, rex), or never goes below (inverse_sqrt, plateau)
	Cycles     int     // falls of cosine, each from the top
	CycleMult  float64 // length of a cycle relative to the one before
	Power      float64 // of polynomial
	Timescale  float64 // of inverse_sqrt in steps; 0 = the warm-up, without any 10,000
	Decay      float64 // of wsd: the fall at the end, below 1 a share of all steps, else steps
	DecayShape string  // of wsd: linear, cosine or sqrt
	StartDiv   float64 // of onecycle: it begins at lr/StartDiv
	EndDiv     float64 // of onecycle: it ends at lr/StartDiv/EndDiv
	Factor     float64 // of plateau: what the rate is multiplied by
	Patience   int     // of plateau: evaluations without progress that are borne
	Cooldown   int     // of plateau: evaluations after a reduction that are not counted
	Threshold  float64 // of plateau: progress is a loss below best·(1-Threshold)
}

// OptimizerArgs are hyperparameters that only some optimizers have; zero values stand for the optimizer's own defaults.
type OptimizerArgs struct {
	Momentum  float64 // of sgd, lars, adafactor and muon
	Dampening float64 // of sgd and lars
	Nesterov  bool    // of sgd and lars
	Alpha     float64 // of ademamix: weight of the slow average; of rmsprop: decay of the squares
	TAlpha    float64 // of ademamix: steps over which alpha grows
	TBeta3    float64 // of ademamix: steps over which the third beta grows
	MaxUnorm  float64 // largest norm of a parameter's update as a share of the parameter's norm, as in lamb and lars; negative: no bound
	SkipZeros bool    // elements whose gradient is 0 stay as they are

	DecayRate     float64 // of adafactor: exponent of the decay of its squares
	Eps2          float64 // of adafactor: least norm of a parameter that scales the rate
	ClipThreshold float64 // of adafactor: largest root mean square of a step
	Relative      bool    // of adafactor: the rate is at most 1/√step
	Absolute      bool    // of adafactor: the rate is not scaled by the parameter
	NewtonSchulz  int     // of muon: steps of the orthogonalisation
	SpectralScale bool    // of muon: steps as first published, some 20 times longer, instead of AdamW's length
}

// ParamGroup gives parameters settings of their own. Of several groups that match a parameter the last that sets a value decides it.
type ParamGroup struct {
	Match       string   // regular expression that is found anywhere in the parameter's name
	LRScale     *float64 // factor of the learning rate
	WeightDecay *float64 // instead of train.weight_decay
	Bits        int      // of the optimizer's states, 8 or 32; 0 = as for the others
}

// Eval says when held-out rows are evaluated.
type Eval struct {
	Every    int     // steps; 0 = at the end only
	AtStart  bool    // before the first step too
	Samples  int     // held-out prompts that are answered at each evaluation
	Tokens   int     // most tokens of such an answer
	Patience int     // evaluations without progress after which the run ends; 0 = never
	MinDelta float64 // progress is a loss lower than the best by more than this
}

// Save says when checkpoints are written and how many remain.
type Save struct {
	Every int // steps; 0 = at the end only
	Keep  int // newest checkpoints kept; 0 = all
	// Best keeps the checkpoint of the lowest held-out loss too, and makes its weights the result of the run.
	Best bool
}

// AllLinear is the Targets pattern that selects every linear layer but the output head.
const AllLinear = "all-linear"

// Targets selects the modules that get an adapter: AllLinear, a regular expression over whole module names, or a list of
// name endings. Exactly one of the two fields is set.
type Targets struct {
	Pattern string
	Names   []string
}

// All reports whether every linear layer is selected.
func (t Targets) All() bool { return t.Names == nil && t.Pattern == AllLinear }

// Accumulation is the number of micro-batches in a batch. When the batch is no multiple of the micro-batch the last one is
// short and is padded with rows of weight 0.
func (t Train) Accumulation() int {
	if t.MicroBatch <= 0 {
		return 0
	}
	return (t.Batch + t.MicroBatch - 1) / t.MicroBatch
}

// Preferences reports whether the objective learns from pairs of answers.
func (t Train) Preferences() bool { return t.Objective != "" && t.Objective != "sft" }

// MemoryBytes is Memory in bytes, 0 when it is empty.
func (t Train) MemoryBytes() (int64, error) {
	if t.Memory == "" {
		return 0, nil
	}
	return ParseBytes(t.Memory)
}

// Default returns the defaults of a command for which a model was given (its Model is empty: the caller names it).
// Finetune trains a LoRA adapter on an NF4 base; Pretrain trains every weight of an unquantized model.
func Default(command string) Config {
	c := Config{
		Quantize: Quantize{Scheme: "nf4", Blocksize: 64, Double: true},
		Adapter:  Adapter{Type: "lora", R: 16, Alpha: 32, Targets: Targets{Pattern: AllLinear}, Bias: "none", Fold: DefaultFold},
		Data: Data{
			Path: []Source{{Path: "rows.jsonl", Weight: 1}}, Format: "auto", SeqLen: 2048, Pack: true, Shuffle: true,
			Mask: "prompt", Val: 0.02,
		},
		Train: Train{
			Objective: "sft", Preference: PreferenceArgs{Reference: "auto"}, Epochs: 1, Batch: 16, MicroBatch: 2, LR: 2e-4, Schedule: "cosine", Warmup: 0.03,
			ScheduleArgs: ScheduleArgs{Cycles: 1, CycleMult: 1, Power: 1, Decay: 0.1, DecayShape: "linear", StartDiv: 25, EndDiv: 1e4,
				Factor: 0.1, Patience: 10, Threshold: 1e-4},
			Optimizer: "adamw", Min8bitSize: 4096, Betas: []float64{0.9, 0.999}, Eps: 1e-8, WeightDecay: 0.01, NoDecay: "none", Clip: 1,
			EMAEvery: 1, DType: "auto", ScaleInterval: 2000, Param: "f32", Seed: 1, Checkpointing: "auto", Offload: "auto", Launch: "captured",
		},
		Eval:   Eval{Tokens: 64},
		Save:   Save{Every: 100, Keep: 3},
		Device: "auto",
	}
	if command == Pretrain {
		c.Quantize.Scheme = "none"
		c.Adapter.Type = "none"
	}
	return c
}

// RunDir is the run directory: Out, or runs/MODEL-UTCTIME for the given time. The caller makes it, and adds a suffix when two
// runs start in the same second.
func (c Config) RunDir(now time.Time) string {
	if c.Out != "" {
		return c.Out
	}
	return "runs/" + modelName(c.Model) + "-" + now.UTC().Format("20060102T150405Z")
}
