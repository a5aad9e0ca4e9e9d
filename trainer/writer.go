package trainer

import (
	"context"
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
	DType     string // compute dtype; "" = auto
	Scheme    string // "none" (or ""), "nf4" or "fp4" for the linear layers
	NoCache   bool   // compute every token from the whole text again
	Rows      int    // prompts that are continued side by side; 0 = 8
	Logger    *slog.Logger
}

// Answer is what became of one prompt.
type Answer struct {
	Prompt       string `json:"prompt"`
	Text         string `json:"text"`
	PromptTokens int    `json:"prompt_tokens"`
	Tokens       int    `json:"tokens"` // generated ones, without the one that ended the text
	Finish       string `json:"finish"` // FinishEnd, FinishStop or FinishLength
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

	scores scorer
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
	gen.NoCache, gen.KeepPrefix = w.o.NoCache, true
	w.gen = gen
	return gen, nil
}

// Continue continues one text and calls emit with each piece of new text, whole characters only; an error of emit ends it.
func (w *Writer) Continue(ctx context.Context, prompt string, emit func(text string) error) (Answer, error) {
	ids, err := w.prompt(prompt)
	if err != nil {
		return Answer{}, err
	}
	a := Answer{Prompt: prompt, PromptTokens: len(ids)}
	err = w.write(ctx, [][]int32{ids}, 1, func(_ int, text string) error {
		a.Text += text
		return emit(text)
	}, func(_, tokens int, finish string) { a.Tokens, a.Finish = tokens, finish })
	return a, err
}

// ContinueAll continues many texts, some side by side, and calls emit with each answer in the order of the prompts.
func (w *Writer) ContinueAll(ctx context.Context, prompts []string, emit func(a Answer) error) error {
	rows := w.o.Rows
	if rows == 0 {
		rows = defaultRows
	}
	rows = min(rows, max(len(prompts), 1))
	for part := range slices.Chunk(prompts, rows) {
		ids, answers := make([][]int32, len(part)), make([]Answer, len(part))
		for i, p := range part {
			var err error
			if ids[i], err = w.prompt(p); err != nil {
				return err
			}
			answers[i] = Answer{Prompt: p, PromptTokens: len(ids[i])}
		}
		err := w.write(ctx, ids, rows, func(i int, text string) error { answers[i].Text += text; return nil },
			func(i, tokens int, finish string) { answers[i].Tokens, answers[i].Finish = tokens, finish })
		if err != nil {
			return err
		}
		for _, a := range answers {
			if err := emit(a); err != nil {
				return err
			}
		}
	}
	return nil
}

// writing is one answer on its way.
type writing struct {
	stream *tokenizer.Stream
	stop   stopper
	tokens int
	ended  bool
}

// write continues token sequences. emit gets the pieces of text of each row, ended is called once a row.
func (w *Writer) write(ctx context.Context, prompts [][]int32, rows int, emit func(row int, text string) error, ended func(row, tokens int, finish string)) error {
	longest := 0
	texts := make([]*writing, len(prompts))
	for i, ids := range prompts {
		longest = max(longest, len(ids))
		texts[i] = &writing{stream: tokenizer.NewStream(w.model.Tokenizer, tokenizer.DecodeOptions{SkipSpecial: true}), stop: stopper{stops: w.o.Stop}}
		for _, id := range ids {
			texts[i].stream.Push(id)
		}
	}
	gen, err := w.generator(rows, longest+min(max(w.o.MaxTokens, 1), w.model.Config().MaxPositions)+roomForBucket)
	if err != nil {
		return err
	}
	ends := w.ends()
	var failed error
	err = gen.Generate(ctx, prompts, w.o.MaxTokens, w.o.Sampling, func(row int, id int32) bool {
		t := texts[row]
		if slices.Contains(ends, id) {
			failed = errors.Join(failed, t.end(row, FinishEnd, emit, ended))
			return false
		}
		t.tokens++
		out, stopped := t.stop.push(t.stream.Push(id))
		if out != "" {
			failed = errors.Join(failed, emit(row, out))
		}
		if stopped {
			t.ended = true
			ended(row, t.tokens, FinishStop)
		}
		return failed == nil && !stopped
	})
	for row, t := range texts {
		if err == nil && failed == nil {
			failed = t.end(row, FinishLength, emit, ended)
		}
	}
	return classify(errors.Join(err, failed))
}

// end writes what was held back and reports the end, unless that was done.
func (t *writing) end(row int, finish string, emit func(row int, text string) error, ended func(row, tokens int, finish string)) error {
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
	ended(row, t.tokens, finish)
	if out == "" {
		return nil
	}
	return emit(row, out)
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
