package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
)

const benchUsage = `Train a model of random weights for a few steps and tell how fast that is.

The weights of a shape are drawn on the device, one at a time, and rows of random tokens are written to a temporary folder; from there on it is
a run: the same plans, loop, loader, clipping and logging as trainer finetune has. Prints tokens/s (median of the steps), MFU with its formula, the most
memory that was allocated beside what was planned, and the time by class of kernel, from further steps whose launches are timed one by one.

  trainer bench --shape llama-3.1-8b                                     QLoRA, rows of 4096 packed tokens, two at once
  trainer bench --shape llama-3.1-8b --batch 4 --seq 210 --docs single   short rows
  trainer bench --shape gpt2-124m --mode full --batch 16 --seq 1024      every weight
  trainer bench --shape llama-3.1-8b --checkpointing on --plan           what it would take; nothing is drawn or run`

func (p *program) bench() *cobra.Command {
	var o trainer.BenchOptions
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "bench --shape SHAPE",
		Short: "Train a model of random weights for a few steps and tell how fast that is",
		Long:  benchUsage,
		Args:  takes(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := trainer.Bench(cmd.Context(), o, trainer.Hooks{Logger: p.logger()})
			if err != nil {
				return stopped(cmd.Context(), err)
			}
			if !asJSON {
				_, err = fmt.Fprint(p.out, r.Text())
				return err
			}
			enc := json.NewEncoder(p.out)
			enc.SetIndent("", "  ")
			return enc.Encode(r)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Shape, "shape", "", "architecture: "+strings.Join(trainer.BenchShapes(), ", ")+", or the path of a config.json")
	f.StringVar(&o.Mode, "mode", trainer.ModeQLoRA, "what is trained: qlora, lora or full")
	f.StringVar(&o.Docs, "docs", trainer.DocsPacked, "rows: packed from documents of 64 to 2048 tokens, or a single document each")
	f.IntVar(&o.Batch, "batch", 2, "rows a step, computed at once")
	f.IntVar(&o.Seq, "seq", 0, "tokens a row (default 4096, or the longest of the shape)")
	f.IntVar(&o.Rank, "rank", 16, "of adapters on all linear layers")
	f.StringVar(&o.Fold, "fold", config.DefaultFold, "adapters into 4-bit weights as those are decoded, see adapter.fold: auto or off")
	f.StringVar(&o.Optimizer, "optimizer", "adamw8bit", "optimizer")
	f.StringVar(&o.Checkpointing, "checkpointing", "auto", "recompute activations: auto, on or off")
	f.StringVar(&o.Offload, "offload", "auto", "activations that wait in host memory beside a GPU: auto, off, inputs (of recomputed blocks) or all")
	f.StringVar(&o.Memory, "memory", "", "device memory to stay within, such as 8GB (default all that is free)")
	f.StringVar(&o.DType, "dtype", "auto", "of activations: auto, bf16, f16 or f32")
	executionFlags(f, &o.Device, &o.Execution)
	f.IntVar(&o.Warmup, "warmup", 3, "steps before those that are measured")
	f.IntVar(&o.Steps, "steps", 10, "steps that are measured")
	f.IntVar(&o.Profile, "profile", 2, "steps whose launches are timed one by one, -1 for none")
	f.IntVar(&o.Generate, "generate", 0, "tokens that are generated at the end")
	f.Float64Var(&o.Peak, "peak", 0, "FLOP/s that MFU is a share of (default what the device's maker states)")
	f.BoolVar(&o.PlanOnly, "plan", false, "tell what the steps would take; nothing is drawn or run")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
