package config

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bitsandbyes/bitsandbyes/optim"
)

// TestReadBy: every key of the two sections has its readers, which are schedules and optimizers that exist.
func TestReadBy(t *testing.T) {
	known := optim.ScheduleNames()
	for _, o := range optim.Names() {
		known = append(known, familyOf(o))
	}
	rows := fields(new(Config))
	for _, f := range rows {
		if s := sectionOf(f.key); s == "train.schedule_args" || s == "train.optimizer_args" {
			require.NotEmpty(t, readBy[f.key], f.key)
			require.Subset(t, known, readBy[f.key], f.key)
		}
	}
	for key := range readBy {
		_, ok := findField(rows, key)
		require.True(t, ok, key)
	}
}

func TestUnread(t *testing.T) {
	for args, want := range map[string]string{
		"--train.optimizer_args.momentum=0.9":                                "--train.optimizer_args.momentum: is not read by the optimizer adamw, only by sgd, lars",
		"--train.optimizer_args.t_alpha=9 --train.optimizer=pagedadamw8bit":  "optimizer adamw, only by ademamix",
		"--train.optimizer_args.skip_zeros --train.optimizer=muon":           "optimizer muon, only by adam,",
		"--train.schedule_args.cycles=3 --train.schedule=linear":             "--train.schedule_args.cycles: is not read by the schedule linear, only by cosine: leave it out, or set train.schedule",
		"--train.schedule_args.min_lr=1e-6 --train.schedule=constant":        "schedule constant, only by linear",
		"--train.schedule_args.cycles=1 --train.schedule=linear":             "",
		"--train.schedule_args.cycles=3":                                     "",
		"--train.optimizer_args.alpha=3 --train.optimizer=pagedademamix8bit": "",
		"--train.optimizer_args.max_unorm=0.1 --train.optimizer=lion32bit":   "",
		"--train.schedule_args.decay_shape=sqrt --train.schedule=wsd":        "",
	} {
		_, err := Load("", append(strings.Fields(args), "--model=m"))
		if want == "" {
			require.NoError(t, err, args)
		} else {
			require.ErrorContains(t, err, want, args)
		}
	}
}
