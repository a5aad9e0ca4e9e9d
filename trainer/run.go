package trainer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/device"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/graph/plan"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/models"
	"github.com/bitsandbyes/bitsandbyes/optim"
	"github.com/bitsandbyes/bitsandbyes/tensor"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// Hooks let a program watch a run. The zero value runs silently. An error from a hook ends the run.
type Hooks struct {
	OnStep func(report.Row) error                  // after each optimizer step
	OnEval func(step int, loss float64) error      // after each evaluation
	OnSave func(step int, checkpoint string) error // after a checkpoint is durable

	Logger   *slog.Logger  // nil: nothing is logged
	Progress io.Writer     // nil: no progress display
	Terminal bool          // Progress is a terminal: one live line
	Command  string        // "finetune" (the default) or "pretrain", for the manifest
	Device   device.Device // nil: opened by the configuration's name
}

// Summary is what a run did.
type Summary struct {
	Out                     string
	Steps                   int
	Tokens                  int64
	Loss, EvalLoss          float64 // of the last step; of the held-out rows, NaN without any
	WeightsDigest           string
	Finished                bool // the run was finished before; nothing was done
	EightBit                int  // tensors with 8-bit optimizer state
	ExactBefore, ExactAfter *float64
	EvalBefore              *float64 // loss of the held-out rows before the first step, if it was measured
	Samples                 []Sample
	Preference              *PreferenceSummary // of objectives of preferences with held-out pairs
}

// PreferenceSummary compares the held-out pairs before the first step and after the last. A margin is the mean reward of the chosen answers less
// that of the rejected ones; accuracy is the share of pairs whose chosen answer has the larger reward. Where rewards compare with the model as the run
// begins, the margin before is 0 and there is no accuracy, unless eval.at_start measures it.
type PreferenceSummary struct {
	MarginBefore, MarginAfter float64
	AccuracyBefore            *float64
	AccuracyAfter             float64
}

// Sample is a held-out prompt with what the model answers.
type Sample struct{ Prompt, Want, Before, After string }

// Run trains as a configuration says and writes a run directory. Errors carry the program's exit code (see config.ExitCode).
// When ctx is cancelled the step in progress ends, with its evaluation, a durable checkpoint is written and ErrStopped is
// returned; cancelled before there is anything to save, the error has the same exit code and says so.
func Run(ctx context.Context, cfg config.Config, hooks Hooks) (*Summary, error) {
	j := &job{cfg: cfg, hooks: hooks, fs: vfs.OS{}, log: hooks.Logger, started: time.Now()}
	if j.log == nil {
		j.log = slog.New(slog.DiscardHandler)
	}
	err := j.early(ctx, j.run(ctx))
	if j.bar != nil {
		j.bar.Done()
	}
	return &j.sum, classify(j.end(err))
}

// end closes everything after a run that ended with err. The run directory is free only when nothing in it is changed any more.
func (j *job) end(err error) error {
	if cerr := j.close(); err == nil {
		err = cerr
	}
	if err != nil {
		j.removeMade()
	}
	if uerr := j.unlockOut(); err == nil {
		err = uerr
	}
	return err
}

// job is one run.
type job struct {
	cfg     config.Config
	hooks   Hooks
	log     *slog.Logger
	fs      vfs.FS
	started time.Time

	dev     device.Device
	ownDev  bool
	madeOut bool         // the run directory is new
	unlock  func() error // see unlockOut; nil = the run directory was not taken
	made    []string     // files in it that were written before the run began
	begun   bool         // the run has left its first trace that stays
	store   *plan.Store
	session *plan.Session
	model   *Model
	shape   *models.Config // of a benchmark: the architecture, whose weights are drawn on the device
	compute tensor.DType
	adapter *lora.Adapter
	group   *optim.Group
	parts   updateParts
	sched   optim.Schedule
	plateau *optim.Plateau // of the schedule plateau, else nil

	train, held *data.Set
	loader      *data.Loader
	evalLoader  *data.Loader
	plans       *stepPlans
	scorer      *answerScorer // asks the reference of an objective that has one
	policy      *answerScorer // of kto
	reference   stored        // what the reference said, where it is not asked in each step
	seqLen      int
	micro       int     // rows computed at once: train.micro_batch, or fewer with train.fit
	exact       bool    // held-out answers are compared
	noAnswers   bool    // nothing is generated in the run: it does not fit
	recompute   int     // blocks that compute their activations again
	sampled     bool    // held-out prompts are answered at evaluations
	total       int64   // bytes on the device that the plans of the run take
	flopRate    float64 // FLOP/s that the device was measured to reach before the run; 0 = unknown
	base, peak  int64   // bytes on the device before the run, and the most that the run held

	runs          *checkpoint.Run
	state         runState
	saved         int // step of the newest durable checkpoint, -1 for none
	losses, norms spikes
	metrics       *report.Metrics
	events        *report.Events
	bar           *report.Progress
	sum           Summary
}

