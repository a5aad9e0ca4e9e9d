package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/evaluate"
)

const evalUsage = `Measure a model on files.

--text FILE      perplexity of a text (or .gz) in windows of --context tokens that begin --stride tokens apart; every token counts once
--messages FILE  perplexity of the replies in conversations: the tokens that training with data.mask=assistant would train
--choices FILE   multiple choice: JSON lines of a question, choices and the right one; by likelihood, and by likelihood a byte
--exact FILE     JSON lines of prompts and answers: how often the greedy answer is right; --match contains or number compare less strictly

--chat writes questions and prompts by the chat template; --shots N --shots-from FILE puts N examples with their answers before each.
--compare-base measures the adapter and the model without it, and the difference row by row with its standard error.
docs/guides/evaluate.md has the forms of the rows, which are those of common data sets.

  trainer eval --model ./model --text wikitext.txt --context 2048 --stride 512
  trainer eval --model ./model --adapter runs/first/adapter --messages held_out.jsonl --compare-base
  trainer eval --model ./model --chat --exact gsm8k.jsonl --match number --shots 4 --shots-from train.jsonl --rows-out rows.jsonl`

// evalFlags are the options of evaluate and of the writer, and what is done with the result.
type evalFlags struct {
	evaluate.Options
	writer       trainer.GenerateOptions
	separator    string
	rowsOut      string
	json, paired bool
}

func (p *program) eval() *cobra.Command {
	var o evalFlags
	c := &cobra.Command{
		Use:   "eval --model PATH [--text FILE] [--messages FILE] [--choices FILE] [--exact FILE]",
		Short: "Measure a model: perplexity of texts and replies, multiple choice by likelihood, exact answers",
		Long:  evalUsage,
		Args:  takes(0, 0, "files are given by --text, --messages, --choices or --exact"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("separator") {
				o.Separator = &o.separator
			}
			return stopped(cmd.Context(), p.runEval(cmd, &o))
		},
	}
	o.define(c.Flags())
	if err := c.MarkFlagRequired("model"); err != nil {
		fmt.Fprintln(p.err, err)
	}
	return c
}

func (o *evalFlags) define(f *pflag.FlagSet) {
	f.StringVar(&o.writer.Model, "model", "", modelHelp)
	f.Var(&once{to: &o.writer.Adapter, why: "one adapter is measured at a time"}, "adapter", "directory of a LoRA adapter in PEFT's layout")
	f.StringVar(&o.Text, "text", "", "text whose perplexity is measured")
	f.StringVar(&o.Messages, "messages", "", "file or pattern of conversations, in any form that training reads")
	f.StringVar(&o.Choices, "choices", "", "rows of questions with choices")
	f.StringVar(&o.Exact, "exact", "", "rows of prompts with answers")
	f.IntVar(&o.Limit, "limit", 0, "rows of a file, or tokens of a text; 0 = all")
	f.IntVar(&o.Context, "context", 0, "tokens of a window, or at most of a conversation; 0 = the model's context, at most 2048")
	f.IntVar(&o.Stride, "stride", 0, "tokens between the starts of windows; 0 = no overlap")
	f.StringVar(&o.BOS, "bos", "auto", "begin every window with the BOS token: auto (as the tokenizer does), always, never")
	f.BoolVar(&o.Chat, "chat", false, "write questions and prompts by the chat template, as a user's turn")
	f.StringVar(&o.System, "system", "", "what the model is told before a question of --chat")
	f.StringVar(&o.Template, "template", "", "chat template instead of the model's: a file, or "+strings.Join(data.TemplateNames(), ", "))
	f.StringArrayVar(&o.writer.Roles, "role", nil, roleHelp)
	f.IntVar(&o.Shots, "shots", 0, "examples with their answers before each question")
	f.StringVar(&o.ShotsFrom, "shots-from", "", "file of the examples, of the same form as the questions'")
	f.StringVar(&o.separator, "separator", " ", "between a question and a choice, and between the parts of an example (default with --chat: nothing)")
	f.StringVar(&o.Match, "match", evaluate.MatchExact, "how an answer is compared: exact, contains, number")
	f.BoolVar(&o.paired, "compare-base", false, "measure the model without the adapter too, and compare row by row")
	f.StringVar(&o.rowsOut, "rows-out", "", "file for the result of every row, one JSON object a line")
	f.IntVar(&o.writer.MaxTokens, "max-tokens", 256, "most tokens of an answer")
	f.StringArrayVar(&o.writer.Stop, "stop", nil, "text that ends an answer; may be given several times")
	f.IntVar(&o.writer.Rows, "rows", 0, "answers written side by side (default 8)")
	executionFlags(f, &o.writer.Device, &o.writer.Execution)
	f.StringVar(&o.writer.DType, "dtype", "auto", "compute dtype: auto, f32, bf16")
	f.StringVar(&o.writer.Scheme, "quantize", "none", "quantize the linear layers while loading: none (as they are stored), nf4, fp4, int8")
	f.BoolVar(&o.json, "json", false, "print JSON, with every row")
}

// evalResult is a result or a comparison.
type evalResult interface {
	Text() string
	WriteRows(w io.Writer) error
}

// alone is a result without a comparison.
type alone struct {
	*evaluate.Result
	adapter string
}

// WriteRows writes the rows with the adapter's name.
func (a alone) WriteRows(w io.Writer) error { return a.Result.WriteRows(w, a.adapter) }

func (p *program) runEval(cmd *cobra.Command, o *evalFlags) (err error) {
	if err := o.Check(); err != nil {
		return err
	}
	if o.paired && o.writer.Adapter == "" {
		return usage(errors.New("--compare-base compares an adapter with the model without it; give --adapter"))
	}
	o.writer.Logger, o.writer.Template = p.logger(), o.Template
	if p.terminal() {
		o.Progress = func(task string, done, total int) {
			fmt.Fprintf(p.err, "\r%s %d/%d", task, done, total)
			if done == total {
				fmt.Fprint(p.err, "\r\x1b[K")
			}
		}
	}
	w, err := trainer.OpenWriter(o.writer)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	var found evalResult
	var print any
	if o.paired {
		r, err := evaluate.Compare(cmd.Context(), w, o.Options)
		if err != nil {
			return err
		}
		found, print = r, r
	} else {
		r, err := evaluate.Run(cmd.Context(), w, o.Options)
		if err != nil {
			return err
		}
		found, print = alone{r, w.Using()}, r
	}
	if err := writeRows(o.rowsOut, found); err != nil {
		return err
	}
	if o.json {
		return p.json(print)
	}
	_, err = fmt.Fprint(p.out, found.Text())
	return err
}

// writeRows writes the rows to a file, whole or not at all.
func writeRows(name string, r evalResult) error {
	if name == "" {
		return nil
	}
	var b bytes.Buffer
	if err := r.WriteRows(&b); err != nil {
		return err
	}
	if err := vfs.WriteAtomic(vfs.OS{}, name, b.Bytes()); err != nil {
		return diskError{err}
	}
	return nil
}
