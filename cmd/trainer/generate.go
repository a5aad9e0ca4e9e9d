package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/bitsandbyes/bitsandbyes/internal/vfs"
	"github.com/bitsandbyes/bitsandbyes/trainer"
)

func oneLine(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", " / ") }

const generateUsage = `Continue texts.

Prints the new text on standard output as it is written, and nothing else there. With --prompts, continues every line of a file, several side by
side, and prints a JSON object for each: prompt, text, prompt_tokens, tokens, and finish: end (the model ended it), stop (a stop string) or
length. A line that is a JSON object is its "prompt"; any other line is taken as it stands.

  trainer generate --model ./model --prompt "Once upon a time"
  trainer generate --model ./model --adapter runs/first/adapter --prompt "Q: 2+2?\nA:" --stop "\n" --temperature 0.7 --top-p 0.9
  trainer generate --model ./model --prompts questions.txt > answers.jsonl`

// generateFlags are those that are not options of the library.
type generateFlags struct {
	trainer.GenerateOptions
	prompts string
	cache   bool
}

func (p *program) generate() *cobra.Command {
	var o generateFlags
	c := &cobra.Command{
		Use:   "generate --model PATH [--prompt TEXT | --prompts FILE]",
		Short: "Continue texts; prints only the new text on standard output",
		Long:  generateUsage,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.NoCache, o.Logger = !o.cache, p.logger()
			if o.prompts != "" {
				return p.generateAll(cmd.Context(), o)
			}
			return trainer.Generate(cmd.Context(), o.GenerateOptions, func(text string) error {
				_, err := fmt.Fprint(p.out, text)
				return err
			})
		},
	}
	o.define(c.Flags())
	c.MarkFlagsMutuallyExclusive("prompt", "prompts")
	if err := c.MarkFlagRequired("model"); err != nil {
		fmt.Fprintln(p.err, err)
	}
	return c
}

func (o *generateFlags) define(f *pflag.FlagSet) {
	f.StringVar(&o.Model, "model", "", "builtin:tiny, a Hugging Face directory or name, a GGUF file, a llama2.c file or its folder")
	f.StringVar(&o.Adapter, "adapter", "", "directory of a LoRA adapter in PEFT's layout")
	f.StringVar(&o.Prompt, "prompt", "", "text to continue; without it the text starts from the BOS token")
	f.StringVar(&o.prompts, "prompts", "", "file of prompts, one a line; - is standard input")
	f.IntVar(&o.Rows, "rows", 0, "prompts of a file that are continued side by side (default 8)")
	f.IntVar(&o.MaxTokens, "max-tokens", 256, "most tokens to generate")
	f.StringArrayVar(&o.Stop, "stop", nil, "text that ends an answer and is not part of it; may be given several times")
	f.BoolVar(&o.IgnoreEnd, "ignore-end", false, "go on after the model's end-of-text tokens")
	f.Float64Var(&o.Sampling.Temperature, "temperature", 0, "0 is greedy")
	f.IntVar(&o.Sampling.TopK, "top-k", 0, "choose among the K likeliest tokens; 0 = all")
	f.Float64Var(&o.Sampling.TopP, "top-p", 0, "choose among the likeliest tokens that make up this probability; 0 = all")
	f.Float64Var(&o.Sampling.MinP, "min-p", 0, "choose among tokens with this share of the likeliest one's probability; 0 = all")
	f.Float64Var(&o.Sampling.RepetitionPenalty, "repetition-penalty", 0, "factor against tokens that occurred, as 1.1; 0 or 1 = none")
	f.Float64Var(&o.Sampling.PresencePenalty, "presence-penalty", 0, "taken off the scores of tokens that occurred in the answer")
	f.Float64Var(&o.Sampling.FrequencyPenalty, "frequency-penalty", 0, "the same for each time they did")
	f.Uint64Var(&o.Sampling.Seed, "seed", 1, "of the random choices")
	f.StringVar(&o.Device, "device", "auto", "auto, cpu, cpu:threads=2")
	f.StringVar(&o.DType, "dtype", "auto", "compute dtype: auto, f32, bf16")
	f.StringVar(&o.Scheme, "quantize", "none", "quantize the linear layers while loading: none (as they are stored), nf4, fp4, int8")
	f.BoolVar(&o.cache, "cache", true, "keep keys and values; false computes every token from the whole text again")
}

// maxPrompts bounds a file of prompts.
const maxPrompts = 1 << 30

// generateAll continues every line of a file.
func (p *program) generateAll(ctx context.Context, o generateFlags) (err error) {
	raw, err := p.readPrompts(o.prompts)
	if err != nil {
		return inputError{err}
	}
	prompts, err := promptsOf(o.prompts, raw)
	if err != nil {
		return inputError{err}
	}
	w, err := trainer.OpenWriter(o.GenerateOptions)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(p.out)
	enc.SetEscapeHTML(false)
	err = w.ContinueAll(ctx, prompts, func(a trainer.Answer) error { return enc.Encode(a) })
	if e := w.Close(); err == nil {
		err = e
	}
	return err
}

// readPrompts reads a file, or standard input for "-".
func (p *program) readPrompts(name string) ([]byte, error) {
	if name != "-" {
		return vfs.ReadFile(vfs.OS{}, name, maxPrompts)
	}
	raw, err := io.ReadAll(io.LimitReader(p.in, maxPrompts+1))
	if err == nil && len(raw) > maxPrompts {
		err = fmt.Errorf("standard input has more than %d bytes of prompts; give them in parts", maxPrompts)
	}
	return raw, err
}

// promptsOf reads one prompt a line; empty lines are left out.
func promptsOf(name string, raw []byte) (prompts []string, err error) {
	sc := bufio.NewScanner(bytes.NewReader(raw))
	sc.Buffer(nil, len(raw)+1)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSuffix(sc.Text(), "\r")
		if strings.TrimSpace(line) == "" {
			continue
		}
		var row struct{ Prompt *string }
		if strings.HasPrefix(line, "{") && json.Valid([]byte(line)) {
			if err := json.Unmarshal([]byte(line), &row); err != nil || row.Prompt == nil {
				return nil, fmt.Errorf("%s:%d: this JSON object has no text under \"prompt\"; write {\"prompt\": \"...\"}, or the prompt as it is", name, n)
			}
			line = *row.Prompt
		}
		prompts = append(prompts, line)
	}
	if len(prompts) == 0 {
		return nil, fmt.Errorf("%s: holds no prompt; write one a line", name)
	}
	return prompts, sc.Err()
}
