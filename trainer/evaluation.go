package trainer

import (
	"context"
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// evaluateStep measures the held-out rows after a step, adds what it finds to the step's row, and decides whether the run goes on.
func (j *job) evaluateStep(ctx context.Context, row *report.Row) error {
	var t tally
	err := j.plans.withAverage(ctx, func() (err error) {
		if t, err = j.plans.evaluate(ctx, j.evalLoader); err == nil {
			err = j.samples(ctx)
		}
		return err
	})
	if err != nil {
		return err
	}
	loss := t.mean()
	row.EvalLoss, j.sum.EvalLoss = &loss, loss
	row.Add(t.numbers("eval_"))
	j.summarise(t)
	j.tellPlateau(loss)
	j.judge(loss)
	return nil
}

// tellPlateau gives the schedule plateau the loss of an evaluation.
func (j *job) tellPlateau(loss float64) {
	if j.plateau == nil {
		return
	}
	if j.plateau.Observe(loss) {
		j.log.Info("the held-out loss has stopped falling; the learning rate is reduced", "step", j.state.Step, "eval_loss", loss, "scale", j.plateau.Scale)
	}
	s := j.plateau.State()
	j.state.Plateau = &s
}

// judged is the history of evaluations that a run needs to find its best step and its end.
type judged struct {
	BestStep int      `json:"best_step,omitempty"`
	BestLoss *float64 `json:"best_eval_loss,omitempty"` // the lowest held-out loss so far

	Mark  *float64 `json:"mark,omitempty"`  // the loss that the next one has to be below by eval.min_delta
	Worse int      `json:"worse,omitempty"` // evaluations since the mark was set
	Ended bool     `json:"ended,omitempty"` // the run is over before its last step
}

// judge remembers the best loss and ends the run when eval.patience is exhausted.
func (j *job) judge(loss float64) {
	s := &j.state.judged
	if finite(loss) && (s.BestLoss == nil || loss < *s.BestLoss) {
		s.BestLoss, s.BestStep = &loss, j.state.Step
		if j.cfg.Save.Best {
			j.runs.Pinned = s.BestStep
		}
	}
	if finite(loss) && (s.Mark == nil || loss < *s.Mark-j.cfg.Eval.MinDelta) {
		s.Mark, s.Worse = &loss, 0
		return
	}
	s.Worse++
	if patience := j.cfg.Eval.Patience; patience > 0 && s.Worse >= patience && j.state.Step < j.loader.Steps() {
		s.Ended = true
		j.log.Info("the held-out loss has stopped falling; the run ends", "step", j.state.Step, "eval_loss", loss, "best_step", s.BestStep,
			"evaluations_without_progress", s.Worse)
	}
}

// newBest reports whether the present step is the best so far and is to be kept.
func (j *job) newBest() bool {
	return j.cfg.Save.Best && j.state.BestStep == j.state.Step && j.state.Step > 0
}

// toBest puts the weights of the best step in the place of the last ones, for the result of a run with save.best.
func (j *job) toBest() error {
	best := j.state.BestStep
	if !j.cfg.Save.Best || best == 0 || best == j.state.Step {
		return nil
	}
	s, err := j.runs.At(best)
	if err != nil {
		return fmt.Errorf("the checkpoint of the best step: %w; without --save.best the result is that of the last step", err)
	}
	j.log.Info("the result is that of the best step", "step", best, "eval_loss", *j.state.BestLoss)
	return j.readVars(s, j.persistent())
}

// evaluateFirst measures the held-out rows before the first step, if asked to. Of pairs the margin is always known: 0 where rewards compare with
// the model as the run begins, and measured where they do not.
func (j *job) evaluateFirst(ctx context.Context) error {
	if j.evalLoader == nil || j.state.Step > 0 || j.state.LossBefore != nil || j.state.MarginBefore != nil {
		return nil
	}
	pairs, zero := j.cfg.Train.Preferences(), 0.0
	if !j.cfg.Eval.AtStart && (!pairs || hasReference(j.cfg.Train.Objective)) {
		if pairs {
			j.state.MarginBefore = &zero
		}
		return nil
	}
	t, err := j.plans.evaluate(ctx, j.evalLoader)
	if err == nil {
		err = j.samples(ctx)
	}
	if err != nil {
		return j.stopped(err)
	}
	loss := t.mean()
	j.state.LossBefore = &loss
	args := []any{"eval_loss", loss}
	if n := t.numbers("eval_"); pairs {
		margin, accuracy := n["eval_reward_margin"], n["eval_reward_accuracy"]
		j.state.MarginBefore, j.state.AccuracyBefore = &margin, &accuracy
		args = append(args, "margin", margin)
	} else {
		args = append(args, "eval_accuracy", n["eval_accuracy"])
	}
	j.log.Info("before the first step", args...)
	return nil
}

// summarise compares held-out pairs with what they were before the first step.
func (j *job) summarise(t tally) {
	if t.pairs == nil || j.state.MarginBefore == nil {
		return
	}
	n := t.numbers("")
	j.sum.Preference = &PreferenceSummary{*j.state.MarginBefore, n["reward_margin"], j.state.AccuracyBefore, n["reward_accuracy"]}
}

// numbers are what a tally says beside the loss, under the names that metrics have.
func (t tally) numbers(prefix string) map[string]float64 {
	out := map[string]float64{}
	if t.units == 0 {
		return nil
	}
	if t.routed > 0 {
		out[prefix+"router_loss"] = t.router / float64(t.routed)
	}
	if t.pairs == nil {
		if prefix != "" {
			out[prefix+"accuracy"] = float64(t.hits) / float64(t.tokens)
		}
		return out
	}
	n, c, r := float64(t.units), t.pairs.chosen, t.pairs.rejected
	out[prefix+"rewards_chosen"], out[prefix+"rewards_rejected"] = c/n, r/n
	out[prefix+"reward_margin"], out[prefix+"reward_accuracy"] = (c-r)/n, t.pairs.right/n
	return out
}
