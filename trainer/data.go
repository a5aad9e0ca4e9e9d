package trainer

import (
	"context"
	"errors"
	"io/fs"
	"runtime"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

// DataOptions are the options with which a run reads its rows: the tokenizer's special tokens, the chat template, the mask, and the
// sequence length, no longer than the model's context.
func (m *Model) DataOptions(cfg config.Config) (data.Options, error) {
	o := m.dataOptions(cfg)
	_, err := m.renderer(&o, cfg.Data.Template, nil)
	return o, err
}

func (m *Model) dataOptions(cfg config.Config) data.Options {
	c := m.Config()
	return data.Options{Format: cfg.Data.Format, SeqLen: min(cfg.Data.SeqLen, c.MaxPositions), Mask: data.Mask(cfg.Data.Mask), Vocab: c.Vocab,
		Workers: runtime.GOMAXPROCS(0), BOS: m.Begin(), EOS: m.EOS()[:min(1, len(m.EOS()))], AsChat: cfg.Data.Chat, Roles: cfg.Data.Roles, Pairs: cfg.Train.Preferences()}
}

// DataFiles are the files that a run trains on, and those held out where they are files of their own. The rows of the built-in set
// are written into the folder first, so that a user sees what was trained on; a file of other rows that stands there under the name is
// an error and stays.
func DataFiles(fsys vfs.FS, cfg config.Config, dir string) (train, held []data.File, err error) {
	train, held, _, err = dataFiles(fsys, cfg, dir)
	return train, held, err
}

// dataFiles also returns the files that it wrote, even beside an error.
func dataFiles(fsys vfs.FS, cfg config.Config, dir string) (train, held []data.File, made []string, err error) {
	paths := cfg.Data.Path
	if len(paths) == 1 && paths[0].Path == config.BuiltinData {
		return builtinFiles(vfs.Or(fsys), dir)
	}
	if len(paths) == 0 {
		return nil, nil, nil, badConfig("data.path", "is not set; name a file of rows to train on")
	}
	return sourceFiles(paths), sourceFiles(cfg.Data.ValPath), nil, nil
}

func sourceFiles(list []config.Source) []data.File {
	out := make([]data.File, len(list))
	for i, p := range list {
		out[i] = data.File{Path: p.Path, Weight: p.Weight}
	}
	return out
}

// openData reads and splits the rows.
func (j *job) openData(ctx context.Context) error {
	files, heldFiles, made, err := dataFiles(j.fs, j.cfg, j.cfg.Out)
	j.made = made
	if err != nil {
		return err
	}
	o := j.model.dataOptions(j.cfg)
	if err := j.useTemplate(&o); err != nil {
		return err
	}
	if o.SeqLen < j.cfg.Data.SeqLen {
		j.log.Warn("data.seq_len is beyond the model's context; shortened", "seq_len", j.cfg.Data.SeqLen, "context", o.SeqLen)
	}
	j.seqLen, j.micro = o.SeqLen, j.cfg.Train.MicroBatch
	o.SpillDir = j.cfg.Out
	all, err := data.Load(ctx, NewEncoder(j.model.Tokenizer), files, o)
	if err != nil {
		return DataError(j.cfg, err)
	}
	if len(heldFiles) > 0 {
		j.train = all
		if j.held, err = data.Load(ctx, NewEncoder(j.model.Tokenizer), heldFiles, o); err != nil {
			return DataError(j.cfg, err)
		}
		j.held = j.held.Unweighted()
	} else if j.train, j.held, err = all.Split(j.cfg.Data.Val, j.cfg.Train.Seed); err != nil {
		return badConfig("data.val", "%v", err)
	}
	if err := j.reportData(o); err != nil {
		return DataError(j.cfg, err)
	}
	if err := j.makeLoaders(); err != nil {
		return err
	}
	j.log.Info("rows of the first epoch", filling(j.loader)...)
	return nil
}

// reportData logs what is trained on, and what a user would want to know before a long run.
func (j *job) reportData(o data.Options) error {
	r := j.train.Report()
	for _, f := range j.train.Files() {
		j.log.Info("data file", "path", f.Path, "format", f.Format, "because", f.Why, "rows", f.Rows)
	}
	j.log.Info("data", "examples", r.Documents, "tokens", r.Tokens, "trained", r.Trained, "share", percent(r.Share), "longest", max(r.Longest, r.MaxLen))
	problems, err := j.model.DataProblems(j.train, o)
	if err != nil {
		return err
	}
	for _, p := range problems {
		j.log.Warn(p.What, "remedy", p.Remedy)
	}
	if j.held == nil && (j.cfg.Data.HeldOut() || j.cfg.Eval.Every > 0) {
		j.log.Warn("no rows are held out: there is no evaluation", "rows", r.Rows, "data.val", j.cfg.Data.Val)
	}
	return nil
}

// DataError gives an error of package data the program's exit code: it tells a setting that is wrong from a file that is, and the default of
// data.path, which nobody may have named, from a path that is missing.
func DataError(cfg config.Config, err error) error {
	var row *data.RowError
	var spill *data.SpillError
	switch {
	case errors.As(err, &spill):
		return withCode(config.ExitDisk, err)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case !errors.As(err, &row):
		return badConfig("data", "%s", strings.TrimPrefix(err.Error(), "data: "))
	case errors.Is(err, fs.ErrNotExist) && len(cfg.Data.Path) == 1 && cfg.Data.Path[0].Path == unsetPath:
		return &config.ErrConfig{Key: "data.path", Reason: "is " + unsetPath + ", which does not exist; name your file of rows with --data.path", Err: errNoData}
	}
	return withCode(config.ExitInput, err)
}

// errNoData says that there is no file at the default of data.path.
var errNoData = errors.New("no data")

// unsetPath is the default of data.path.
var unsetPath = config.Default(config.Finetune).Data.Path[0].Path

// LoaderOptions are the options with which a run makes rows of its examples, cut to seqLen: see DataOptions. Of a part of an epoch the steps are not
// counted yet.
func (m *Model) LoaderOptions(cfg config.Config, seqLen int) data.LoaderOptions {
	t := cfg.Train
	return data.LoaderOptions{SeqLen: seqLen, MicroBatch: t.MicroBatch, Batch: t.Batch, Pack: cfg.Data.Pack, Shuffle: cfg.Data.Shuffle,
		Seed: t.Seed, Epochs: max(int(t.Epochs), 1), Steps: t.Steps, PadID: max(m.Config().Pad, 0)}
}

// filling tells how full the rows are that a loader makes.
func filling(l *data.Loader) []any {
	r := l.Report()
	return []any{"rows", r.PackedRows, "positions_filled", percent(r.Efficiency), "positions_trained", percent(r.TrainedSpace)}
}

func (j *job) makeLoaders() error {
	t := j.cfg.Train
	o := j.model.LoaderOptions(j.cfg, j.seqLen)
	o.MicroBatch = j.micro
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
