package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

const planUsage = `Tell parameters, exact memory and arithmetic of a run without running it.

Opens the model and the data, compiles every plan of the run and prints what it will take: parameters and how many are trained, the bytes
of frozen weights, of trained weights with their gradients and optimizer states, and of intermediates, with what fills them at the
fullest step; the number of optimizer steps, and the least time that their arithmetic takes on this device. No weight is read and nothing is
written. Exit code 4 when the run does not fit, with the same table.

  trainer plan                                              the built-in run
  trainer plan run.yaml --train.micro_batch=4               a run with another micro-batch
  trainer plan pretrain --model config.json --memory=8GiB   does this architecture fit?

Flags of this command:
  --json   print JSON; what does not fit gives {"fits": false, "needs_bytes", "budget_bytes", "settings"}

  trainer plan [finetune|pretrain]`

func (p *program) plan() *cobra.Command {
	return &cobra.Command{
		Use:                "plan [finetune|pretrain] [run.yaml] [overrides]",
		Short:              "Tell parameters, exact memory and arithmetic of a run without running it",
		Long:               planUsage + trainUsage,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, args := ofCommand(args)
			cfg, given, stop, err := p.configure(cmd, name, args, map[string]bool{"json": false})
			if err != nil || stop {
				return err
			}
			set := pflag.NewFlagSet("plan", pflag.ContinueOnError)
			asJSON := set.Bool("json", false, "")
			if err := set.Parse(given); err != nil {
				return usage(err)
			}
			r, err := trainer.Plan(cmd.Context(), cfg, trainer.Hooks{Logger: p.logger()})
			return errors.Join(err, p.planned(r, err, *asJSON))
		},
	}
}

// planned prints a plan, or as JSON why there is none for want of memory.
func (p *program) planned(r *trainer.Planned, failed error, asJSON bool) error {
	var short *trainer.MemoryError
	switch {
	case asJSON && r != nil:
		return p.json(r)
	case asJSON && errors.As(failed, &short):
		return p.json(short)
	case r != nil:
		_, err := fmt.Fprint(p.out, r.Text())
		return err
	}
	return nil
}

// ofCommand takes the name of the command whose defaults are meant off the arguments.
func ofCommand(args []string) (name string, rest []string) {
	if len(args) > 0 && (args[0] == config.Finetune || args[0] == config.Pretrain) {
		return args[0], args[1:]
	}
	return config.Finetune, args
}