// runState is what a checkpoint keeps beside tensors. Everything else of a run follows from the configuration and the step.
type runState struct {
	Step         int       `json:"step"`
	Tokens       int64     `json:"tokens"`
	Loss         float64   `json:"loss"`
	ConfigHash   string    `json:"config_sha256"`
	DataHash     string    `json:"data_sha256"`
	ModelHash    string    `json:"model_sha256,omitempty"`     // see fingerprint; empty in checkpoints of earlier versions
	TemplateHash string    `json:"template_sha256,omitempty"`  // of the chat template
	TokHash      string    `json:"tokenizer_sha256,omitempty"` // see tokenizerHash
	Clock        time.Time `json:"clock,omitzero"`             // of templates that write the date
	MicroBatch   int       `json:"micro_batch"`
	ExactBefore  *float64  `json:"exact_match_before,omitempty"`
	Samples      []Sample  `json:"samples,omitempty"`

	Plateau *optim.PlateauState `json:"plateau,omitempty"`

	judged

	// Of the held-out rows, or pairs, before the first step.
	LossBefore     *float64 `json:"eval_loss_before,omitempty"`
	MarginBefore   *float64 `json:"reward_margin_before,omitempty"`
	AccuracyBefore *float64 `json:"reward_accuracy_before,omitempty"`
}

func (j *job) run(ctx context.Context) error {
	j.sum.EvalLoss = math.NaN()
	if err := j.cfg.Validate(); err != nil {
		return err
	}
	finished, err := j.prepareOut()
	if err != nil || finished {
		return err
	}
	steps := []func(context.Context) error{j.openModel, j.openData, j.compile, j.load, j.begin}
	for _, f := range steps {
		if err := f(ctx); err != nil {
			return err
		}
	}
	if err := j.loop(ctx); err != nil {
		return err
	}
	return j.finish(ctx)
}

// removeMade removes what a run that did not come to begin has made: the built-in rows are written before it is known whether the run fits.
func (j *job) removeMade() {
	if !j.begun {
		for _, name := range j.made {
			_ = j.fs.Remove(name)
		}
	}
	if j.madeOut {
		_ = os.Remove(j.cfg.Out) // goes only when nothing else was written to it
	}
}

// prepareOut names the run directory and refuses to write over another run.
func (j *job) prepareOut() (finished bool, err error) {
	if j.cfg.Out == "" {
		if err := j.nameOut(); err != nil {
			return false, err
		}
	}
	j.sum.Out = j.cfg.Out
	j.runs = checkpoint.NewRun(j.fs, j.cfg.Out)
	j.runs.Warn = func(msg string) { j.log.Warn(msg) }
	held, err := holdsRun(j.cfg.Out)
	if err != nil {
		return false, withCode(config.ExitDisk, fmt.Errorf("run directory %s: %w; name another with --out", j.cfg.Out, err))
	}
	if held && !j.cfg.Resume {
		return false, badConfig("out", "%s holds a run; add --resume to continue it, or name another directory", j.cfg.Out)
	}
	if held {
		m, err := report.ReadManifest(j.path("manifest.json"))
		if err == nil && !m.Finished.IsZero() {
			hash, herr := j.cfg.Hash()
			if herr == nil && m.ConfigSHA256 == hash {
				j.log.Info("the run is finished already", "out", j.cfg.Out)
				j.sum.Finished = true
				j.fromManifest(m)
				return true, nil
			}
		}
	}
	_, err = os.Lstat(j.cfg.Out) // a link that leads nowhere is somebody's
	free := errors.Is(err, os.ErrNotExist)
	if err := vfs.MkdirDurable(j.fs, j.cfg.Out); err != nil {
		return false, withCode(config.ExitDisk, fmt.Errorf("run directory %s: %w; name another with --out", j.cfg.Out, err))
	}
	if err := j.lockOut(held); err != nil {
		return false, err
	}
	j.madeOut = j.madeOut || free
	return false, nil
}

