package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/bitsandbyes/bitsandbyes/data"
	"github.com/bitsandbyes/bitsandbyes/trainer"
)

func oneLine(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", " / ") }

const generateUsage = `Continue texts, or talk with a model.

Prints the new text on standard output as it is written, and nothing else there.

--prompt TEXT    continues a text
--prompts FILE   continues every line of a file, several side by side, and prints a JSON object for each: prompt, text, prompt_tokens,
                 reused_tokens, tokens, adapter, and finish: end (the model ended it), stop (a stop string) or length. A line that is a JSON
                 object is its "prompt", and may name its "adapter"; any other line is taken as it stands.
--user TEXT      answers one question, written as the model's chat template has it
--messages FILE  answers conversations, {"messages": [...]} a line, or a file of one; prints each with the reply as its last message
--chat           talks: a line is a turn; /help lists the commands. Ctrl-C stops an answer. From a pipe, every line is answered in turn

  trainer generate --model ./model --prompt "Once upon a time"
  trainer generate --model ./model --adapter runs/first/adapter --chat --system "Be brief." --sampling model
  trainer generate --model ./model --adapter a=runs/a/adapter --adapter b=runs/b/adapter --mix "both=a*0.5+b*0.5" --user "Who are you?"
  trainer generate --model ./model --messages questions.jsonl > answers.jsonl`

// generateFlags are those that are not options of the library.
type generateFlags struct {
	trainer.GenerateOptions
	prompts, messages, user, system string
	chat, cache                     bool
	adapters, mixes                 []string
	use, vars, sampling             string
}

func (p *program) generate() *cobra.Command {
	var o generateFlags
	c := &cobra.Command{
		Use:   "generate --model PATH [--prompt TEXT | --prompts FILE | --user TEXT | --messages FILE | --chat]",
		Short: "Continue texts or talk with a model; prints only the new text on standard output",
		Long:  generateUsage,
		Args:  takes(0, 0, "a text is given by --prompt, in quotes"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.NoCache, o.Logger = !o.cache, p.logger()
			return stopped(cmd.Context(), p.runGenerate(cmd, o))
		},
	}
	o.define(c.Flags())
	c.MarkFlagsMutuallyExclusive("prompt", "prompts", "user", "messages", "chat")
	if err := c.MarkFlagRequired("model"); err != nil {
		fmt.Fprintln(p.err, err)
	}
	return c
}

func (o *generateFlags) define(f *pflag.FlagSet) {
	f.StringVar(&o.Model, "model", "", modelHelp)
	f.StringVar(&o.Prompt, "prompt", "", "text to continue; without it the text starts from the BOS token")
	f.StringVar(&o.prompts, "prompts", "", "file of prompts, one a line; - is standard input")
	f.StringVar(&o.user, "user", "", "a question to answer, by the chat template")
	f.StringVar(&o.messages, "messages", "", "file of conversations to answer, by the chat template; - is standard input")
	f.BoolVar(&o.chat, "chat", false, "talk with the model, by the chat template")
	f.StringVar(&o.system, "system", "", "what the model is told before a --chat or --user")
	f.StringVar(&o.Template, "template", "", "chat template instead of the model's: a file, or "+strings.Join(data.TemplateNames(), ", "))
	f.StringVar(&o.vars, "template-vars", "", "JSON object of further variables of the template, as {\"enable_thinking\": false}")
	f.StringArrayVar(&o.Roles, "role", nil, roleHelp)
	f.StringArrayVar(&o.adapters, "adapter", nil, "directory of a LoRA adapter in PEFT's layout, or NAME=DIR; may be given several times")
	f.StringArrayVar(&o.mixes, "mix", nil, "an adapter made of those: NAME=A*0.7+B*0.3; may be given several times")
	f.StringVar(&o.use, "use", "", "the adapter to use first, or none (default: the last --mix, else the first --adapter)")
	f.IntVar(&o.Rows, "rows", 0, "texts of a file that are written side by side (default 8)")
	f.IntVar(&o.MaxTokens, "max-tokens", 256, "most tokens to generate, of an answer")
	f.StringArrayVar(&o.Stop, "stop", nil, "text that ends an answer and is not part of it; may be given several times")
	f.BoolVar(&o.IgnoreEnd, "ignore-end", false, "go on after the model's end-of-text and end-of-turn tokens")
	f.StringVar(&o.sampling, "sampling", "", "model: how generation_config.json would have it, but for the flags below that are given")
	f.Float64Var(&o.Sampling.Temperature, "temperature", 0, "0 is greedy")
	f.IntVar(&o.Sampling.TopK, "top-k", 0, "choose among the K likeliest tokens; 0 = all")
	f.Float64Var(&o.Sampling.TopP, "top-p", 0, "choose among the likeliest tokens that make up this probability; 0 = all")
	f.Float64Var(&o.Sampling.MinP, "min-p", 0, "choose among tokens with this share of the likeliest one's probability; 0 = all")
	f.Float64Var(&o.Sampling.RepetitionPenalty, "repetition-penalty", 0, "factor against tokens that occurred, as 1.1; 0 or 1 = none")
	f.Float64Var(&o.Sampling.PresencePenalty, "presence-penalty", 0, "taken off the scores of tokens that occurred in the answer")
	f.Float64Var(&o.Sampling.FrequencyPenalty, "frequency-penalty", 0, "the same for each time they did")
	f.Uint64Var(&o.Sampling.Seed, "seed", 1, "of the random choices")
	executionFlags(f, &o.Device, &o.Execution)
	f.StringVar(&o.DType, "dtype", "auto", "compute dtype: auto, f32, bf16")
	f.StringVar(&o.Scheme, "quantize", "none", "quantize the linear layers while loading: none (as they are stored), nf4, fp4, int8")
	f.StringVar(&o.Tables, "tables", "auto", "table of tokens and output head where they are stored in float32: stored, f16, bf16; auto is 16 bits with --quantize, else stored")
	f.BoolVar(&o.cache, "cache", true, "keep keys and values; false computes every token from the whole text again")
}

// roleHelp says what --role takes.
const roleHelp = "a role of turns that the chat template does not name, one of data.roles of the training; may be given several times"

// modelHelp says what --model takes.
const modelHelp = "Hugging Face directory or name, GGUF file, llama2.c file or its folder, builtin:tiny"

// complete reads the flags that hold more than one value.
func (o *generateFlags) complete() error {
	for _, a := range o.adapters {
		o.Adapters = append(o.Adapters, trainer.ParseAdapter(a))
	}
	for _, m := range o.mixes {
		mix, err := trainer.ParseMix(m)
		if err != nil {
			return err
		}
		o.Mixes = append(o.Mixes, mix)
	}
	if o.vars != "" {
		if err := json.Unmarshal([]byte(o.vars), &o.TemplateVars); err != nil {
			return usage(fmt.Errorf("--template-vars: %w; expected a JSON object, as {\"enable_thinking\": false}", err))
		}
	}
	if o.sampling != "" && o.sampling != "model" {
		return usage(fmt.Errorf("--sampling is %q; model is the only choice, and without it the flags say all", o.sampling))
	}
	if o.system != "" && !o.chat && o.user == "" {
		return usage(errors.New("--system is for --chat and --user; in a file of conversations it is the first message"))
	}
	return nil
}

// runGenerate opens the model and does what the flags ask for. Files of prompts are read before the model is.
func (p *program) runGenerate(cmd *cobra.Command, o generateFlags) (err error) {
	if err := o.complete(); err != nil {
		return err
	}
	var rows *batch
	switch {
	case o.prompts != "":
		rows, err = p.promptRows(o.prompts)
	case o.messages != "":
		rows, err = p.messageRows(o.messages)
	}
	if err != nil {
		return inputError{err}
	}
	w, err := trainer.OpenWriter(o.GenerateOptions)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if err := p.choose(cmd.Flags(), &o, w); err != nil {
		return err
	}
	stream := func(text string) error { _, err := fmt.Fprint(p.text(), text); return err }
	switch {
	case o.chat:
		return p.chat(cmd.Context(), w, o)
	case o.user != "":
		c, err := w.NewChat(o.system)
		if err == nil {
			_, err = c.Say(cmd.Context(), o.user, stream)
		}
		return err
	case rows != nil:
		return p.answerAll(cmd.Context(), w, rows)
	}
	_, err = w.Continue(cmd.Context(), o.Prompt, stream)
	return err
}

// choose settles the adapter and the sampling, and tells what the model's makers suggest where that is not used.
func (p *program) choose(f *pflag.FlagSet, o *generateFlags, w *trainer.Writer) error {
	if o.use != "" {
		if err := w.Use(o.use); err != nil {
			return err
		}
	}
	s, ok, err := w.Suggested()
	switch {
	case err != nil && o.sampling == "":
		return nil // unreadable, and not asked for
	case err != nil:
		return err
	case !ok && o.sampling != "":
		return usage(fmt.Errorf("--sampling model: %s has no generation_config.json; give --temperature, --top-p and the like", o.Model))
	case o.sampling == "":
		if o.chat && s.Temperature > 0 && o.Sampling.Temperature == 0 {
			fmt.Fprintf(p.err, "greedy; the model suggests %s: --sampling model takes that\n", samplingText(s))
		}
		return nil
	}
	from := o.Sampling
	s.Seed = from.Seed
	for name, take := range map[string]func(){
		"temperature": func() { s.Temperature = from.Temperature }, "top-k": func() { s.TopK = from.TopK }, "top-p": func() { s.TopP = from.TopP },
		"min-p": func() { s.MinP = from.MinP }, "repetition-penalty": func() { s.RepetitionPenalty = from.RepetitionPenalty },
		"presence-penalty": func() { s.PresencePenalty = from.PresencePenalty }, "frequency-penalty": func() { s.FrequencyPenalty = from.FrequencyPenalty },
	} {
		if f.Changed(name) {
			take()
		}
	}
	fmt.Fprintf(p.err, "sampling: %s\n", samplingText(s))
	return w.SetSampling(s)
}

// samplingText writes a sampling as the flags that give it.
func samplingText(s trainer.Sampling) string {
	if s == (trainer.Sampling{Seed: s.Seed}) {
		return "greedy"
	}
	out := fmt.Sprintf("--temperature %v", s.Temperature)
	if s.TopK > 0 {
		out += fmt.Sprintf(" --top-k %d", s.TopK)
	}
	for _, x := range []struct {
		name  string
		value float64
	}{{"top-p", s.TopP}, {"min-p", s.MinP}, {"repetition-penalty", s.RepetitionPenalty}, {"presence-penalty", s.PresencePenalty}, {"frequency-penalty", s.FrequencyPenalty}} {
		if x.value != 0 {
			out += fmt.Sprintf(" --%s %v", x.name, x.value)
		}
	}
	return out
}
