package trainer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/profile"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// What a benchmark trains.
const (
	ModeQLoRA = "qlora" // adapters on weights of 4 bits, double quantization
	ModeLoRA  = "lora"  // adapters on weights of 16 bits
	ModeFull  = "full"  // every weight
)

// What the rows of a benchmark hold.
const (
	DocsPacked = "packed" // documents of 64 to 2048 tokens
	DocsSingle = "single" // one document as long as the row
)

// BenchOptions say what is measured. Zero values stand for the defaults that the comments name.
type BenchOptions struct {
	Shape         string // a name of BenchShapes, or the path of a config.json
	Mode          string // ModeQLoRA
	Docs          string // DocsPacked
	Batch         int    // rows a step, computed at once: 2
	Seq           int    // tokens a row: 4096, or the longest of the shape
	Rank          int    // of adapters on all linear layers: 16
	Fold          string // config.Adapter.Fold: config.DefaultFold
	Optimizer     string // adamw8bit
	Checkpointing string // auto
	Offload       string // activations that wait in host memory: auto
	Memory        string // device memory to stay within; empty = all that is free
	DType         string // of activations: auto
	Device        string // auto
	Execution     Execution
	Warmup        int     // steps before those that are measured: 3; negative: none
	Steps         int     // steps that are measured: 10
	Profile       int     // steps after them whose launches are timed one by one: 2; negative: none
	Generate      int     // tokens that are generated at the end, one row, greedily; 0: none
	Peak          float64 // FLOP/s that MFU is a share of; 0 = what the device's maker states, or what is measured
	PlanOnly      bool    // compile and report what the steps would take; nothing is drawn or run
}

func (o *BenchOptions) defaults(c models.Config) {
	text := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	text(&o.Mode, ModeQLoRA)
	text(&o.Docs, DocsPacked)
	text(&o.Optimizer, "adamw8bit")
	text(&o.Checkpointing, "auto")
	text(&o.Offload, "auto")
	text(&o.Fold, config.DefaultFold)
	text(&o.DType, "auto")
	text(&o.Device, "auto")
	text(&o.Execution.Launch, "captured")
	count := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
		*p = max(*p, 0)
	}
	count(&o.Batch, 2)
	count(&o.Seq, min(4096, c.MaxPositions))
	count(&o.Rank, 16)
	count(&o.Warmup, 3)
	count(&o.Steps, 10)
	count(&o.Profile, 2)
}

// config is the run that the options describe.
func (o *BenchOptions) config(dir string) (config.Config, error) {
	c := config.Default(config.Finetune)
	c.Model, c.Device, c.Deterministic, c.Out = o.Shape, o.Device, o.Execution.Deterministic, filepath.Join(dir, "run")
	c.Data.Path = []config.Source{{Path: filepath.Join(dir, "rows.jsonl"), Weight: 1}}
	c.Data.Format, c.Data.SeqLen, c.Data.Val, c.Data.Mask = "tokens", o.Seq, 0, "none"
	c.Train.Batch, c.Train.MicroBatch, c.Train.Optimizer, c.Train.Checkpointing = o.Batch, o.Batch, o.Optimizer, o.Checkpointing
	c.Train.Offload = o.Offload
	c.Train.Memory, c.Train.DType, c.Train.TF32, c.Train.Launch = o.Memory, o.DType, o.Execution.TF32, o.Execution.Launch
	c.Train.Steps = o.Warmup + o.Steps + o.Profile + 1 // the loop never comes to its end, where a run saves
	c.Save.Every, c.Adapter.R, c.Adapter.Alpha, c.Adapter.Fold = 0, o.Rank, 2*float64(o.Rank), o.Fold
	switch o.Mode {
	case ModeQLoRA:
	case ModeLoRA:
		c.Quantize.Scheme = "none"
	case ModeFull:
		c.Quantize.Scheme, c.Adapter.Type = "none", "none"
	default:
		return c, badConfig("mode", "%q is not known; %s, %s and %s are", o.Mode, ModeQLoRA, ModeLoRA, ModeFull)
	}
	if o.Docs != DocsPacked && o.Docs != DocsSingle {
		return c, badConfig("docs", "%q is not known; %s and %s are", o.Docs, DocsPacked, DocsSingle)
	}
	c.Data.Pack = o.Docs == DocsPacked
	if o.Steps < 1 {
		return c, badConfig("steps", "is %d; one step at least is measured", o.Steps)
	}
	return c, c.Validate()
}

// Bench trains a model of random weights for a few steps as Run would train it, with the same plans, loop, loader, clipping and logging, and
// says how fast it is and what it takes. Nothing is kept.
func Bench(ctx context.Context, o BenchOptions, hooks Hooks) (*BenchResult, error) {
	b := &bench{opts: o}
	r, err := b.run(ctx, hooks)
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = &exitError{config.ExitStopped, fmt.Errorf("stopped; nothing was written: %w", err)}
	}
	return r, classify(err)
}

// bench is one benchmark.
type bench struct {
	opts  BenchOptions
	job   *job
	rows  []report.Row
	ends  []time.Time // of the steps
	began time.Time
	hook  func(report.Row) error // the caller's
	took  struct{ compile, load, first time.Duration }
	spent struct{ compile, load []BenchSpent } // of these, what later runs find done
}

