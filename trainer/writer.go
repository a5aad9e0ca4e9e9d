package trainer

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/tokenizer"
)

// GenerateOptions says what to continue and how.
type GenerateOptions struct {
	Model     string // as in a configuration
	Adapter   string // directory of a LoRA adapter; "" = none
	Prompt    string // "" = start from the BOS token
	MaxTokens int
	Stop      []string // texts that end an answer; they are not part of it
	IgnoreEnd bool     // go on after the model's end-of-text tokens
	Sampling  Sampling
	Device    string // "" = auto
	Execution Execution
	DType     string // compute dtype; "" = auto
	Scheme    string // "none" (or ""), "nf4" or "fp4" for the linear layers
	Tables    string // see the field of ModelOptions: "f16", "bf16", "stored"; "" or "auto": 16 bits where Scheme quantizes the layers
	NoCache   bool   // compute every token from the whole text again
	Rows      int    // prompts that are continued side by side; 0 = 8
	Logger    *slog.Logger

	Adapters []NamedAdapter // further adapters; Writer.Use chooses among all of them, the first is in use until then
	Mixes    []AdapterMix   // adapters made of those; the last one is in use instead

	Template     string                     // chat template: a file or a built-in one; "" = the model's own
	TemplateVars map[string]json.RawMessage // further variables of it, as enable_thinking
	Roles        []string                   // of turns, beside those of data.UnknownRole: data.roles of the training
}

// Answer is what became of one prompt or conversation.
type Answer struct {
	Prompt       string  `json:"prompt"` // "" for a conversation
	Text         string  `json:"text"`
	PromptTokens int     `json:"prompt_tokens"`
	Reused       int     `json:"reused_tokens"` // those of the prompt that were computed for the text before
	Tokens       int     `json:"tokens"`        // generated ones, without the one that ended the text
	Finish       string  `json:"finish"`        // FinishEnd, FinishStop or FinishLength
	Adapter      string  `json:"adapter"`       // that wrote it, NoAdapter for none
	IDs          []int32 `json:"-"`             // the generated tokens
}

// Why an answer ended.
const (
	FinishEnd    = "end"    // the model ended it
	FinishStop   = "stop"   // a stop string occurred
	FinishLength = "length" // MaxTokens, or the context is full
)

