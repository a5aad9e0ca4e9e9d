package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// tuned are ways to fine-tune, each at a learning rate of its own.
var tuned = []struct {
	name      string
	overrides []string
}{
	{"full, AdamW", []string{"--quantize.scheme=none", "--adapter.type=none", "--train.optimizer=adamw", "--train.lr=1e-3"}},
	{"full, AdamW 8-bit", []string{"--quantize.scheme=none", "--adapter.type=none", "--train.lr=1e-3"}},
	{"LoRA, AdamW", []string{"--quantize.scheme=none", "--train.optimizer=adamw"}},
	{"QLoRA NF4 double, AdamW", []string{"--train.optimizer=adamw"}},
	{"QLoRA NF4 double, AdamW 8-bit", nil},
	{"LoRA on int8 (LLM.int8()), AdamW 8-bit", []string{"--quantize.scheme=int8", "--quantize.double=false"}},
	{"QLoRA FP4 double, AdamW 8-bit", []string{"--quantize.scheme=fp4"}},
}

// adapterSeeds bounds the seeds of this experiment, whose runs take most of a minute each.
const adapterSeeds = 2

func runAdapters(ctx context.Context, e *env, p *page) (err error) {
	p.say("The built-in model on the built-in rows, with the settings of `trainer finetune` (rank 8 on all linear layers, 200 steps of 12 packed "+
		"rows of 128 tokens) but for what the first column says, %d seeds. Exact match is over the 100 held-out prompts; memory is the run's own "+
		"peak as planned and allocated.", min(e.seeds, adapterSeeds))
	work, err := os.MkdirTemp("", "convergence")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	chart := report.Chart{Title: "Training loss, mean over seeds", XLabel: "step", YLabel: "loss, nats a token", LogY: true}
	var rows [][]string
	for i, c := range tuned {
		var held, exact, memory []float64
		var curves [][]float64
		for seed := range min(e.seeds, adapterSeeds) {
			over := append([]string{fmt.Sprintf("--train.seed=%d", seed+1), "--out=" + filepath.Join(work, fmt.Sprintf("%d-%d", i, seed))}, c.overrides...)
			if e.quick {
				over = append(over, "--train.steps=20")
			}
			cfg, err := config.Load("", over)
			if err != nil {
				return err
			}
			var losses []float64
			var bytes int64
			sum, err := trainer.Run(ctx, cfg, trainer.Hooks{Device: e.dev, OnStep: func(r report.Row) error {
				losses, bytes = append(losses, r.Loss), max(bytes, r.MemoryBytes)
				return nil
			}})
			if err != nil {
				return fmt.Errorf("%s, seed %d: %w", c.name, seed+1, err)
			}
			held, memory, curves = append(held, sum.EvalLoss), append(memory, float64(bytes)/(1<<20)), append(curves, losses)
			if sum.ExactAfter != nil {
				exact = append(exact, 100**sum.ExactAfter)
			}
			e.log("%s seed %d: held-out loss %.4f", c.name, seed+1, sum.EvalLoss)
		}
		m, _ := stats(memory)
		rows = append(rows, []string{c.name, plusMinus(held, 4), plusMinus(exact, 1), fmt.Sprintf("%.1f", m)})
		chart.Series = append(chart.Series, meanCurve(c.name, curves))
	}
	p.table([]string{"method", "held-out loss, mean ± std", "exact match, %", "memory, MiB"}, rows)
	return p.picture("loss", chart)
}
