package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/evaluate"
)

const evalUsage = `Measure a model on files.

--text FILE     perplexity of a text (or .gz) in windows of --context tokens that begin --stride tokens apart; every token counts once
--choices FILE  multiple choice: JSON lines of a question, choices and the right one; by likelihood, and by likelihood a byte
--exact FILE    JSON lines of prompts and answers: how often the greedy answer is right; --match contains or number compare less strictly

docs/guides/evaluate.md has the forms of the rows, which are those of common data sets.

  trainer eval --model ./model --text wikitext.txt --context 2048 --stride 512
  trainer eval --model ./model --adapter runs/first/adapter --choices arc.jsonl --exact gsm8k.jsonl --match number --json`

func (p *program) eval() *cobra.Command {
	var o evaluate.Options
	var g trainer.GenerateOptions
	var asJSON bool
	var separator string
	c := &cobra.Command{
		Use:   "eval --model PATH [--text FILE] [--choices FILE] [--exact FILE]",
		Short: "Measure a model: perplexity, multiple choice by likelihood, exact answers",
		Long:  evalUsage,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err := o.Check(); err != nil {
				return err
			}
			g.Logger, o.Separator = p.logger(), &separator
			if p.terminal() {
				o.Progress = func(task string, done, total int) {
					fmt.Fprintf(p.err, "\r%s %d/%d", task, done, total)
					if done == total {
						fmt.Fprint(p.err, "\r\x1b[K")
					}
				}
			}
			w, err := trainer.OpenWriter(g)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, w.Close()) }()
			r, err := evaluate.Run(cmd.Context(), w, o)
			if err != nil {
				return err
			}
			if asJSON {
				return p.json(r)
			}
			_, err = fmt.Fprint(p.out, r.Text())
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&g.Model, "model", "", "as in trainer generate")
	f.StringVar(&g.Adapter, "adapter", "", "directory of a LoRA adapter in PEFT's layout")
	f.StringVar(&o.Text, "text", "", "text whose perplexity is measured")
	f.StringVar(&o.Choices, "choices", "", "rows of questions with choices")
	f.StringVar(&o.Exact, "exact", "", "rows of prompts with answers")
	f.IntVar(&o.Limit, "limit", 0, "rows of a file, or tokens of a text; 0 = all")
	f.IntVar(&o.Context, "context", 0, "tokens of a window; 0 = the model's context, at most 2048")
	f.IntVar(&o.Stride, "stride", 0, "tokens between the starts of windows; 0 = no overlap")
	f.StringVar(&o.BOS, "bos", "auto", "begin every window with the BOS token: auto (as the tokenizer does), always, never")
	f.StringVar(&separator, "separator", " ", "between a question and a choice")
	f.StringVar(&o.Match, "match", evaluate.MatchExact, "how an answer is compared: exact, contains, number")
	f.IntVar(&g.MaxTokens, "max-tokens", 256, "most tokens of an answer")
	f.StringArrayVar(&g.Stop, "stop", nil, "text that ends an answer; may be given several times")
	f.IntVar(&g.Rows, "rows", 0, "answers written side by side (default 8)")
	f.StringVar(&g.Device, "device", "auto", "auto, cpu, cpu:threads=2")
	f.StringVar(&g.DType, "dtype", "auto", "compute dtype: auto, f32, bf16")
	f.StringVar(&g.Scheme, "quantize", "none", "quantize the linear layers while loading: none (as they are stored), nf4, fp4, int8")
	f.BoolVar(&asJSON, "json", false, "print JSON, with every row")
	if err := c.MarkFlagRequired("model"); err != nil {
		fmt.Fprintln(p.err, err)
	}
	return c
}