func (b *bench) run(ctx context.Context, hooks Hooks) (r *BenchResult, err error) {
	shape, err := shapeConfig(b.opts.Shape)
	if err != nil {
		return nil, err
	}
	b.opts.defaults(shape)
	dir, err := os.MkdirTemp("", "trainer-bench-")
	if err != nil {
		return nil, withCode(config.ExitDisk, err)
	}
	defer func() { err = errors.Join(err, withCode(config.ExitDisk, os.RemoveAll(dir))) }()
	cfg, err := b.opts.config(dir)
	if err != nil {
		return nil, err
	}
	if err := writeBenchRows(cfg.Data.Path[0].Path, b.opts.Docs, shape.Vocab, b.opts.Batch*cfg.Train.Steps, b.opts.Seq, cfg.Train.Seed); err != nil {
		return nil, err
	}
	b.hook, hooks.OnStep = hooks.OnStep, b.step
	j := &job{cfg: cfg, hooks: hooks, fs: vfs.OS{}, log: hooks.Logger, started: time.Now(), shape: &shape}
	if j.log == nil {
		j.log = slog.New(slog.DiscardHandler)
	}
	b.job = j
	defer func() { err = errors.Join(err, j.close(), j.unlockOut()) }()
	if err := b.prepare(ctx); err != nil {
		return nil, err
	}
	r = b.planned()
	if b.opts.PlanOnly {
		return r, nil
	}
	if err := b.train(ctx); err != nil {
		return nil, err
	}
	b.measured(r)
	if err := b.profile(ctx, r); err != nil {
		return nil, err
	}
	return r, b.generate(ctx, r)
}

// prepare is what a run does before its first step, and draws the weights.
func (b *bench) prepare(ctx context.Context) error {
	j := b.job
	if _, err := j.prepareOut(); err != nil {
		return err
	}
	began := time.Now()
	for _, f := range []func(context.Context) error{j.openModel, j.openData, j.compile} {
		if err := f(ctx); err != nil {
			return err
		}
	}
	b.took.compile, b.spent.compile = time.Since(began), spentOn(j.dev, nil)
	if b.opts.PlanOnly {
		return nil
	}
	began = time.Now()
	draw := deviceDrawer{Store: j.store, ctx: ctx, dev: j.dev, launch: j.execution().Launching(), seed: j.cfg.Train.Seed}
	if err := j.model.Source.Load(draw); err != nil {
		return err
	}
	if j.adapter != nil {
		if err := j.adapter.InitFrom(j.store, j.model.Source.Original); err != nil {
			return err
		}
	}
	if err := j.dev.Stream(0).Sync(); err != nil {
		return err
	}
	b.took.load, b.spent.load = time.Since(began), spentOn(j.dev, b.spent.compile)
	return j.begin(ctx)
}

// errBenchDone ends the loop.
var errBenchDone = errors.New("the steps of the benchmark are done")

// step is called after each optimizer step, its logs written.
func (b *bench) step(row report.Row) error {
	b.rows, b.ends = append(b.rows, row), append(b.ends, time.Now())
	if b.hook != nil {
		if err := b.hook(row); err != nil {
			return err
		}
	}
	if len(b.rows) == b.opts.Warmup+b.opts.Steps {
		return errBenchDone
	}
	return nil
}

func (b *bench) train(ctx context.Context) error {
	b.began = time.Now()
	if err := b.job.loop(ctx); !errors.Is(err, errBenchDone) {
		return err
	}
	return nil
}

// profile runs a few more steps whose launches are timed.
func (b *bench) profile(ctx context.Context, r *BenchResult) error {
	if b.opts.Profile == 0 {
		return nil
	}
	j := b.job
	p, err := profile.New(profile.Options{Device: j.dev, Warmup: b.opts.Warmup + b.opts.Steps, Categorize: j.categories()})
	if err != nil {
		return err
	}
	j.watch(p)
	defer p.Unwatch()
	if err := p.Measure(ctx); err != nil {
		return err
	}
	var buf []data.Batch
	for i := range b.opts.Profile {
		step := b.opts.Warmup + b.opts.Steps + i
		err := p.Step(func() error {
			var err error
			_, buf, err = j.plans.run(ctx, j.loader, step, j.cfg.Train.Seed, j.rate(step), buf)
			return err
		})
		if err != nil {
			return err
		}
	}
	r.setProfile(p.Result())
	return nil
}

// generate times greedy decoding by the model alone and with its adapter.
func (b *bench) generate(ctx context.Context, r *BenchResult) (err error) {
	if b.opts.Generate == 0 {
		return nil
	}
	if a := b.job.adapter; a != nil {
		if r.AdaptedSeconds, err = b.tokenSeconds(ctx); err != nil {
			return err
		}
		a.SetActive(false)
		defer a.SetActive(true)
	}
	r.TokenSeconds, err = b.tokenSeconds(ctx)
	return err
}

// tokenSeconds is the median time of a token, one row after a prompt of a few.
func (b *bench) tokenSeconds(ctx context.Context) (float64, error) {
	const promptLen, warm = 16, 4
	n, j := b.opts.Generate, b.job
	gen, err := NewGenerator(j.model.Model, j.session, 1, promptLen+warm+n+1)
	if err != nil {
		return 0, err
	}
	prompt := make([]int32, promptLen)
	for i := range prompt {
		prompt[i] = int32(i % j.model.Config().Vocab)
	}
	var at []time.Time
	err = gen.Generate(ctx, [][]int32{prompt}, warm+n, Sampling{}, func(int, int32) bool {
		at = append(at, time.Now())
		return true
	})
	if err = errors.Join(err, gen.Close()); err != nil {
		return 0, err
	}
	if len(at) <= warm { // the shape's context is full
		return 0, nil
	}
	var each []float64
	for i := warm; i < len(at); i++ {
		each = append(each, at[i].Sub(at[i-1]).Seconds())
	}
	return medianOf(each), nil
}
