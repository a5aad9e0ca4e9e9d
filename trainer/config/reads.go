package config

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// readBy says which objectives, schedules and optimizers read a key of their sections: with others it would be dropped in silence.
var readBy = map[string][]string{
	"train.preference_args.beta":            {"dpo", "orpo", "simpo", "kto"},
	"train.preference_args.label_smoothing": {"dpo"},
	"train.preference_args.gamma":           {"simpo"},
	"train.preference_args.desired":         {"kto"},
	"train.preference_args.undesired":       {"kto"},
	"train.preference_args.reference":       {"dpo"},

	"train.schedule_args.min_lr":      {"linear", "cosine", "polynomial", "wsd", "rex", "inverse_sqrt", "plateau"},
	"train.schedule_args.cycles":      {"cosine"},
	"train.schedule_args.cycle_mult":  {"cosine"},
	"train.schedule_args.power":       {"polynomial"},
	"train.schedule_args.timescale":   {"inverse_sqrt"},
	"train.schedule_args.decay":       {"wsd"},
	"train.schedule_args.decay_shape": {"wsd"},
	"train.schedule_args.start_div":   {"onecycle"},
	"train.schedule_args.end_div":     {"onecycle"},
	"train.schedule_args.factor":      {"plateau"},
	"train.schedule_args.patience":    {"plateau"},
	"train.schedule_args.cooldown":    {"plateau"},
	"train.schedule_args.threshold":   {"plateau"},

	"train.optimizer_args.momentum":       {"sgd", "lars", "adafactor", "muon"},
	"train.optimizer_args.dampening":      {"sgd", "lars"},
	"train.optimizer_args.nesterov":       {"sgd", "lars"},
	"train.optimizer_args.alpha":          {"ademamix", "rmsprop"},
	"train.optimizer_args.t_alpha":        {"ademamix"},
	"train.optimizer_args.t_beta3":        {"ademamix"},
	"train.optimizer_args.max_unorm":      ruleOptimizers,
	"train.optimizer_args.skip_zeros":     ruleOptimizers,
	"train.optimizer_args.decay_rate":     {"adafactor"},
	"train.optimizer_args.eps2":           {"adafactor"},
	"train.optimizer_args.clip_threshold": {"adafactor"},
	"train.optimizer_args.relative":       {"adafactor"},
	"train.optimizer_args.absolute":       {"adafactor"},
	"train.optimizer_args.newton_schulz":  {"muon"},
	"train.optimizer_args.spectral_scale": {"muon"},
}

// ruleOptimizers are the optimizers that go element by element.
var ruleOptimizers = []string{"adam", "adamw", "ademamix", "lion", "sgd", "rmsprop", "adagrad", "lamb", "lars"}

// unread refuses settings that the objective, the schedule or the optimizer does not read.
func (k *checker) unread(c Config) {
	for _, f := range fields(&c) {
		readers, listed := readBy[f.key]
		if !listed || f.value.zero() || f.atDefault() {
			continue
		}
		by, reader := "schedule", c.Train.Schedule
		switch {
		case strings.HasPrefix(f.key, "train.optimizer_args."):
			by, reader = "optimizer", familyOf(c.Train.Optimizer)
		case strings.HasPrefix(f.key, "train.preference_args."):
			by, reader = "objective", c.Train.Objective
		}
		if !slices.Contains(readers, reader) {
			k.fail(f.key, "is not read by the %s %s, only by %s: leave it out, or set train.%s", by, clip(reader), strings.Join(readers, ", "), by)
		}
	}
}

// familyOf is the name of an optimizer without what says how its states are stored.
func familyOf(optimizer string) string {
	s := strings.TrimPrefix(optimizer, "paged")
	return strings.TrimSuffix(strings.TrimSuffix(s, "8bit"), "32bit")
}

// atDefault reports whether a key that came later has its default.
func (f field) atDefault() bool {
	text, err := yaml.Marshal(f.value.node())
	return err == nil && f.since != "" && strings.TrimSpace(string(text)) == f.since
}
