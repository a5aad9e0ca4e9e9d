package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/profile"
)

const profileUsage = `Run a few training steps and tell where their time and memory go.

Prints time by kernel and by scope of the model, how near each kernel is to the limits of this device, which are measured first, and what
fills the memory at the fullest moment. Writes report.txt (the same, whole), profile.json, trace.json (open it in chrome://tracing or
https://ui.perfetto.dev), memory.json and memory.png into the folder --out, by default runs/MODEL-TIME-profile. The steps are those
with which the run would begin; what they learn is dropped. docs/guides/profile.md explains the figures.

  trainer profile                                    the built-in run
  trainer profile run.yaml --steps=10 --out=prof     ten steps of a run
  trainer profile run.yaml --dry                     the memory alone; no weight is read, no step runs

Flags of this command:
  --steps N     steps that are measured (default 5)
  --warmup N    steps before them (default 2)
  --depth N     levels of scopes that are printed, 0 for all (default 5)
  --layers      each layer of the model on lines of its own
  --dry         do not run: the memory alone

  trainer profile [finetune|pretrain]`

// profileFlags are the flags that are not settings of the run.
type profileFlags struct {
	run  trainer.ProfileOptions
	text profile.TextOptions
}

func (p *program) profile() *cobra.Command {
	return &cobra.Command{
		Use:                "profile [finetune|pretrain] [run.yaml] [overrides]",
		Short:              "Run a few steps and tell where their time and memory go",
		Long:               profileUsage + trainUsage,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, args := ofCommand(args)
			cfg, given, stop, err := p.configure(cmd, name, args, map[string]bool{"steps": true, "warmup": true, "depth": true, "layers": false,
				"dry": false})
			if err != nil || stop {
				return err
			}
			f, err := parseProfileFlags(given)
			if err != nil {
				return err
			}
			dir := cfg.Out
			if dir == "" {
				dir = cfg.RunDir(time.Now()) + "-profile"
			}
			r, err := trainer.Profile(cmd.Context(), cfg, f.run, trainer.Hooks{Logger: p.logger()})
			if err != nil {
				return err
			}
			if err := r.WriteText(p.out, f.text); err != nil {
				return err
			}
			if err := r.Write(vfs.OS{}, dir); err != nil {
				return &diskError{err}
			}
			_, err = fmt.Fprintf(p.out, "\nwritten to %s\n", dir)
			return err
		},
	}
}

// diskError is a file that cannot be written.
type diskError struct{ error }

// ExitCode is config.ExitDisk.
func (diskError) ExitCode() int { return config.ExitDisk }

// Unwrap returns the cause.
func (e diskError) Unwrap() error { return e.error }

func parseProfileFlags(args []string) (f profileFlags, err error) {
	f.text = profile.Brief
	set := pflag.NewFlagSet("profile", pflag.ContinueOnError)
	set.IntVar(&f.run.Steps, "steps", trainer.DefaultProfileSteps, "")
	set.IntVar(&f.run.Warmup, "warmup", trainer.DefaultProfileWarmup, "")
	set.BoolVar(&f.run.Dry, "dry", false, "")
	set.IntVar(&f.text.Depth, "depth", f.text.Depth, "")
	layers := set.Bool("layers", false, "")
	if err := set.Parse(args); err != nil {
		return f, usage(err)
	}
	for name, least := range map[string]int{"steps": 1, "warmup": 0, "depth": 0} {
		if n, err := set.GetInt(name); err != nil || n < least {
			return f, usage(fmt.Errorf("--%s is %d, the least is %d", name, n, least))
		}
	}
	if f.run.Warmup == 0 {
		f.run.Warmup = -1
	}
	f.text.Merge = !*layers
	return f, nil
}
