package trainer

import (
	"errors"
	"fmt"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/checkpoint"
	"github.com/bitsandbyes/bitsandbyes/graph"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// persistent returns every variable that a checkpoint keeps: trained weights, optimizer state, the scale of a float16 loss, the history of
// clipping and the average of the weights.
func (j *job) persistent() []*graph.Var {
	return append(append(append([]*graph.Var{}, j.trained()...), j.group.StateVars()...), j.parts.vars()...)
}

// identify hashes what the run is made of.
func (j *job) identify() error {
	var err error
	if j.state.ConfigHash, err = j.cfg.Hash(); err != nil {
		return err
	}
	j.state.DataHash, j.state.MicroBatch = j.train.Digest(), j.micro
	if len(j.cfg.Data.ValPath) > 0 {
		j.state.DataHash = report.HashBytes([]byte(j.state.DataHash + j.held.Digest()))
	}
	j.state.TokHash = tokenizerHash(j.model.TokFiles)
	j.state.ModelHash, err = fingerprint(j.fs, j.cfg)
	return withCode(config.ExitInput, err)
}

// restore loads the newest durable checkpoint, if the run is resumed and there is one.
func (j *job) restore() error {
	j.saved = -1
	if !j.cfg.Resume {
		return nil
	}
	if err := j.runs.Recover(); err != nil {
		return err
	}
	s, st, err := j.newest()
	if err != nil {
		return err
	}
	if s == nil {
		j.log.Info("no checkpoint to resume from; starting", "out", j.cfg.Out)
		return nil
	}
	if err := j.sameRun(s.Dir, st); err != nil {
		return err
	}
	if err := j.readVars(s, j.persistent()); err != nil {
		return err
	}
	st.ModelHash = j.state.ModelHash
	j.state, j.saved = st, st.Step
	if j.cfg.Save.Best {
		j.runs.Pinned = st.BestStep
	}
	j.log.Info("resuming", "step", st.Step, "checkpoint", s.Dir)
	return nil
}

// readVars gives variables the values that a checkpoint has.
func (j *job) readVars(s *checkpoint.Saved, vars []*graph.Var) error {
	f, err := s.Tensors()
	if err != nil {
		return err
	}
	for _, v := range vars {
		t, err := f.Read(v.Name)
		if err == nil {
			err = j.store.Set(v, t)
		}
		if err != nil {
			return errors.Join(withCode(config.ExitInput, fmt.Errorf("checkpoint %s: %w", s.Dir, err)), f.Close())
		}
	}
	return f.Close()
}

// newest returns the newest intact checkpoint and its state, nil when the run has none.
func (j *job) newest() (*checkpoint.Saved, runState, error) {
	var st runState
	s, err := j.runs.Latest()
	if errors.Is(err, checkpoint.ErrNone) {
		return nil, st, nil
	}
	if err == nil {
		err = s.State(&st)
	}
	if err != nil {
		return nil, st, withCode(config.ExitInput, fmt.Errorf("resume: %w; start anew in another --out", err))
	}
	return s, st, nil
}

// sameRun refuses a checkpoint of other settings or data: the resumed run would be neither the old one nor the new.
func (j *job) sameRun(dir string, st runState) error {
	if st.ConfigHash != j.state.ConfigHash {
		return badConfig("resume", "the checkpoint %s was made with other settings%s; use the config.yaml of that run, or another --out", dir, j.changes())
	}
	if st.DataHash != j.state.DataHash {
		return badConfig("resume", "the data files are not those of the checkpoint %s; restore them, or use another --out", dir)
	}
	// Earlier versions had no templates.
	if st.TemplateHash != "" && st.TemplateHash != j.state.TemplateHash {
		return badConfig("resume", "the chat template is not that of the checkpoint %s; restore it, or use another --out", dir)
	}
	if st.TokHash != "" && st.TokHash != j.state.TokHash {
		return badConfig("resume", "the tokenizer's files are not those of the checkpoint %s; restore them, or use another --out", dir)
	}
	// Earlier versions did not record the model.
	if st.ModelHash != "" && st.ModelHash != j.state.ModelHash {
		return badConfig("resume", "the model's files at %s are not those of the checkpoint %s; restore them, or use another --out", j.cfg.Model, dir)
	}
	return nil
}

// changes names settings that differ from those in the run's config.yaml, a few of them.
func (j *job) changes() string {
	old, err := vfs.ReadFile(j.fs, j.path("config.yaml"), maxConfigFile)
	now, merr := j.cfg.Marshal()
	if err != nil || merr != nil {
		return ""
	}
	was := map[string]bool{}
	for line := range strings.Lines(string(old)) {
		was[strings.TrimSpace(line)] = true
	}
	var out []string
	for line := range strings.Lines(string(now)) {
		line = strings.TrimSpace(line)
		if !was[line] && !strings.HasPrefix(line, "out:") && !strings.HasPrefix(line, "resume:") && len(out) < maxChanges {
			out = append(out, line)
		}
	}
	if len(out) == 0 {
		return ""
	}
	return " (now " + strings.Join(out, "; ") + ")"
}

// maxChanges is how many changed settings a message names.
const maxChanges = 5

// save writes a durable checkpoint of the state after j.state.Step steps.
func (j *job) save() error {
	if j.saved == j.state.Step {
		return nil
	}
	tensors, err := j.named(j.persistent())
	if err != nil {
		return err
	}
	if err := j.metrics.Sync(); err != nil { // rows up to the step must not be behind its checkpoint
		return withCode(config.ExitDisk, err)
	}
	if err := j.runs.Save(j.state.Step, tensors, j.state, j.cfg.Save.Keep); err != nil {
		return err
	}
	j.saved = j.state.Step
	j.log.Debug("checkpoint", "step", j.state.Step)
	if j.hooks.OnSave == nil {
		return nil
	}
	s, err := j.runs.At(j.state.Step)
	if err != nil {
		return err
	}
	return j.hooks.OnSave(j.state.Step, s.Dir)
}

func (j *job) named(vars []*graph.Var) ([]checkpoint.Named, error) {
	out := make([]checkpoint.Named, 0, len(vars))
	for _, v := range vars {
		t, err := j.store.Get(v)
		if err != nil {
			return nil, err
		}
		out = append(out, checkpoint.Named{Name: v.Name, Tensor: t})
	}
	return out, nil
}

// digest is the SHA-256 of the trained tensors.
func (j *job) digest() (string, error) {
	tensors, err := j.named(j.trained())
	if err != nil {
		return "", err
	}
	var list []report.Named
	for _, t := range tensors {
		list = append(list, report.Named{Name: t.Name, Tensor: t.Tensor})
	}
	return report.Digest(list)
}