// lockOut takes the run directory: of two processes that write to one, each would cut back and overwrite what the other has written. held says
// whether it held a run when it was looked at.
func (j *job) lockOut(held bool) (err error) {
	if j.unlock, err = vfs.Lock(j.cfg.Out); err == nil && !held {
		var now bool
		if now, err = holdsRun(j.cfg.Out); now {
			err = vfs.ErrLocked // it began in between
		}
	}
	switch {
	case errors.Is(err, vfs.ErrLocked):
		return badConfig("out", "another process is writing to %s; wait until it ends, or name another directory", j.cfg.Out)
	case err != nil:
		return withCode(config.ExitDisk, fmt.Errorf("run directory %s: %w; name another with --out", j.cfg.Out, err))
	}
	return nil
}

// unlockOut gives the run directory free.
func (j *job) unlockOut() error {
	if j.unlock == nil {
		return nil
	}
	return j.unlock()
}

// nameOut makes a new run directory; runs that start in the same second get a number.
func (j *job) nameOut() error {
	name := j.cfg.RunDir(j.started)
	fail := func(err error) error {
		return withCode(config.ExitDisk, fmt.Errorf("run directory %s: %w; name another with --out", name, err))
	}
	if err := vfs.MkdirDurable(j.fs, filepath.Dir(name)); err != nil {
		return fail(err)
	}
	for i := 1; ; i++ {
		j.cfg.Out = name
		if i > 1 {
			j.cfg.Out = fmt.Sprintf("%s-%d", name, i)
		}
		err := os.Mkdir(j.cfg.Out, 0o777) // fails on an existing one, so that no two runs share it
		if err == nil {
			j.madeOut = true
			return nil
		}
		if !errors.Is(err, os.ErrExist) || i == maxSameSecond {
			return fail(err)
		}
	}
}

// maxSameSecond bounds the search for a free name.
const maxSameSecond = 1000

// early turns a cancellation before the first checkpoint into an error that says so.
func (j *job) early(ctx context.Context, err error) error {
	if err == nil || j.metrics != nil || ctx.Err() == nil || !errors.Is(err, ctx.Err()) {
		return err
	}
	return &exitError{config.ExitStopped, fmt.Errorf("stopped before the training began, nothing was changed; the same command starts it again: %w", err)}
}

func (j *job) fromManifest(m report.Manifest) {
	j.sum.Steps, j.sum.Tokens, j.sum.WeightsDigest = int(m.Steps), m.Tokens, m.WeightsDigest
	j.sum.ExactBefore, j.sum.ExactAfter = m.ExactMatchBefore, m.ExactMatchAfter
	if m.FinalLoss != nil {
		j.sum.Loss = *m.FinalLoss
	}
	j.sum.EvalBefore = m.EvalLossBefore
	if m.FinalEvalLoss != nil {
		j.sum.EvalLoss = *m.FinalEvalLoss
	}
	if j.cfg.Save.Best && m.BestEvalLoss != nil {
		j.sum.EvalLoss = *m.BestEvalLoss
	}
}

// runFiles are what a run directory holds once a run has begun.
var runFiles = []string{"manifest.json", "metrics.jsonl", "config.yaml", "checkpoints"}

func holdsRun(dir string) (bool, error) {
	for _, name := range runFiles {
		_, err := os.Lstat(filepath.Join(dir, name))
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return false, err
		}
	}
	return false, nil
}

func (j *job) path(parts ...string) string {
	return filepath.Join(append([]string{j.cfg.Out}, parts...)...)
}

// trained returns the variables that the run trains, under their names.
func (j *job) trained() []*graph.Var { return j.group.Params() }

func (j *job) close() error {
	var errs []error
	if j.metrics != nil {
		errs = append(errs, j.metrics.Close())
	}
	if j.events != nil {
		errs = append(errs, j.events.Close())
	}
	for _, set := range []*data.Set{j.train, j.held} {
		if set != nil {
			errs = append(errs, set.Close())
		}
	}
	if j.plans != nil {
		errs = append(errs, j.plans.close())
	}
	errs = append(errs, j.closeScorers())
	if j.session != nil {
		errs = append(errs, j.session.Close())
	}
	if j.model != nil {
		errs = append(errs, j.model.Close())
	}
	if j.ownDev {
		errs = append(errs, j.dev.Close())
	}
	return errors.Join(errs...)
}
