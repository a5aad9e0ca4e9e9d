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
	// Device is auto, cpu, cuda, cuda:0, cuda:0,1, opencl or opencl:0.
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

// Adapter says what is trained.
type Adapter struct {
	Type    string  // lora, or none to train every weight
	R       int     // rank
	Alpha   float64 // the update is scaled by Alpha/R
	Dropout float64 // probability in [0, 1)
	Targets Targets
	Init    string // directory of an adapter to start from; empty = a fresh one
}

// Data says what is trained on.
type Data struct {
	Path     []Source
	Format   string  // auto or the name of a layout
	SeqLen   int     // longest row in tokens
	Pack     bool    // put several documents in a row; they never see each other
	Shuffle  bool    // shuffle rows anew in each epoch
	Mask     string  // which tokens are trained: none = all, prompt = all but the prompt, assistant = all assistant turns, last = the last of them
	Val      float64 // share of the rows held out for evaluation, in [0, 1)
	Template string  // file of a chat template; empty = the tokenizer's own
}

// Source is one input of a mix: a file or a glob, drawn in proportion to its weight.
type Source struct {
	Path   string
	Weight float64
}

// Train says how.
type Train struct {
	Objective     string    // sft: next-token loss on the tokens that Data.Mask leaves
	Epochs        float64   // passes over the data
	Steps         int       // optimizer steps; above 0 it overrides Epochs
	Batch         int       // rows an optimizer step, over all ranks
	MicroBatch    int       // rows computed at once on one device
	LR            float64   // peak learning rate
	Schedule      string    // cosine, linear, constant or wsd
	Warmup        float64   // below 1 a share of all steps, else a number of steps
	Optimizer     string    // a bitsandbytes class name in lower case
	Min8bitSize   int       // tensors with fewer elements keep 32-bit states
	Betas         []float64 // two values; three for ademamix
	Eps           float64
	WeightDecay   float64
	Clip          float64 // largest norm of the whole gradient; 0 = no clipping
	DType         string  // compute dtype: auto = bf16 on a GPU that has it, else f32
	Param         string  // storage of trained weights: f32, or bf16 with stochastic rounding
	Seed          uint64
	Checkpointing string // recompute activations: auto, on or off
	Memory        string // device memory to stay within, such as 16GiB; empty = all that is free
	Fit           bool   // choose micro_batch and checkpointing so that the run fits
}

// Eval says when held-out rows are evaluated.
type Eval struct {
	Every int // steps; 0 = at the end only
}

// Save says when checkpoints are written and how many remain.
type Save struct {
	Every int // steps; 0 = at the end only
	Keep  int // newest checkpoints kept; 0 = all
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
		Adapter:  Adapter{Type: "lora", R: 16, Alpha: 32, Targets: Targets{Pattern: AllLinear}},
		Data: Data{
			Path: []Source{{Path: "rows.jsonl", Weight: 1}}, Format: "auto", SeqLen: 2048, Pack: true, Shuffle: true,
			Mask: "prompt", Val: 0.02,
		},
		Train: Train{
			Objective: "sft", Epochs: 1, Batch: 16, MicroBatch: 2, LR: 2e-4, Schedule: "cosine", Warmup: 0.03,
			Optimizer: "adamw", Min8bitSize: 4096, Betas: []float64{0.9, 0.999}, Eps: 1e-8, WeightDecay: 0.01, Clip: 1,
			DType: "auto", Param: "f32", Seed: 1, Checkpointing: "auto",
		},
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
