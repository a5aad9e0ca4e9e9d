package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

func oneLine(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", " / ") }

func (p *program) generate() *cobra.Command {
	var o trainer.GenerateOptions
	cache := true
	c := &cobra.Command{
		Use:   "generate --model PATH [--prompt TEXT]",
		Short: "Continue a text; prints only the new text on standard output",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.NoCache, o.Logger = !cache, p.logger()
			return trainer.Generate(cmd.Context(), o, func(text string) error {
				_, err := fmt.Fprint(p.out, text)
				return err
			})
		},
	}
	f := c.Flags()
	f.StringVar(&o.Model, "model", "", "builtin:tiny, a Hugging Face directory, a llama2.c file or its folder")
	f.StringVar(&o.Adapter, "adapter", "", "directory of a LoRA adapter in PEFT's layout")
	f.StringVar(&o.Prompt, "prompt", "", "text to continue; without it the text starts from the BOS token")
	f.IntVar(&o.MaxTokens, "max-tokens", 256, "most tokens to generate")
	f.Float64Var(&o.Sampling.Temperature, "temperature", 0, "0 is greedy")
	f.IntVar(&o.Sampling.TopK, "top-k", 0, "choose among the K likeliest tokens; 0 = all")
	f.Float64Var(&o.Sampling.TopP, "top-p", 0, "choose among the likeliest tokens that make up this probability; 0 = all")
	f.Uint64Var(&o.Sampling.Seed, "seed", 1, "of the random choices")
	f.StringVar(&o.Device, "device", "auto", "auto, cpu, cpu:threads=2")
	f.StringVar(&o.DType, "dtype", "auto", "compute dtype: auto, f32, bf16")
	f.StringVar(&o.Scheme, "quantize", "none", "quantize the linear layers while loading: none (as they are stored), nf4, fp4, int8")
	f.BoolVar(&cache, "cache", true, "keep keys and values; false computes every token from the whole text again")
	if err := c.MarkFlagRequired("model"); err != nil {
		fmt.Fprintln(p.err, err)
	}
	return c
}

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