// Generate continues o.Prompt and calls emit with each piece of new text, whole characters only. It ends at an end-of-text token, a stop string,
// at MaxTokens, or when the model's context is full.
func Generate(ctx context.Context, o GenerateOptions, emit func(text string) error) (err error) {
	w, err := OpenWriter(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	_, err = w.Continue(ctx, o.Prompt, emit)
	return err
}

func (o GenerateOptions) check() error {
	switch {
	case o.MaxTokens < 0:
		return badConfig("max-tokens", "is %d, expected 0 or more", o.MaxTokens)
	case slices.Contains(o.Stop, ""):
		return badConfig("stop", "is empty; every text would end before it begins")
	case o.Rows < 0:
		return badConfig("rows", "is %d, expected 1 or more", o.Rows)
	}
	return o.Sampling.Check()
}

// defaultRows is how many prompts are continued side by side unasked.
const defaultRows = 8

// Writer is a model opened for writing and scoring text. It keeps its plans and cache from call to call. Not for concurrent use.
type Writer struct {
	*textModel
	o   GenerateOptions
	gen *Generator // nil before the first text

	reserve int // least capacity of a generator of one row
	form    *chatForm
	scores  scorer
}

// OpenWriter opens the model and the adapter of o and loads the weights.
func OpenWriter(o GenerateOptions) (*Writer, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	s, err := openText(o)
	if err != nil {
		return nil, classify(err)
	}
	return &Writer{textModel: s, o: o}, nil
}

// Close frees everything.
func (w *Writer) Close() error {
	errs := append(w.scores.close(), w.endGenerator(), w.close())
	return errors.Join(errs...)
}

func (w *Writer) endGenerator() error {
	if w.gen == nil {
		return nil
	}
	err := w.gen.Close()
	w.gen = nil
	return err
}

// generator has at least so many rows and tokens. A larger one replaces a smaller one.
func (w *Writer) generator(rows, tokens int) (*Generator, error) {
	if rows == 1 {
		tokens = max(tokens, w.reserve)
	}
	tokens = min(tokens, w.model.Config().MaxPositions)
	if w.gen != nil && w.gen.rows == rows && w.gen.Capacity() >= tokens {
		return w.gen, nil
	}
	if err := w.endGenerator(); err != nil {
		return nil, err
	}
	gen, err := NewGenerator(w.model.Model, w.session, rows, bucket(tokens))
	if err != nil {
		return nil, err
	}
	gen.NoCache, gen.KeepPrefix, gen.log = w.o.NoCache, true, w.o.Logger
	w.gen = gen
	return gen, nil
}

// SetSampling changes how tokens are chosen from now on.
func (w *Writer) SetSampling(s Sampling) error {
	if err := s.Check(); err != nil {
		return err
	}
	w.o.Sampling = s
	return nil
}

// Suggested is the sampling that the model's makers suggest; see Model.Sampling.
func (w *Writer) Suggested() (s Sampling, ok bool, err error) { return w.model.Sampling() }

// Continue continues one text and calls emit with each piece of new text, whole characters only; an error of emit ends it.
func (w *Writer) Continue(ctx context.Context, prompt string, emit func(text string) error) (Answer, error) {
	return w.Answer(ctx, Query{Prompt: prompt}, emit)
}

// ContinueAll continues many texts, some side by side, and calls emit with each answer in the order of the prompts.
func (w *Writer) ContinueAll(ctx context.Context, prompts []string, emit func(a Answer) error) error {
	queries := make([]Query, len(prompts))
	for i, p := range prompts {
		queries[i].Prompt = p
	}
	return w.AnswerAll(ctx, queries, func(_ int, a Answer) error { return emit(a) })
}

// writing is one answer on its way.
type writing struct {
	answer *Answer
	emit   func(text string) error
	stream *tokenizer.Stream
	stop   stopper
	ends   []int32
	ended  bool
}

// write continues token sequences, each up to what ends it; emit gets the pieces of text of each row.
func (w *Writer) write(ctx context.Context, prompts []prompt, rows int, emit func(row int, text string) error) ([]Answer, error) {
	longest := 0
	texts, ids, answers := make([]*writing, len(prompts)), make([][]int32, len(prompts)), make([]Answer, len(prompts))
	for i, p := range prompts {
		longest = max(longest, len(p.ids))
		answers[i] = Answer{PromptTokens: len(p.ids), Adapter: w.Using(), Finish: FinishLength}
		ids[i], texts[i] = p.ids, &writing{answer: &answers[i], ends: p.ends, stop: stopper{stops: p.stops},
			emit:   func(text string) error { answers[i].Text += text; return emit(i, text) },
			stream: tokenizer.NewStream(w.model.Tokenizer, tokenizer.DecodeOptions{SkipSpecial: true})}
		for _, id := range p.ids {
			texts[i].stream.Push(id)
		}
	}
	gen, err := w.generator(rows, longest+min(max(w.o.MaxTokens, 1), w.model.Config().MaxPositions)+roomForBucket)
	if err != nil {
		return answers, classify(err)
	}
	var failed error
	err = gen.Generate(ctx, ids, w.o.MaxTokens, w.o.Sampling, func(row int, id int32) bool {
		more, err := texts[row].push(id)
		failed = errors.Join(failed, err)
		return more && failed == nil
	})
	for row, t := range texts {
		answers[row].Reused = gen.Reused(row)
		if failed == nil {
			failed = t.end(FinishLength)
		}
	}
	return answers, classify(errors.Join(err, failed))
}

// push takes the next token and says whether the text goes on.
func (t *writing) push(id int32) (more bool, err error) {
	t.answer.IDs = append(t.answer.IDs, id)
	if slices.Contains(t.ends, id) {
		return false, t.end(FinishEnd)
	}
	t.answer.Tokens++
	out, stopped := t.stop.push(t.stream.Push(id))
	if stopped {
		t.ended, t.answer.Finish = true, FinishStop
	}
	if out != "" {
		err = t.emit(out)
	}
	return !stopped, err
}

// end writes what was held back, unless that was done.
func (t *writing) end(finish string) error {
	if t.ended {
		return nil
	}
	t.ended = true
	out, stopped := t.stop.push(t.stream.Flush())
	if stopped {
		finish = FinishStop
	} else {
		out += t.stop.flush()
	}
	if t.answer.Finish = finish; out == "" {
		return nil
	}
	return t.emit(out)
}

// ends are the tokens that end a text.
func (w *Writer) ends() []int32 {
	if w.o.IgnoreEnd {
		return nil
	}
	ends := w.model.EOS()
	if bos, ok := w.model.BOS(); ok {
		ends = append(ends, bos) // a new text begins: this one is over
	}
	return ends
}
