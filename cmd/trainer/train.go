package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

func (p *program) finetune() *cobra.Command {
	return p.trainCommand(config.Finetune, "Fine-tune a model: LoRA on 4-bit weights by default, the built-in model without arguments")
}

func (p *program) pretrain() *cobra.Command {
	return p.trainCommand(config.Pretrain, "Train every weight of a model, from a config.json or from weights")
}

const trainUsage = ` [run.yaml] [--section.key=value ...]

Settings come from the defaults, then the YAML file (or preset:NAME), then the command line. A value follows after "=" or as
the next argument; lists are [x,y]; a boolean alone means true. Short forms: --out --model --device --resume --deterministic,
--memory --fit --launch --tf32 (train.memory and so on), --template (data.template). --print-config prints the result and stops.`

func (p *program) trainCommand(name, short string) *cobra.Command {
	return &cobra.Command{
		Use:                name + " [run.yaml] [overrides]",
		Short:              short,
		Long:               short + ".\n\n  trainer " + name + trainUsage,
		DisableFlagParsing: true, // overrides are keys of the configuration, not flags
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, _, stop, err := p.configure(cmd, name, args, nil)
			if err != nil || stop {
				return err
			}
			return p.train(cmd.Context(), name, cfg)
		},
	}
}

// configure reads the configuration that arguments describe, and returns the flags among them that are own, names with whether they
// take a value; stop means that the command is done (--help, --print-config).
func (p *program) configure(cmd *cobra.Command, name string, args []string, own map[string]bool) (cfg config.Config, given []string, stop bool, err error) {
	flags := map[string]bool{"help": false, "h": false, "print-config": false}
	for k, v := range own {
		flags[k] = v
	}
	files, overrides, given, err := config.Split(args, flags)
	if err != nil {
		return cfg, nil, false, err
	}
	if slices.Contains(given, "--help") || slices.Contains(given, "-h") || slices.Contains(given, "help") || slices.Contains(given, "h") {
		return cfg, nil, true, cmd.Help()
	}
	if len(files) > 1 {
		return cfg, nil, false, usage(fmt.Errorf("%d files are given, one is read: %v", len(files), files))
	}
	path := ""
	if len(files) == 1 {
		path = files[0]
	}
	if cfg, err = (config.Loader{Command: name}).Load(path, overrides); err != nil {
		return cfg, nil, false, err
	}
	if slices.Contains(given, "--print-config") || slices.Contains(given, "print-config") {
		yaml, err := cfg.Marshal()
		if err == nil {
			_, err = p.out.Write(yaml)
		}
		return cfg, nil, true, err
	}
	return cfg, given, false, nil
}

func (p *program) train(ctx context.Context, name string, cfg config.Config) error {
	outlivePipes()
	sum, err := trainer.Run(ctx, cfg, trainer.Hooks{Logger: p.logger(), Progress: p.err, Terminal: p.terminal(), Command: name})
	if err != nil {
		return err
	}
	for i, s := range sum.Samples {
		fmt.Fprintf(p.out, "\nheld-out prompt %d\n  %s\n  wanted: %s\n  before: %s\n  after:  %s\n", i+1, oneLine(s.Prompt), oneLine(s.Want),
			oneLine(s.Before), oneLine(s.After))
	}
	if sum.ExactBefore != nil && sum.ExactAfter != nil {
		fmt.Fprintf(p.out, "\nexact match on held-out prompts: %.0f%% before, %.0f%% after\n", 100**sum.ExactBefore, 100**sum.ExactAfter)
	}
	if sum.EvalBefore != nil {
		fmt.Fprintf(p.out, "\nheld-out loss: %.4f before, %.4f after\n", *sum.EvalBefore, sum.EvalLoss)
	}
	if pr := sum.Preference; pr != nil {
		fmt.Fprintf(p.out, "\nheld-out pairs: margin %.4f before, %.4f after; the chosen answer has the larger reward in %.0f%%\n", pr.MarginBefore,
			pr.MarginAfter, 100*pr.AccuracyAfter)
	}
	if sum.Finished {
		fmt.Fprintf(p.out, "%s was finished already; nothing was done\n", sum.Out)
		return nil
	}
	fmt.Fprintf(p.out, "%s steps, %s tokens, last loss %.4f; %d tensors had 8-bit optimizer state\nwritten to %s\n", report.Count(int64(sum.Steps)),
		report.Count(sum.Tokens), sum.Loss, sum.EightBit, sum.Out)
	return nil
}
