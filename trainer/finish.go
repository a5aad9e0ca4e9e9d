package trainer

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/layers"
	"github.com/bitsandbyes/bitsandbyes/lora"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// finish writes what the run made: the adapter or the model, the plot and, last, the manifest, which marks the run as done.
func (j *job) finish(ctx context.Context) error {
	if err := errors.Join(j.save(), j.toBest()); err != nil {
		return err
	}
	err := j.plans.withAverage(ctx, func() error { return j.result(ctx) })
	if err != nil {
		return j.stopped(err)
	}
	rows, err := report.ReadMetricsFile(j.path("metrics.jsonl"))
	if err != nil {
		return err
	}
	if err := report.WriteLossPlot(j.path("loss.png"), filepath.Base(j.cfg.Out), rows); err != nil {
		return withCode(config.ExitDisk, err)
	}
	if err := j.writeManifest(rows); err != nil {
		return err
	}
	if j.cfg.Save.Best && j.state.BestLoss != nil {
		j.sum.EvalLoss = *j.state.BestLoss // of the weights that were written
	}
	return nil
}

// result measures and writes the weights of the end, averaged ones if the run keeps an average.
func (j *job) result(ctx context.Context) error {
	after, err := j.exactMatch(ctx, true)
	if err != nil {
		return err
	}
	j.sum.ExactBefore, j.sum.ExactAfter, j.sum.Samples = j.state.ExactBefore, after, j.state.Samples
	if j.sum.WeightsDigest, err = j.digest(); err != nil {
		return err
	}
	return j.writeResult()
}

// writeResult writes the adapter as PEFT has it, or the whole model as a Hugging Face directory.
func (j *job) writeResult() error {
	dir := "model"
	if j.adapter != nil {
		dir = adapterFolder
	}
	if err := vfs.MkdirDurable(j.fs, j.path(dir)); err != nil {
		return withCode(config.ExitDisk, err)
	}
	var err error
	if j.adapter != nil {
		err = j.adapter.Save(j.fs, j.path(dir), j.store, saveInfo(j.fs, j.cfg.Model))
	} else {
		err = SaveModel(j.fs, j.path(dir), j.model.Model, j.store, SaveOptions{})
	}
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(j.model.TokFiles)) {
		if err := vfs.WriteAtomic(j.fs, j.path(dir, name), j.model.TokFiles[name]); err != nil {
			return withCode(config.ExitDisk, err)
		}
	}
	return nil
}

// saveInfo names the base model of an adapter: a path, or a hub name and its revision.
func saveInfo(fsys vfs.FS, model string) lora.SaveInfo {
	if h, ok := checkpoint.ParseHubName(model); ok && strings.Contains(model, "@") {
		if _, err := fsys.Stat(model); errors.Is(err, fs.ErrNotExist) {
			if h.Revision == "main" {
				h.Revision = ""
			}
			return lora.SaveInfo{BaseModel: h.Repo, Revision: h.Revision}
		}
	}
	return lora.SaveInfo{BaseModel: model}
}

func (j *job) writeManifest(rows []report.Row) error {
	hash, err := j.cfg.Hash()
	if err != nil {
		return err
	}
	_, trained := j.countParams()
	m := report.Manifest{Format: report.ManifestFormat, Command: j.hooks.Command, Started: j.started.UTC(), Finished: time.Now().UTC(),
		Versions: report.ProgramVersions(), Model: j.cfg.Model, ConfigSHA256: hash, Device: j.dev.Info().Name, WorldSize: 1,
		Steps: int64(j.state.Step), Tokens: j.state.Tokens, TrainedParams: trained, FinalLoss: &j.state.Loss,
		WeightsDigest: j.sum.WeightsDigest, ExactMatchBefore: j.sum.ExactBefore, ExactMatchAfter: j.sum.ExactAfter}
	if m.Command == "" {
		m.Command = config.Finetune
	}
	for _, r := range rows {
		if r.EvalLoss != nil && finite(*r.EvalLoss) {
			m.FinalEvalLoss = r.EvalLoss
			j.sum.EvalLoss = *r.EvalLoss
		}
	}
	for _, f := range j.train.Files() {
		m.Data = append(m.Data, report.DataFile{Path: f.Path, SHA256: f.SHA256, Bytes: f.Bytes})
	}
	m.EvalLossBefore, j.sum.EvalBefore = j.state.LossBefore, j.state.LossBefore
	if j.state.BestLoss != nil {
		m.BestStep, m.BestEvalLoss = int64(j.state.BestStep), j.state.BestLoss
	}
	if raw := j.model.TokFiles["tokenizer.json"]; raw != nil {
		m.TokenizerSHA256 = report.HashBytes(raw)
	}
	m.TemplateSHA256 = j.state.TemplateHash
	j.sum.Steps, j.sum.Tokens, j.sum.Loss = j.state.Step, j.state.Tokens, j.state.Loss
	if err := m.Write(j.path("manifest.json")); err != nil {
		return withCode(config.ExitDisk, errors.Join(errors.New("manifest"), err))
	}
	return nil
}

// countParams counts logical parameters (a quantized weight by its shape) and those that are trained.
func (j *job) countParams() (all, trained int64) {
	for _, p := range layers.Params(j.model.Model) {
		n := int64(p.Type.Size())
		all += n
		if p.Var != nil && p.Var.Trainable {
			trained += n
		}
	}
	return all, trained
}
