package main

import (
	"fmt"

	"github.com/spf13/cobra"

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

  trainer plan [finetune|pretrain]`

func (p *program) plan() *cobra.Command {
	return &cobra.Command{
		Use:                "plan [finetune|pretrain] [run.yaml] [overrides]",
		Short:              "Tell parameters, exact memory and arithmetic of a run without running it",
		Long:               planUsage + trainUsage,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, args := ofCommand(args)
			cfg, _, stop, err := p.configure(cmd, name, args, nil)
			if err != nil || stop {
				return err
			}
			r, err := trainer.Plan(cmd.Context(), cfg, trainer.Hooks{Logger: p.logger()})
			if r != nil {
				fmt.Fprint(p.out, r.Text())
			}
			return err
		},
	}
}

// ofCommand takes the name of the command whose defaults are meant off the arguments.
func ofCommand(args []string) (name string, rest []string) {
	if len(args) > 0 && (args[0] == config.Finetune || args[0] == config.Pretrain) {
		return args[0], args[1:]
	}
	return config.Finetune, args
}
